"""How such data is usually loaded: webdataset, torch's DataLoader, Pillow and pycocotools.

Every mask is decoded at the size of its image, then resized; large scale jitter resizes the picture
and the masks as a whole, then cuts the frame out, as detection libraries do.
"""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.decoding.decode import Frame
from tap_platform.config.stream import ScaleJitterConfig

Batch = tuple[Tensor, Tensor, Tensor]
"""Pixels `[B, 3, S, S]`, masks `[M, R, R]` and priors `[M, D]`."""


def usual_loader(
    folder: Path,
    frame: Frame,
    jitter: ScaleJitterConfig,
    *,
    regions: int,
    batch: int,
    samples: int,
    workers: int,
) -> DataLoader[Batch]:
    """Batches of a folder of shards; the workers live on between two passes.

    Args:
        folder: folder of the shards.
        frame: the model's shapes.
        jitter: range of the scale.
        regions: regions of an image, at most.
        batch: images in a batch.
        samples: samples of one pass, over all workers.
        workers: processes that decode.
    """
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = (
        webdataset.WebDataset(shards, shardshuffle=False, nodesplitter=None)
        .map(partial(_decode, frame=frame, jitter=jitter, regions=regions))
        .repeat()
        .with_epoch(samples // workers)
    )
    return DataLoader(
        dataset, batch, collate_fn=_collate, num_workers=workers, persistent_workers=True
    )


def _decode(
    sample: dict[str, Any], frame: Frame, jitter: ScaleJitterConfig, regions: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.float32]]:
    draws = np.random.default_rng()
    image = Image.open(io.BytesIO(sample["jpg"])).convert("RGB")
    annotations = json.loads(sample["json"])["annotations"]
    chosen = draws.permutation(len(annotations))[:regions]
    factor = draws.uniform(jitter.minimum, jitter.maximum)
    scale = factor * frame.size / max(image.size)
    width, height = (round(side * scale) for side in image.size)
    cell = frame.size // frame.mask_size
    left = int(draws.integers(max(0, width - frame.size) // cell + 1))
    top = int(draws.integers(max(0, height - frame.size) // cell + 1))
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(_cut(resized, left * cell, top * cell, frame.size))
    masks = np.zeros((len(chosen), frame.mask_size, frame.mask_size), bool)
    for mask, number in zip(masks, chosen, strict=True):
        full = Image.fromarray(coco_mask.decode(annotations[number]["segmentation"]) * 255)
        low = full.resize((width // cell, height // cell), Image.Resampling.BILINEAR)
        mask[:] = np.asarray(_cut(low, left, top, frame.mask_size)) > 127
    priors = np.load(io.BytesIO(sample["priors.npy"]))[chosen]
    return pixels, masks, priors.astype(np.float32)


def _cut(image: Image.Image, left: int, top: int, side: int) -> Image.Image:
    return image.crop((left, top, left + side, top + side))


def _collate(samples: list[tuple[NDArray[Any], ...]]) -> Batch:
    pixels, masks, priors = zip(*samples, strict=True)
    return (
        torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2),
        torch.from_numpy(np.concatenate(masks)),
        torch.from_numpy(np.concatenate(priors)),
    )
