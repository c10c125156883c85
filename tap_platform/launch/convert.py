"""Re-encode a data set at a smaller size, and tell what it saves."""

from __future__ import annotations

from contextlib import nullcontext

from rich.console import Console

from datamodules.importers.convert import KEPT, plan_convert
from datamodules.importers.making import make_data_set
from tap_platform.launch.count_bar import count_bar


def convert_data(
    path: str,
    out: str,
    max_side: int,
    quality: int,
    priors: str | None,
    workers: int = 0,
    console: Console | None = None,
) -> None:
    """Convert a data set, or go on with it, and tell the bytes before and after.

    Args:
        path: path or URL of the data set.
        out: path or URL of the new one.
        max_side: long side of the new images, in pixels, at most.
        quality: quality of the JPEGs, 1 to 100.
        priors: sidecar whose priors are to be in the new shards.
        workers: Ray Data tasks at work at once; 0 works in this process.
        console: where to tell it.

    Raises:
        ValueError: if the data set is missing or broken, or `out` holds something else.
    """
    from tap_platform.launch.ray_session import joined_ray

    plan = plan_convert(path, max_side, quality, priors)
    with count_bar("images") as show, joined_ray(workers) if workers else nullcontext():
        report = make_data_set(plan, out, workers, show, mend=True)
    before, after = report.figures["bytes before"], report.figures["bytes"]
    kept = report.figures.get(KEPT, 0)
    (console or Console()).print(
        f"{report.sentence('converted')}, in {out}: {before / 1e6:,.1f} MB -> {after / 1e6:,.1f} MB"
        f" ({after / before:.0%}), {kept} images keep their bytes",
        soft_wrap=True,
    )
