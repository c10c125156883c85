"""The one Java process behind METEOR and the PTB tokenizer, started once and kept alive."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

PROGRAM = Path(__file__).with_name("text_metrics.java")
JARS = ("meteor/meteor-1.5.jar", "tokenizer/stanford-corenlp-3.4.1.jar")
"""Where pycocoevalcap has them."""


class JavaMissingError(Exception):
    """There is no Java to run the metrics with; the message says what to do."""


class TextMetrics:
    """The PTB tokenizer and METEOR 1.5, as pycocoevalcap runs them, in one process.

    A context manager: the process ends with the block.

    Raises:
        JavaMissingError: if there is no Java, or one that cannot run the program.
    """

    def __init__(self) -> None:
        java = shutil.which("java")
        if java is None:
            raise JavaMissingError(
                "METEOR and the PTB tokenizer run in Java, which is not installed: install a JDK of"
                " version 11 or newer (Debian: openjdk-17-jdk-headless)"
            )
        folder = _pycocoevalcap()
        path = os.pathsep.join(str(folder / jar) for jar in JARS)
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self._process = subprocess.Popen(
            [java, "-Xmx2G", "-XX:+UseSerialGC", "-cp", path, str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._complaints.close()

    def tokenize(self, texts: Sequence[str]) -> list[str]:
        """Lower-case tokens of each text, with blanks between them."""
        return self._ask("tokenize", [" ".join(text.split()) for text in texts], len(texts))

    def meteor(
        self, candidates: Sequence[str], references: Sequence[Sequence[str]]
    ) -> tuple[float, list[float]]:
        """METEOR of tokenized candidates, each beside its tokenized references.

        Returns:
            The score of all together, and that of each, from 0 to 1.
        """
        lines = ["\t".join(pair) for pair in _pairs(candidates, references)]
        *each, whole = map(float, self._ask("meteor", lines, len(lines) + 1))
        return whole, each

    def _ask(self, what: str, lines: Sequence[str], answers: int) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = "\n".join([f"{what} {len(lines)}", *lines, ""])
        try:
            self._process.stdin.write(request.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        answered = [self._process.stdout.readline().decode() for _ in range(answers)]
        if not all(answered):
            raise self._failure()
        return [line.rstrip("\n") for line in answered]

    def _failure(self) -> JavaMissingError:
        self._process.wait()
        self._complaints.seek(0)
        words = self._complaints.read().decode(errors="replace").strip().splitlines()
        return JavaMissingError(
            f"the Java process of METEOR and the PTB tokenizer ended ({' '.join(words[-2:])}):"
            " install a JDK of version 11 or newer, not only a runtime"
        )


def _pairs(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[each, *own] for each, own in zip(candidates, references, strict=True)]


def _pycocoevalcap() -> Path:
    package = find_spec("pycocoevalcap")
    assert package is not None
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0])
