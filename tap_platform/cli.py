"""`tap`: one verb, one function. Verbs import what they need when they run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from tap_platform import __version__
from tap_platform.launch.errors import RunFailedError

SPEC = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
SHARE = click.FloatRange(min=0, max=1, max_open=True)
UNIT = click.FloatRange(min=0, max=1)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
CONCEPTS_HELP = "Names to choose from: a vocabulary.safetensors, or a released concept file (.pkl)."
TOKENIZER_HELP = (
    "Tokenizer of the text decoder's training: a SentencePiece model, or `shipped`; "
    "without it there are no captions."
)


def option(
    flag: str, name: str, kind: click.ParamType, default: Any, meaning: str
) -> Callable[[Any], Any]:
    """An option whose help tells its range and its default."""
    return click.option(flag, name, type=kind, default=default, show_default=True, help=meaning)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tap")
def tap() -> None:
    """Train Tokenize Anything via Prompting (TAP), from a laptop to a Ray cluster.

    SPEC is a job file such as jobs/tap_tiny_scenes.yaml; key=value pairs change it, as in
    optimizer.lr=3e-4 training.max_steps=100.
    """


@tap.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def demo(overrides: tuple[str, ...]) -> None:
    """Train a tiny TAP on made scenes, and show what it learned."""
    from tap_platform.launch.demo import run_demo

    run_demo(overrides)


@tap.command()
@click.argument("spec", type=SPEC, required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--resume", "run", metavar="RUN", help="Go on from a run's last checkpoint.")
def train(spec: Path | None, overrides: tuple[str, ...], run: str | None) -> None:
    """Train the job SPEC, then evaluate it on held-out images.

    `tap train --resume RUN` takes the job from the run directory; RUN is its name or its path.
    """
    from tap_platform.launch.train import resume_run, start_run

    if run is not None:
        given = ([str(spec)] if spec else []) + list(overrides)
        if given:
            raise click.UsageError(f"--resume takes the job from the run; leave out {given[0]!r}")
        resume_run(run)
    elif spec is None:
        raise click.UsageError("name a job file, such as jobs/tap_tiny_scenes.yaml")
    else:
        start_run(spec, overrides)


@tap.command()
@click.argument("run")
def sync(run: str) -> None:
    """Send the tracker of RUN what it lacks: it was down, or too slow, while the run went on."""
    from tap_platform.runs.tracking.sync import sync_run

    click.echo(f"sent {sync_run(run)} records and files")


@tap.command()
@click.argument("spec", type=SPEC)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(spec: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show the resolved job, its parameter counts and its batch arithmetic."""
    from tap_platform.config.load import load_job
    from tap_platform.launch.plan import make_plan, print_plan

    made = make_plan(load_job(spec, overrides))
    if as_json:
        click.echo(made.model_dump_json(indent=2))
    else:
        print_plan(made)


@tap.command()
def schema() -> None:
    """Print the JSON schema of a job file, for editors."""
    import json

    from tap_platform.config.schema import job_schema

    click.echo(json.dumps(job_schema(), indent=2))


@tap.group()
def data() -> None:
    """Make, import and look at data sets."""


@data.command("scenes")
@click.argument("out", type=FOLDER)
@option("--train", "train_scenes", COUNT, 512, "Scenes to learn from.")
@option("--val", "val_scenes", COUNT, 64, "Scenes held out.")
@option("--size", "size", click.IntRange(min=32), 256, "Long side of a scene, in pixels.")
@option("--seed", "seed", click.IntRange(min=0, max=2**32 - 1), 0, "Seed of the scenes.")
@option("--dim", "dim", COUNT, 64, "Width of the concept space.")
def data_scenes(
    out: Path, train_scenes: int, val_scenes: int, size: int, seed: int, dim: int
) -> None:
    """Make procedural scenes with exact masks, names and phrases, as shards in OUT."""
    from tap_platform.config.data import ScenesSource
    from tap_platform.launch.prepare import prepare_data

    source = ScenesSource(
        path=str(out),
        train_scenes=train_scenes,
        val_scenes=val_scenes,
        scene_size=size,
        scene_seed=seed,
    )
    prepare_data(source, dim)


@data.command("index")
@click.argument("folder", type=FOLDER)
def data_index(folder: Path) -> None:
    """Index the tars of FOLDER, such as SA-1B's own, without changing them."""
    from datamodules.index import index_shards

    index = index_shards(folder)
    click.echo(f"{folder}: {len(index)} samples in {len(index.names)} shards")


@data.group("import")
def data_import() -> None:
    """Import a data set of others to shards."""


@data_import.command("coco")
@click.argument("folder", type=FOLDER)
@click.argument("out", type=FOLDER)
@option("--vocabulary", "vocabulary", click.STRING, "coco_80", "Concept list or a file.")
@option("--val-fraction", "val_fraction", SHARE, 0.2, "Share of images held out.")
@option("--dim", "dim", COUNT, 64, "Width of the concept space.")
def data_import_coco(
    folder: Path, out: Path, vocabulary: str, val_fraction: float, dim: int
) -> None:
    """Import a COCO-format FOLDER to shards in OUT; priors come from the category names."""
    from tap_platform.config.data import CocoSource
    from tap_platform.launch.prepare import prepare_data

    source = CocoSource(
        path=str(folder), shards=str(out), vocabulary=vocabulary, val_fraction=val_fraction
    )
    prepare_data(source, dim)


@tap.command()
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


@tap.command()
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


@tap.command()
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


@tap.group()
def concepts() -> None:
    """Make, read and list vocabularies of concepts."""


@concepts.command("list")
@click.argument("names")
def concepts_list(names: str) -> None:
    """Print a list of concepts: merged_2560, coco_80, lvis_1203, or another of its sources."""
    from tap_platform.concepts.sources import find_concepts

    click.echo("\n".join(find_concepts(names).names))


@concepts.command("build")
@click.argument("out", type=FOLDER)
@option("--names", "names", click.STRING, "merged_2560", "Concept list, or a file of names.")
@click.option("--model", required=True, help="open_clip model; local-dir: and hf-hub: work too.")
@click.option("--weights", help="File of weights, or a tag of the model's pretrained ones.")
@click.option(
    "--template",
    "templates",
    multiple=True,
    default=("tap",),
    show_default=True,
    help="Sentence with {} for the name, or a set: tap, photo, imagenet.",
)
@click.option("--device", default="cpu", show_default=True, help="Where the model runs.")
def concepts_build(
    out: Path, names: str, model: str, weights: str | None, templates: tuple[str, ...], device: str
) -> None:
    """Embed a list of concepts by a CLIP model; OUT becomes a vocabulary (.safetensors)."""
    from tap_platform.launch.vocabularies import build_concepts

    build_concepts(out, names, model, weights, templates, device)


@concepts.command("import")
@click.argument("pickle", type=SPEC)
@click.argument("out", type=FOLDER)
def concepts_import(pickle: Path, out: Path) -> None:
    """Turn a released concept file (.pkl) into a vocabulary, OUT (.safetensors)."""
    from tap_platform.launch.vocabularies import import_concepts

    import_concepts(pickle, out)


@tap.command("eval")
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


def main() -> None:
    """Run `tap`; a mistake, or a file that fails, is one message and not a traceback."""
    try:
        tap.main(prog_name="tap", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (ValueError, OSError) as error:
        click.secho(f"tap: {error}", fg="red", err=True)
        sys.exit(2)
    except RunFailedError as error:
        click.secho(f"tap: {error}", fg="red", err=True)
        sys.exit(1)
