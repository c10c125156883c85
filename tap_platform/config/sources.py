"""Data sets of others, imported to shards on first use."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tap_platform.config.stream import StreamConfig


class ImportedSource(StreamConfig):
    """What every import shares; each source has a class of its own."""

    source: str
    """Picks the source; each class admits its own name."""
    path: str
    """Folder or URL of the source's own files."""
    shards: str
    """Folder or URL that the shards are written to, or found in."""
    vocabulary: str = "coco_80"
    """The concepts: a list that ships with the platform, a text file with one name a line (both get
    oracle embeddings), or a `vocabulary.safetensors` with embeddings of its own."""
    priors: Literal["category_names", "none"] = "category_names"
    """Where the concept priors come from. `category_names`: embeddings of the category names, for
    want of a CLIP teacher's weights; they tell what a region is called, not what it looks like.
    `none`: the shards hold no priors (a sidecar may bring them)."""
    val_fraction: float = Field(0.2, ge=0, lt=1)
    """Share of images held out, chosen by a hash of their key."""
    samples_per_shard: int = Field(256, gt=0)
    """Images in a shard; a shard is also what is made anew after a crash."""
    import_workers: int = Field(0, ge=0)
    """Ray Data tasks that import at once, one CPU each; 0 imports in the calling process. The bytes
    are the same. (Tars that stay as they are get their index by that many threads.)"""


class CocoSource(ImportedSource):
    """A COCO-format folder."""

    source: Literal["coco"] = "coco"
    """Picks a COCO-format folder: `annotations.json` and `images/`, or COCO's own layout, which
    keeps its own split if it has one."""
    shards: str = "data/coco"
    """Folder or URL that the shards are written to, or found in."""


class MaskFolderSource(ImportedSource):
    """Images beside mask images."""

    source: Literal["mask_folder"] = "mask_folder"
    """Picks a folder with `images/NAME.jpg` and `masks/NAME.png`, a map of labels, or
    `masks/NAME/*.png`, one binary mask a file."""
    shards: str = "data/mask_folder"
    """Folder or URL that the shards are written to, or found in."""
    priors: Literal["category_names", "none"] = "none"
    """`category_names` where every region has a category of the vocabulary, as with a `classes.txt`
    that is the vocabulary too; else `none`, and a sidecar may bring them."""


class Sa1bSource(ImportedSource):
    """SA-1B's own tars, used where they lie."""

    source: Literal["sa1b"] = "sa1b"
    """Picks a folder of SA-1B's tars; only an index is written, the tars stay as they are."""
    shards: str = "data/sa1b"
    """Folder or URL that the index is written to, or found in."""
    priors: Literal["none"] = "none"
    """The tars hold no priors; a sidecar may bring them."""
    val_fraction: float = Field(0.01, ge=0, lt=1)
    """Share of tars held out, chosen by a hash of their name; at least one if above 0."""
    checksums: bool = False
    """Take the sha256 of every tar, for which every byte is read; else only the headers of local
    tars are read."""


class LvisSource(ImportedSource):
    """LVIS v1: masks of 1203 categories on COCO's images."""

    located: ClassVar[tuple[str, ...]] = ("path", "shards", "images")

    source: Literal["lvis"] = "lvis"
    """Picks a folder with `lvis_v1_train.json` and `lvis_v1_val.json`, which keep their split;
    where one is missing, images of the other are held out."""
    images: str | None = None
    """Folder or URL with COCO's `train2017/` and `val2017/`; if not given, the source's folder."""
    shards: str = "data/lvis"
    """Folder or URL that the shards are written to, or found in."""
    vocabulary: str = "lvis_1203"
    """The concepts, as `data.source=coco` takes them; they must hold LVIS's categories."""


class VisualGenomeSource(ImportedSource):
    """Visual Genome's region descriptions: boxes with phrases, no masks, no categories."""

    source: Literal["visual_genome"] = "visual_genome"
    """Picks a folder with `region_descriptions.json`, `image_data.json`, `densecap_splits.json`,
    `VG_100K/` and `VG_100K_2/`."""
    shards: str = "data/visual_genome"
    """Folder or URL that the shards are written to, or found in."""
    vocabulary: str = "visual_genome_1600"
    """The concepts to name regions by; the regions themselves have no category."""
    priors: Literal["none"] = "none"
    """Regions without category have no priors of their own (a sidecar may bring them)."""
    held_out: Literal["val", "test"] = "val"
    """DenseCap's split that is held out; the other one is left out."""
    val_fraction: float = Field(0.0, ge=0, le=0)
    """Nothing is held out by a hash: the source has splits of its own."""


class GritSource(ImportedSource):
    """Visual Genome as GRiT's authors prepare it: boxes with phrases, no masks, no categories."""

    source: Literal["grit"] = "grit"
    """Picks a folder with `annotations/train.json`, `annotations/test.json` and `images/`."""
    shards: str = "data/grit"
    """Folder or URL that the shards are written to, or found in."""
    vocabulary: str = "visual_genome_1600"
    """The concepts to name regions by; the regions themselves have no category."""
    priors: Literal["none"] = "none"
    """Regions without category have no priors of their own (a sidecar may bring them)."""
    held_out: Literal["train", "test"] = "train"
    """The file that held-out images are of. `train`: a `val_fraction` of its images, and test.json
    is left out; `test`: all images of test.json."""
    val_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of train.json's images held out, chosen by a hash of their key."""


class RefCocoSource(ImportedSource):
    """RefCOCO, RefCOCO+ or RefCOCOg: masks with referring expressions on COCO's images."""

    located: ClassVar[tuple[str, ...]] = ("path", "shards", "images")

    source: Literal["refcoco"] = "refcoco"
    """Picks a folder with `refs(SPLIT_BY).p` and `instances.json`."""
    images: str | None = None
    """Folder or URL of COCO's train2014 images; if not given, train2014/ in the source's folder."""
    split_by: Literal["any", "unc", "google", "umd"] = "any"
    """Whose split, as in the name of the file of references; `any` takes the only file there is.
    Google's divides objects, not images, so that an image may be both learnt from and held out."""
    shards: str = "data/refcoco"
    """Folder or URL that the shards are written to, or found in."""
    held_out: Literal["val", "test", "testA", "testB"] = "val"
    """The split that is held out; all others but train are left out."""
    val_fraction: float = Field(0.0, ge=0, le=0)
    """Nothing is held out by a hash: the source has splits of its own."""
