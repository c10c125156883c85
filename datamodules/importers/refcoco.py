"""RefCOCO, RefCOCO+ and RefCOCOg: COCO's masks with what people call them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

from datamodules.importers import layouts
from datamodules.importers.box_regions import phrase_of
from datamodules.importers.building import ImportPlan, Split
from datamodules.importers.coco import category_names, coco_region
from datamodules.importers.gathering import (
    Gathering,
    category_list,
    check_fields,
    check_layout,
    emptied,
    file_in,
    identity_of,
    lists_of,
    trimmed,
)
from datamodules.importers.plain_pickle import load_plain
from datamodules.storage import Location, list_files, location
from datamodules.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tap_platform.config.sources import RefCocoSource

Wanted: TypeAlias = dict[tuple[Split, Any], dict[Any, list[str]]]
"""Phrases by annotation id, by split and image id."""
REFERENCE_FIELDS = {"ann_id": int, "image_id": int, "split": str, "sentences": list}


def plan_refcoco(source: RefCocoSource, vocabulary: Vocabulary) -> ImportPlan:
    """Plan the import of a RefCOCO folder.

    A region is an annotation that is referred to, with its mask, its category and the sentences of
    all its references; annotations without reference are not imported. `train` stays `train`,
    `source.held_out` becomes `val`, and references of other splits are left out.

    Raises:
        ValueError: if a file or folder is missing, a file is laid out otherwise, the pickle asks
            for more than plain data, or the vocabulary does not know a category.
    """
    root, gathering = location(source.path), Gathering()
    images = location(source.images) if source.images else root / "train2014"
    check_layout([root / "instances.json", images], layouts.REFCOCO)
    file = _references_file(root, source.split_by)
    wanted = _wanted(gathering, file, {"train": "train", source.held_out: "val"})
    categories = _add_instances(gathering, root / "instances.json", images, wanted)
    names = category_names(categories, vocabulary, source.priors)
    region_of = partial(coco_region, names)
    return gathering.plan(source, vocabulary, region_of, {"held_out": source.held_out})


def _references_file(root: Location, split_by: str) -> Location:
    """The file of references: that of `split_by`, or the only one."""
    pattern = "refs*" if split_by == "any" else f"refs({split_by})"
    files = [path for path in list_files(root, f"{pattern}.*") if path.suffix in (".p", ".json")]
    if not files:
        raise ValueError(f"missing: {root / pattern}.p. Expected:\n{layouts.REFCOCO}")
    if len(files) > 1:
        raise ValueError(
            f"{root} has several files of references ({', '.join(path.name for path in files)}):"
            " choose by split_by (unc, google or umd), and keep one file of each"
        )
    return files[0]


def _wanted(gathering: Gathering, path: Location, ours: Mapping[str, Split]) -> Wanted:
    """The phrases of each annotation that is referred to, by split and image."""
    wanted: Wanted = defaultdict(lambda: defaultdict(list))
    for reference in emptied(_references(path, gathering.read(path))):
        image, annotation = identity_of(reference, "image_id"), identity_of(reference, "ann_id")
        with gathering.listing(
            path.name, image, "without id" if annotation is None else annotation
        ):
            check_fields("reference", reference, REFERENCE_FIELDS)
            name = reference["split"]
            if name not in ours:
                gathering.left_out[f"references of split {name}"] += 1
                continue
            if not reference["sentences"]:
                raise ValueError("the reference has no sentence")
            phrases = wanted[ours[name], image][annotation]
            for sentence in reference["sentences"]:
                with gathering.listing(path.name, image, annotation):
                    phrase = phrase_of(sentence.get("sent") if isinstance(sentence, dict) else None)
                    phrases.extend([phrase] if phrase not in phrases else [])
    return wanted


def _references(path: Location, content: bytes) -> list[Any]:
    try:
        references = orjson.loads(content) if path.suffix == ".json" else load_plain(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(references, list):
        raise ValueError(f"{path} is laid out otherwise: it is not a list of references")
    return references


def _add_instances(
    gathering: Gathering, path: Location, folder: Location, wanted: Wanted
) -> dict[Any, str]:
    """Add the images and annotations that are referred to; the name of each category."""
    content = gathering.read_json(path)
    images, annotations, categories = lists_of(path, content, "images", "annotations", "categories")
    referred = {identity for phrases_of in wanted.values() for identity in phrases_of}
    by_id = {
        identity: annotation
        for annotation in emptied(annotations)
        if (identity := identity_of(annotation)) in referred
    }
    pictures = gathering.pictures(
        path.name, images, lambda image: file_in(folder, image.get("file_name"))
    )
    for (split, image), phrases_of in wanted.items():
        if image not in pictures:
            gathering.fault(path.name, image, None, "a reference names the image, it is not there")
            continue
        record = gathering.add(path.name, image, pictures[image], split)
        for identity, phrases in phrases_of.items():
            with gathering.listing(path.name, image, identity):
                annotation = by_id.get(identity)
                if annotation is None or annotation.get("image_id") != image:
                    raise ValueError("a reference names the annotation, the image has none such")
                # A crowd that somebody refers to is one thing to point at.
                kept = trimmed(annotation) | {"captions": phrases, "iscrowd": 0}
                record.annotations.extend([kept] if phrases else [])
    return category_list(path, categories)
