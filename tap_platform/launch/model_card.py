"""What a stranger must know of a run's weights: what they are, from what, how good, how far."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from datamodules.shards.provenance import CARD_NAME
from datamodules.storage import read_bytes
from tap_platform.config.data import MixturePart
from tap_platform.evaluation.scores import RegionScores
from tap_platform.evaluation.table import score_markdown
from tap_platform.launch.data_sets import DataSet, data_sets
from tap_platform.launch.parameters import count_parameters
from tap_platform.launch.weights_source import RunWeights
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import read_json

FRONT_MATTER = """---
library_name: tap-platform
pipeline_tag: mask-generation
tags: [tokenize-anything, promptable-segmentation, region-captioning]
---"""

USE = """```python
from tap_platform.launch.weights_source import load_weights
from tap_platform.prediction import TapPredictor

loaded = load_weights("{file}")
predictor = TapPredictor(loaded.model, loaded.vocabulary).set_image("image.jpg")
regions = predictor.predict(points=[[90, 60]])
```"""

PLAIN_PRIORS = {
    "category_names": "Concepts were learned from embeddings of category names, not from a CLIP"
    " teacher: the model knows what regions are called in its data, not what they look like to"
    " CLIP.",
    "scenes oracle": "Concepts were learned in a made-up space in which names that share words lie"
    " near each other: it is not CLIP's.",
}
"""What the kind of a vocabulary means for those who use the concepts."""


def model_card(found: RunWeights, file: str, sha256: str) -> str:
    """The card in Markdown.

    Args:
        found: the weights and their run.
        file: the name of the file of weights.
        sha256: of that file.
    """
    sections = {
        f"# {found.run.name}, step {found.step}": _what(found),
        "## Use": USE.format(file=file),
        "## Numbers": _numbers(found),
        "## Data": _data(found),
        "## Training": _training(found),
        "## Limits": "\n".join(f"- {limit}" for limit in _limits(found)),
        "## Provenance": _provenance(found, file, sha256),
        "## Config": f"```yaml\n{_config(found)}```",
    }
    body = (f"{title}\n\n{text}" for title, text in sections.items())
    return "\n\n".join([FRONT_MATTER, *body]) + "\n"


def _what(found: RunWeights) -> str:
    model = found.job.model
    size = f"{sum(count_parameters(model).values()) / 1e6:.2f} million parameters"
    preset = f"the preset `{model.preset_name}`" if model.preset_name else "sizes of its own"
    return (
        "A model of Tokenize Anything via Prompting (TAP): given a point or a box on an image, it"
        " returns a mask, a concept and the token that a caption is written from.\n"
        f"It has {size} ({preset}) and reads images of {model.image_size} x {model.image_size}"
        " pixels. Tensors have the names and shapes of the released models, colours are in the"
        " order BGR."
    )


def _numbers(found: RunWeights) -> str:
    """The run's scores on held-out regions, and whatever other tables its report has."""
    parts = [*_scores(found), *_tables(found.run)]
    return "\n\n".join(parts) or "The run was not evaluated."


def _scores(found: RunWeights) -> Iterator[str]:
    path = found.run.report / "scores.json"
    if not path.exists():
        return
    scores: dict[str, Any] = read_json(path)
    step = scores.pop("step")
    yield score_markdown({name: RegionScores(**values) for name, values in scores.items()})
    if step != found.step:
        yield f"These are the scores of step {step}, not of the weights of step {found.step}."


def _tables(run: RunDirectory) -> Iterator[str]:
    for path in sorted(run.report.glob("*.md")):
        if path.name != "scores.md":
            yield f"{path.stem}:\n\n{path.read_text(encoding='utf-8').strip()}"


def _data(found: RunWeights) -> str:
    facts: dict[str, Any] = {"source": found.job.data.source, "concepts": _concepts(found)}
    sets = data_sets(found.job.data)
    if len(sets) == 1:
        return _listed(facts | _made_of(sets[0]))
    for number, each in enumerate(sets, start=1):
        facts[f"set {number}, {each.folder.name}"] = {"weight": each.weight, **_made_of(each)}
    return _listed(facts)


def _made_of(data_set: DataSet) -> dict[str, Any]:
    """What `dataset.json` tells; nothing where it is not there, or cannot be reached."""
    try:
        card = json.loads(read_bytes(data_set.folder / CARD_NAME))
    except (OSError, ValueError):
        return {}
    return {key: card[key] for key in ("settings", "priors", "indexes") if key in card}


def _concepts(found: RunWeights) -> str:
    vocabulary = found.vocabulary
    if vocabulary is None:
        return "no longer there"
    return f"{len(vocabulary.names)} names, {vocabulary.kind}"


def _training(found: RunWeights) -> str:
    job = found.job
    return _listed(
        {
            "recipe": job.recipe.type,
            "learned": ", ".join(job.recipe.trained_parts),
            "started from": found.base.origin if found.base else "random weights",
            "steps": f"{found.step} of {job.training.max_steps}",
            "images in a step": job.training.global_batch,
            "optimizer": f"AdamW, learning rate {job.optimizer.lr}",
            "precision": job.training.precision,
            "seed": job.seed,
        }
    )


def _limits(found: RunWeights) -> Iterator[str]:
    if found.step < found.job.training.max_steps:
        yield "Training had not ended when these weights were taken."
    if found.job.recipe.type == "tap_pretrain" and (found.base is None or found.base.note):
        yield "The text decoder is as it began, for this recipe does not train it: it writes noise."
    if found.vocabulary is not None and found.vocabulary.kind in PLAIN_PRIORS:
        yield PLAIN_PRIORS[found.vocabulary.kind]
    if found.job.data.source == "scenes":
        yield "It has seen procedural scenes only, no photograph."
    yield "It segments and names what a prompt points at; it does not find objects by itself."
    yield "Biases of its data are its own; it was not examined for uses that touch people's rights."


def _provenance(found: RunWeights, file: str, sha256: str) -> str:
    made_of = _json(found.run.provenance)
    facts: dict[str, Any] = {"file": f"`{file}`", "sha256": f"`{sha256}`", "run": found.run.name}
    facts |= {
        key.replace("_", " "): made_of[key]
        for key in ("git_revision", "git_dirty", "config_hash", "data_hash", "python")
        if made_of.get(key) is not None
    }
    if "command" in made_of:
        facts["command"] = f"`{shlex.join(made_of['command'])}`"
    packages = made_of.get("packages", {})
    facts["packages"] = ", ".join(f"{name} {number}" for name, number in packages.items())
    return _listed(facts)


def _config(found: RunWeights) -> str:
    """The job without what belongs to the place where it ran."""
    paths = {"init_from": {"source"}, "recipe": {"mae_weights", "tokenizer"}}
    whole = dict.fromkeys(("storage", "tracking"), True)
    job = found.job.model_dump(mode="json", exclude={**whole, **paths})
    private: dict[str, Any] = dict.fromkeys(found.job.data.located, True)
    private["mixture"] = {"__all__": set(MixturePart.located)}
    job["data"] = found.job.data.model_dump(mode="json", exclude=private)
    return yaml.safe_dump(job, sort_keys=False)


def _listed(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {key}: {_plain(value)}" for key, value in facts.items())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    return str(value)


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
