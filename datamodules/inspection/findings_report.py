"""What a verification found: in a terminal, as JSON, and as lists to act on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import orjson
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from datamodules.inspection.findings import Finding, Kind
from datamodules.inspection.verification import Verification
from datamodules.storage import Location, child, make_folder, write_bytes

REPORT_NAME = "report.json"
QUARANTINE_NAME = "quarantine.jsonl"
SHOWN = 3
"""Findings of a kind that the terminal shows."""


def write_findings(verification: Verification, out: Location) -> None:
    """Write `report.json`, and `quarantine.jsonl` with a line for each sample that training skips.

    Raises:
        OSError: if the folder cannot be written to.
    """
    make_folder(out)
    report = orjson.dumps(verification.as_dict(), option=orjson.OPT_INDENT_2)
    write_bytes(out / REPORT_NAME, report + b"\n")
    bad = (orjson.dumps(record._asdict()) for record in verification.tally.bad)
    write_bytes(out / QUARANTINE_NAME, _lines(bad))


def write_repair_list(verification: Verification, file: Location) -> None:
    """Write the shards to fetch or to make again, one path or URL a line.

    Raises:
        OSError: if the file cannot be written.
    """
    write_bytes(file, _lines(shard.encode() for shard in verification.tally.damaged))


def _lines(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def print_findings(verification: Verification, console: Console) -> None:
    """A line for what was checked, and the findings by kind, with examples."""
    tally = verification.tally
    checked = f"{verification.shards:,} shards, {tally.samples:,} samples"
    pixels = ", images not decoded" if verification.fast else ""
    console.print(Text(f"{verification.path}: {checked}{pixels}", "bold"), soft_wrap=True)
    if not tally.findings:
        console.print("nothing found", style="green")
        return
    for kind in tally.kinds():
        _print_kind(kind, tally.counts[kind], tally.examples[kind], console)
    bad, damaged = len(tally.bad), len(tally.damaged)
    console.print(
        f"{bad:,} of {tally.samples:,} samples would be skipped in training;"
        f" {damaged:,} of {verification.shards:,} shards are damaged"
    )


def _print_kind(kind: Kind, count: int, examples: list[Finding], console: Console) -> None:
    """How many there are, what they mean, and the first of them."""
    named = ("bad", "red") if kind.is_bad else ("suspicious", "yellow")
    console.print(Text.assemble(f"{count:7,}  ", named, f"  {kind}: {kind.meaning}"))
    for finding in examples[:SHOWN]:
        story = Text.assemble((_place(finding), "cyan"), (f" {finding.detail}", "dim"))
        console.print(Padding(story, (0, 0, 0, 9)))


def _place(finding: Finding) -> str:
    region = f" region {finding.region}" if finding.region is not None else ""
    key = f"/{finding.key}" if finding.key else ""
    return f"{child(Path(finding.part), finding.shard or '')}{key}{region}:"
