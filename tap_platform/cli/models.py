"""Verbs that use, measure and hand on a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from tap_platform.cli.options import (
    CONCEPTS_HELP,
    COUNT,
    FILE,
    FOLDER,
    TOKENIZER_HELP,
    UNIT,
    option,
)


@click.command()
@click.argument("weights")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--box", "boxes", multiple=True, metavar="X1,Y1,X2,Y2", help="A region by its box.")
@click.option(
    "--point",
    "points",
    multiple=True,
    metavar="X,Y[,LABEL]",
    help="All points together are one region, or refine the box; label 1 is in, 0 is out.",
)
@click.option("--grid", type=COUNT, metavar="N", help="Everything, by N x N points (SAM: 32).")
@option("--min-iou", "min_iou", UNIT, 0.88, "With --grid: drop masks that score lower.")
@option("--min-stability", "min_stability", UNIT, 0.95, "With --grid: drop unstable masks.")
@option("--max-overlap", "max_overlap", UNIT, 0.7, "With --grid: drop boxes that overlap more.")
@option("--out", "out", FOLDER, Path("predictions"), "Folder for NAME.json and NAME.png.")
@click.option("--concepts", type=FILE, help=CONCEPTS_HELP)
@click.option("--tokenizer", metavar="FILE", help=TOKENIZER_HELP)
def predict(
    weights: str,
    images: tuple[Path, ...],
    boxes: tuple[str, ...],
    points: tuple[str, ...],
    grid: int | None,
    out: Path,
    concepts: Path | None,
    tokenizer: str | None,
    **filters: float,
) -> None:
    """Segment, name and describe regions of IMAGES, which are files or folders.

    WEIGHTS is a run, or a file: released (.pkl) or exported (.safetensors).
    """
    from rich.console import Console

    from tap_platform.launch.predict import Question, open_predictor, predict_files
    from tap_platform.prediction import EverythingSettings

    everything = EverythingSettings(grid, **filters) if grid else None
    console = Console()
    question = Question.read(boxes, points, everything)
    predictor = open_predictor(weights, concepts, tokenizer, console)
    predict_files(predictor, images, question, out, console)


@click.command()
@click.argument("weights")
@click.option("--concepts", type=FILE, help=CONCEPTS_HELP)
@click.option("--tokenizer", metavar="FILE", help=TOKENIZER_HELP)
@click.option("--image", type=FILE, help="Picture to begin with.")
@option("--host", "host", click.STRING, "127.0.0.1", "Address to listen at.")
@option("--port", "port", click.IntRange(1, 65535), 7860, "Port to listen at.")
def app(
    weights: str,
    concepts: Path | None,
    tokenizer: str | None,
    image: Path | None,
    host: str,
    port: int,
) -> None:
    """Open a page where one clicks on a picture and sees mask, concept and caption."""
    from rich.console import Console

    from tap_platform.launch.predict import open_predictor
    from tap_platform.prediction.app import serve

    serve(open_predictor(weights, concepts, tokenizer, Console()), host, port, image)


@click.command()
@click.argument("run")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["safetensors", "released"]),
    default="safetensors",
    show_default=True,
    help="`released` is the pickle that the authors' code reads.",
)
@click.option("--out", type=FOLDER, help="File to write; by default in the run's folder `export`.")
def export(run: str, kind: Literal["safetensors", "released"], out: Path | None) -> None:
    """Write the newest weights of RUN with the released names, and a model card beside them."""
    from tap_platform.launch.export import export_run

    for written in export_run(run, kind, out):
        click.echo(f"wrote {written}")


@click.command("eval")
@click.argument("source", metavar="RUN_OR_WEIGHTS")
@click.option(
    "--suite",
    type=click.Choice(["instances", "classification", "prompts", "captions", "all"]),
    default="all",
    show_default=True,
    help="What to measure; of `all`, what the data or the model do not allow is left out.",
)
@click.option(
    "--data",
    type=FOLDER,
    help="COCO's or LVIS's JSON, a folder with one and images, or shards; by default the run's.",
)
@click.option("--boxes", type=FILE, help="Boxes of a detector (COCO results) for `instances`.")
@click.option("--concepts", type=FILE, help=CONCEPTS_HELP)
@click.option("--tokenizer", metavar="FILE", help=TOKENIZER_HELP)
@click.option(
    "--published-scores",
    "published",
    is_flag=True,
    help="Score `classification` as the released script does: one predicted IoU for an image.",
)
@click.option("--images", type=COUNT, metavar="N", help="Only the first N images.")
@option("--workers", "workers", click.IntRange(min=0), 1, "Ray actors; 0 for this process alone.")
@option("--device", "device", click.Choice(["auto", "cpu", "cuda"]), "auto", "Where it runs.")
@click.option("--out", type=FOLDER, required=True, help="Folder for report and pictures.")
def evaluate(source: str, suite: str, out: Path, published: bool, **settings: Any) -> None:
    """Measure a model as the papers do, and set its numbers beside theirs.

    RUN_OR_WEIGHTS is a run, or a file: released (.pkl) or exported (.safetensors).
    """
    from rich.console import Console

    from tap_platform.launch.run_evaluation import (
        EvaluationSettings,
        named_suites,
        run_evaluation,
    )

    rule: Literal["own", "published"] = "published" if published else "own"
    wanted = EvaluationSettings(source, named_suites(suite), rule=rule, **settings)
    run_evaluation(wanted, out, Console())
