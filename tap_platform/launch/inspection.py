"""Look at a data set, or check it: what is shown meanwhile, and where the results go."""

from __future__ import annotations

import io
from contextlib import nullcontext

import orjson
from rich.console import Console

from datamodules.inspection.contact_sheet import contact_sheet
from datamodules.inspection.data_set import open_parts, with_priors
from datamodules.inspection.findings_report import (
    QUARANTINE_NAME,
    REPORT_NAME,
    print_findings,
    write_findings,
    write_repair_list,
)
from datamodules.inspection.report import print_statistics
from datamodules.inspection.statistics import gather
from datamodules.inspection.verification import verify
from datamodules.storage import location, make_folder, write_bytes
from tap_platform.launch.count_bar import count_bar
from tap_platform.launch.ray_session import joined_ray

STATISTICS_NAME = "statistics.json"
SHEET_NAME = "contact_sheet.png"


def inspect_data(
    path: str, priors: str | None, samples: int | None, pictures: int, out: str, as_json: bool
) -> None:
    """Tell what is in a data set, and draw some of its samples.

    Args:
        path: folder with `train/` and `val/`, or a folder of shards; a path or URL.
        priors: sidecar folder with the priors.
        samples: annotations to read, spread over the data set; None reads every one.
        pictures: samples to draw; 0 draws none.
        out: folder for `statistics.json` and `contact_sheet.png`.
        as_json: print the statistics as JSON instead of drawing them.

    Raises:
        ValueError: if the data set is missing, broken or empty.
    """
    parts = open_parts(path)
    if priors is not None:
        parts = tuple(with_priors(part, priors) for part in parts)
    with count_bar("annotations") as show:
        statistics = gather(path, parts, samples, show)
    record = orjson.dumps(statistics.as_dict(), option=orjson.OPT_INDENT_2) + b"\n"
    folder = location(out)
    make_folder(folder)
    write_bytes(folder / STATISTICS_NAME, record)
    if pictures:
        picture = io.BytesIO()
        contact_sheet(path, parts, pictures).save(picture, "PNG")
        write_bytes(folder / SHEET_NAME, picture.getvalue())
    console = Console()
    if as_json:
        console.file.write(record.decode())
        return
    print_statistics(statistics, console)
    names = [STATISTICS_NAME, SHEET_NAME][: 2 if pictures else 1]
    console.print(f"written: {', '.join(str(folder / name) for name in names)}", soft_wrap=True)


def verify_data(
    path: str,
    priors: str | None,
    vocabulary: str | None,
    fast: bool,
    workers: int,
    out: str,
    repair_list: str | None,
    as_json: bool,
    strict: bool,
) -> bool:
    """Check every shard and sample of a data set.

    Args:
        path: folder with `train/` and `val/`, or a folder of shards; a path or URL.
        priors: sidecar folder with the priors, checked with it.
        vocabulary: file of the concepts; None takes the one that training would take.
        fast: leave images undecoded.
        workers: Ray Data tasks at work at once; 0 checks in this process.
        out: folder for `report.json` and `quarantine.jsonl`.
        repair_list: file for the damaged shards, one a line; None writes none.
        as_json: print the report as JSON instead of a table.
        strict: call a data set unsound for what is only suspicious, too.

    Returns:
        Whether the data set is sound.

    Raises:
        ValueError: if the data set cannot be opened.
    """
    with (
        joined_ray(workers + 1) if workers else nullcontext(),
        count_bar("samples checked") as show,
    ):
        found = verify(
            path, priors=priors, vocabulary=vocabulary, fast=fast, workers=workers, show=show
        )
    folder = location(out)
    write_findings(found, folder)
    if repair_list is not None:
        write_repair_list(found, location(repair_list))
    console = Console()
    if as_json:
        console.file.write(orjson.dumps(found.as_dict(), option=orjson.OPT_INDENT_2).decode())
        console.file.write("\n")
    else:
        print_findings(found, console)
        names = (REPORT_NAME, QUARANTINE_NAME)
        told = ", ".join(str(folder / name) for name in names)
        console.print(f"written: {told}", soft_wrap=True)
    return not found.tally.findings if strict else found.tally.is_sound
