"""Pickles of plain data only: lists, dictionaries, texts and numbers; nothing in them can run.

RefCOCO's references are published as a pickle. A pickle is a program, so this one is read twice:
first its instructions are listed without running any, and every instruction that names, makes or
calls something refuses the file; then the unpickler runs the rest, and admits no class either.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any, NoReturn

PLAIN = """
PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE
INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
"""
ADMITTED = frozenset(PLAIN.split())
"""The instructions that build plain data, and those that remember and reuse it."""
INSTRUCTIONS = {each.code: each for each in pickletools.opcodes}
BROKEN = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
)
"""What the unpickler raises for instructions that do not fit together."""
MEMO_SLOTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


def load_plain(data: bytes) -> Any:
    """What a pickle of plain data holds.

    The byte texts of Python 2 are read as UTF-8, or all as Latin-1 where one is not UTF-8.

    Raises:
        ValueError: if the pickle is broken, or asks for anything but plain data.
    """
    try:
        _check_instructions(data)
        return _load(data)
    except BROKEN as error:
        raise ValueError(f"the pickle cannot be read: {error}") from error


def _load(data: bytes) -> Any:
    try:
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
    except UnicodeDecodeError:
        return _PlainUnpickler(io.BytesIO(data), encoding="latin-1").load()


def _check_instructions(data: bytes) -> None:
    """List the instructions without running them; lengths are checked against the data thereby."""
    stream, number = io.BytesIO(data), 0
    while (code := stream.read(1)) != pickle.STOP:
        number += 1
        instruction = INSTRUCTIONS.get(code.decode("latin-1"))
        if instruction is None:
            raise ValueError(f"its instruction {number} is {code!r}")
        if instruction.name not in ADMITTED:
            raise ValueError(
                f"it asks for more than plain data, which may run code (its instruction {number} is"
                f" {instruction.name})"
            )
        argument = _argument(instruction, stream)
        # The unpickler sets aside memory up to the largest slot.
        if instruction.name in MEMO_SLOTS and not 0 <= argument <= number:
            raise ValueError(f"it remembers at most {number} things, one in place {argument}")


def _argument(instruction: pickletools.OpcodeInfo, stream: io.BytesIO) -> Any:
    if instruction.arg is None:
        return None
    # The library's reader takes such a line for ASCII, which Python 2 does not promise.
    if instruction.name == "STRING":
        return stream.readline()
    return instruction.arg.reader(stream)


class _PlainUnpickler(pickle.Unpickler):
    """The second wall: no class, no function, no reference to anything outside."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"it refers to {pid!r} outside")
