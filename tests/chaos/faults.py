"""A small language of faults: `kill(worker=1, at_step=7)`, `cut(node=b, seconds=20)`, `kill(head)`.

A verb, what it befalls, and when. `seconds`, or `until_step`, is how long a fault lasts: then the
dead host is replaced, the cable is back, the disk has room again.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

ANYWHERE = {"at_step": int}
LASTING = {**ANYWHERE, "seconds": float, "until_step": int}

VERBS: dict[str, dict[str, dict[str, type]]] = {
    "kill": {"worker": ANYWHERE, "driver": ANYWHERE, "node": LASTING, "head": LASTING},
    "sigterm": {"driver": ANYWHERE, "node": LASTING},
    "drain": {"node": LASTING},
    "cut": {"node": LASTING},
    "slow": {"link": {**LASTING, "delay_ms": float, "mbit": float}},
    "fill": {"disk": LASTING},
    "stop": {"tracking": LASTING},
    "corrupt": {"shard": ANYWHERE, "checkpoint": ANYWHERE},
}
"""What each verb may befall, and what may be said of it."""

NAMED = {"worker": int, "node": str, "link": str}
"""What there are several of: it is told which."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    text: str
    """As it was written."""
    verb: str
    what: str
    which: str | int | None
    """The rank of a worker, the name of a host; None for what there is one of."""
    at_step: int | None
    """The recorded step that it waits for; None: as soon as there is a run."""
    seconds: float | None
    """How long it lasts; None: for ever, or `until_step`."""
    until_step: int | None = None
    """It lasts until this step is recorded."""
    delay_ms: float | None = None
    mbit: float | None = None

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> Fault:
    """A fault from its text.

    Raises:
        ValueError: if it is none; the message tells what would be.
    """
    verb, plain, named = _call(text)
    if verb not in VERBS:
        raise ValueError(f"{text}: no fault named {verb!r}: take one of {', '.join(VERBS)}")
    befalls = VERBS[verb]
    what = plain or next((name for name in named if name in NAMED), None)
    if what not in befalls or (plain is not None) == (what in NAMED):
        told = [f"{name}=…" if name in NAMED else name for name in befalls]
        raise ValueError(f"{text}: {verb} befalls {' or '.join(told)}")
    which = named.pop(what, None)
    allowed = befalls[what]
    for name, value in named.items():
        if name not in allowed or not isinstance(value, int | allowed[name]):
            told = ", ".join(f"{n} (a number)" for n in allowed)
            raise ValueError(f"{text}: {name}={value}: {verb}({what}) takes {told}")
    if what in NAMED and not isinstance(which, NAMED[what]):
        raise ValueError(f"{text}: {what} is {'a rank' if what == 'worker' else 'a name'}")
    return Fault(
        text, verb, what, which, named.pop("at_step", None), named.pop("seconds", None), **named
    )


def _call(text: str) -> tuple[str, str | None, dict[str, object]]:
    """A verb, its word without a name, and its words with one."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{text}: not VERB(WHAT, KEY=VALUE…): {error.msg}") from error
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or len(call.args) > 1:
        raise ValueError(f"{text}: not VERB(WHAT, KEY=VALUE…)")
    plain = _value(call.args[0], text) if call.args else None
    if plain is not None and not isinstance(plain, str):
        raise ValueError(f"{text}: {plain} is no name")
    named = {word.arg: _value(word.value, text) for word in call.keywords if word.arg}
    return call.func.id, plain, named


def _value(node: ast.expr, text: str) -> str | int | float:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    raise ValueError(f"{text}: {ast.unparse(node)} is neither a name nor a number")
