"""The verb that draws masks for regions of which only a box is known."""

from __future__ import annotations

from typing import Any

import click

from tap_platform.cli.options import COUNT, UNIT, option


@click.command("label")
@click.argument("data")
@click.option("--weights", required=True, metavar="RUN_OR_FILE", help="The model that draws.")
@click.option("--out", required=True, help="Folder or URL for the new data set.")
@option("--min-iou", "min_iou", UNIT, 0.0, "Leave out masks that the model scores lower.")
@click.option("--overwrite-masks", is_flag=True, help="Draw masks for all regions anew.")
@click.option("--teacher", metavar="MODEL", help="open_clip model to make priors with.")
@click.option("--teacher-weights", help="File of the teacher's weights, or one of its tags.")
@click.option("--priors-out", help="Folder or URL for the priors; by default OUT-priors.")
@option("--workers", "workers", click.IntRange(min=0), 0, "Ray actors with the model; 0: none.")
@option("--readers", "readers", COUNT, 2, "Ray Data tasks that read and write for the workers.")
@option("--device", "device", click.Choice(["auto", "cpu", "cuda"]), "auto", "Of the workers.")
def label(
    data: str,
    weights: str,
    out: str,
    min_iou: float,
    overwrite_masks: bool,
    teacher: str | None,
    teacher_weights: str | None,
    priors_out: str | None,
    **crew: Any,
) -> None:
    """Draw masks for the regions of DATA that have only a box, as a new data set in OUT.

    The model of a run, or of a file of weights, is asked about every box; images, boxes, phrases
    and categories stay as they are, and so do regions that have a mask. With --teacher, every
    region then gets its concept prior. Killed and called again, it goes on.
    """
    from datamodules.labels.masks import MaskRule
    from tap_platform.config.priors import PriorsConfig
    from tap_platform.launch.label import label_data
    from tap_platform.launch.label_cluster import Crew

    if teacher is None and (teacher_weights or priors_out):
        raise ValueError(
            "--teacher-weights and --priors-out are of a teacher: give --teacher MODEL"
        )
    label_data(
        data,
        weights,
        out,
        MaskRule(min_iou, overwrite_masks),
        Crew(**crew),
        PriorsConfig(teacher=teacher, weights=teacher_weights) if teacher else None,
        priors_out,
    )
