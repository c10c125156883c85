"""A decoded sample as one buffer, to travel from the node that decoded it to a worker.

Of the frame only the picture travels, without the padding; masks are packed to bits, and priors to
float16 where that loses nothing, as where they come from a teacher; phrases become JSON. What is
unpacked equals what was packed, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from datamodules.decoding.decode import DecodedSample, Frame
from datamodules.decoding.pictures import PAD_COLOUR

_ALIGNMENT = 8
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).view(np.uint64).reshape(-1)
"""The eight bools of every byte, as one integer."""


@dataclass(frozen=True, slots=True)
class PackedSample:
    """A sample that another process has decoded."""

    shard: str
    key: str
    data: bytes | memoryview
    """What `pack` returns."""


class _Header(NamedTuple):
    """What tells where the parts of a buffer begin, in integers of 64 bits."""

    seed: int
    height: int
    width: int
    regions: int
    dropped_regions: int
    prior_bytes: int
    """Bytes of one number of the priors: 2 or 4."""
    phrase_bytes: int
    dropped_phrases: int


def pack(sample: DecodedSample) -> bytes:
    """All of a sample but its key, in one piece."""
    height, width = sample.size
    half = sample.priors.astype(np.float16)
    priors = half if np.array_equal(half, sample.priors) else sample.priors
    phrases = orjson.dumps(sample.phrases)
    header = _Header(
        seed=sample.seed,
        height=height,
        width=width,
        regions=len(sample.masks),
        dropped_regions=sample.dropped_regions,
        prior_bytes=priors.itemsize,
        phrase_bytes=len(phrases),
        dropped_phrases=sample.dropped_phrases,
    )
    parts: list[NDArray[Any]] = [
        np.array(header, np.int64),
        sample.pixels[:height, :width],
        np.packbits(sample.masks),
        sample.boxes,
        priors,
        sample.concepts,
        sample.has_mask,
        sample.has_prior,
        np.frombuffer(phrases, np.uint8),
    ]
    pieces = [np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in parts]
    return b"".join(each for piece in pieces for each in (piece.data, _padding(len(piece))))


def _padding(size: int) -> bytes:
    return bytes(-size % _ALIGNMENT)


class _Parts:
    """Arrays, one after another, in a buffer; none is copied."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data
        self._offset = 0

    def take(self, dtype: type[Any], *shape: int) -> NDArray[Any]:
        count = int(np.prod(shape))
        part = np.frombuffer(self._data, dtype, count, self._offset).reshape(shape)
        self._offset += part.nbytes + len(_padding(part.nbytes))
        return part


def unpack(
    packed: PackedSample,
    frame: Frame,
    pixels: NDArray[np.uint8] | None = None,
    masks: NDArray[np.bool_] | None = None,
) -> DecodedSample:
    """The sample that was packed.

    Args:
        packed: the sample.
        frame: the model's shapes, those that it was decoded for.
        pixels: where to put the pixels, uint8 `[S, S, 3]`, contiguous; None makes an array.
        masks: where to put the masks, bool `[L, R, R]`, contiguous; None makes an array.
    """
    parts = _Parts(packed.data)
    header = _Header(*parts.take(np.int64, len(_Header._fields)).tolist())
    high, wide, count = header.height, header.width, header.regions
    cells, width = frame.mask_size, frame.concept_dim
    if pixels is None:
        pixels = np.empty((frame.size, frame.size, 3), np.uint8)
    if masks is None:
        masks = np.empty((count, cells, cells), bool)
    _paint(parts.take(np.uint8, high, wide, 3), pixels)
    _spread_bits(parts.take(np.uint8, -(-count * cells * cells // 8)), masks[:count])
    boxes = parts.take(np.float32, count, 4)
    priors = parts.take(np.float16 if header.prior_bytes == 2 else np.float32, count, width)
    concepts = parts.take(np.int64, count)
    has_mask, has_prior = parts.take(np.bool_, count), parts.take(np.bool_, count)
    said = parts.take(np.uint8, header.phrase_bytes)
    return DecodedSample(
        key=packed.key,
        seed=header.seed,
        pixels=pixels,
        size=(high, wide),
        masks=masks[:count],
        boxes=boxes,
        priors=priors.astype(np.float32),
        concepts=concepts,
        has_mask=has_mask,
        has_prior=has_prior,
        phrases=[tuple(each) for each in orjson.loads(said.data)],
        dropped_regions=header.dropped_regions,
        dropped_phrases=header.dropped_phrases,
    )


def _paint(picture: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> None:
    high, wide = picture.shape[:2]
    pixels[:high, :wide] = picture
    padding = np.tile(np.array(PAD_COLOUR, np.uint8), (pixels.shape[1], 1))
    pixels[high:] = padding
    pixels[:high, wide:] = padding[wide:]


def _spread_bits(bits: NDArray[np.uint8], masks: NDArray[np.bool_]) -> None:
    """Write packed bits to contiguous masks."""
    flat = masks.reshape(-1)
    whole = len(flat) // 8
    np.take(_BITS, bits[:whole], out=flat[: 8 * whole].view(np.uint64), mode="clip")
    flat[8 * whole :] = np.unpackbits(bits[whole:])[: len(flat) - 8 * whole]
