"""Write what a run has learned, so that others can use it without the run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from datamodules.vocabulary import TEMPERATURE, Vocabulary
from tap_platform.launch.data_sets import VOCABULARY_NAME
from tap_platform.launch.model_card import model_card
from tap_platform.launch.tokenizers import TOKENIZER_NAME, tokenizer_of
from tap_platform.launch.weights_source import CAPTION_TOKEN, RunWeights, load_run
from tap_platform.models.released import save_released_weights
from tap_platform.runs.files import read_json, sha256_of, write_atomic

ExportFormat = Literal["released", "safetensors"]
SUFFIXES: dict[ExportFormat, str] = {"released": ".pkl", "safetensors": ".safetensors"}
CARD = "MODEL_CARD.md"


def export_run(
    name: str, kind: ExportFormat, out: Path | None = None, storage: str = "runs"
) -> list[Path]:
    """Write the newest weights of a run with released names and colours in the order BGR.

    Beside them go the concepts of the run, if its data is still there, the tokenizer of a run that
    learned captions, and a model card.

    Args:
        name: the run's name, or the path of its directory.
        kind: `released`, the pickle of arrays that the released code reads, or `safetensors`.
        out: the file of weights; by default `export/RUN-step-N` in the run directory.
        storage: where to look for a name.

    Returns:
        The files written.

    Raises:
        ValueError: if there is no such run, it has no checkpoint, `out` has another suffix, or the
            format cannot tell what prompts the run's captions.
    """
    suffix = SUFFIXES[kind]
    if out is not None and out.suffix != suffix:
        raise ValueError(f"the format {kind} is written to a {suffix} file, not to {out}")
    found = load_run(name, storage)
    run = found.run
    if kind == "released" and found.caption_token != "semantic":
        raise ValueError(
            f"captions of {run.name} are prompted by the {found.caption_token} token, which the"
            " released format cannot tell: export it as safetensors"
        )
    out = out or run.path / "export" / f"{run.name}-step-{found.step}{suffix}"
    out.parent.mkdir(parents=True, exist_ok=True)
    written = [out]
    _write_whole(out, lambda path: save_released_weights(found.model, path, _origin(found)))
    if (vocabulary := _vocabulary(found)) is not None:
        written.append(out.parent / VOCABULARY_NAME)
        _write_whole(written[-1], vocabulary.save)
    if (tokenizer := tokenizer_of(run)) is not None:
        written.append(out.parent / TOKENIZER_NAME)
        write_atomic(written[-1], tokenizer.read_bytes())
    written.append(out.parent / CARD)
    write_atomic(written[-1], model_card(found, out.name, sha256_of(out)).encode())
    return written


def _vocabulary(found: RunWeights) -> Vocabulary | None:
    """The concepts of the run, with the temperature that they were learned at."""
    if (vocabulary := found.vocabulary) is None:
        return None
    temperature = {TEMPERATURE: str(found.job.recipe.objective.temperature)}
    return replace(vocabulary, provenance={**vocabulary.provenance, **temperature})


def _origin(found: RunWeights) -> dict[str, str]:
    """Where the weights come from, for the metadata of a file."""
    provenance = read_json(found.run.provenance) if found.run.provenance.exists() else {}
    return {
        "run": found.run.name,
        "step": str(found.step),
        CAPTION_TOKEN: found.caption_token,
        **{
            key: str(provenance[key])
            for key in ("git_revision", "config_hash", "data_hash")
            if provenance.get(key)
        },
    }


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let a file appear only when it is complete; the suffix tells writers what to write."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    os.close(handle)
    try:
        write(Path(temporary))
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
