"""Published data sets in small: made here, in the folders and files that their authors publish."""

import pickle
from pathlib import Path

import orjson
from data_samples import jpeg

from datamodules.decoding.decode import Frame, decode_sample
from datamodules.shards.index import DataIndex
from datamodules.shards.reader import read_samples
from datamodules.shards.records import decode_annotation, decode_priors
from datamodules.vocabulary import Vocabulary
from tap_platform.config.data import ShardSource

HEIGHT, WIDTH = 48, 64
TRIANGLE = [10.0, 5.0, 50.0, 8.0, 30.0, 40.0]
SQUARE = [4.0, 4.0, 24.0, 4.0, 24.0, 24.0, 4.0, 24.0]


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(content))


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(HEIGHT, WIDTH, seed))


LVIS_NAMES = ("aerosol_can", "speaker_(stero_equipment)", "Band_Aid")


def lvis_categories():
    return [
        {
            "id": number,
            "name": name,
            "synset": f"{name}.n.01",
            "synonyms": [name],
            "def": "a thing",
            "frequency": "rcf"[number % 3],
            "image_count": 9,
            "instance_count": 11,
        }
        for number, name in enumerate(LVIS_NAMES, start=1)
    ]


def lvis_image(number, folder):
    return {
        "id": number,
        "width": WIDTH,
        "height": HEIGHT,
        "license": 4,
        "date_captured": "2013-11-14 17:02:52",
        "coco_url": f"http://images.cocodataset.org/{folder}/{number:012d}.jpg",
        "flickr_url": "http://farm7.staticflickr.com/6116/6255196340_da26cf2c9e_z.jpg",
        "neg_category_ids": [2],
        "not_exhaustive_category_ids": [3],
    }


def lvis_annotation(number, image, category, polygon):
    across, down = polygon[::2], polygon[1::2]
    box = [min(across), min(down), max(across) - min(across), max(down) - min(down)]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": [polygon],
        "bbox": box,
        "area": 400.0,
    }


def write_lvis(root, **changes):
    """Two images to learn from, two held out, one of these among train2017's.

    `train` and `val` of `changes` are functions that change a file's content before it is written.
    """
    folders = {1: "train2017", 2: "train2017", 3: "val2017", 4: "train2017"}
    for number, folder in folders.items():
        write_image(root / folder / f"{number:012d}.jpg", number)
    for split, numbers in (("train", (1, 2)), ("val", (3, 4))):
        content = {
            "info": {"version": "v1.0"},
            "licenses": [],
            "images": [lvis_image(number, folders[number]) for number in numbers],
            "annotations": [
                each
                for n in numbers
                for each in (
                    lvis_annotation(10 * n, n, 1 + n % 3, TRIANGLE),
                    lvis_annotation(10 * n + 1, n, 2, SQUARE),
                )
            ],
            "categories": lvis_categories(),
        }
        changes.get(split, lambda content: None)(content)
        write_json(root / f"lvis_v1_{split}.json", content)
    return root


def genome_region(number, image, box, phrase):
    left, top, width, height = box
    return {
        "region_id": number,
        "image_id": image,
        "x": left,
        "y": top,
        "width": width,
        "height": height,
        "phrase": phrase,
    }


def write_visual_genome(root, change=lambda regions, images, splits: None):
    """Images 1 and 2 to learn from, 3 for val, 4 for test, 5 in no split of DenseCap's.

    Image 1 has a box of two phrases and one that leaves the image.
    """
    folders = {1: "VG_100K_2", 2: "VG_100K", 3: "VG_100K", 4: "VG_100K_2", 5: "VG_100K"}
    for number, folder in folders.items():
        write_image(root / folder / f"{number}.jpg", number)
    images = [
        {
            "image_id": number,
            "url": f"https://cs.stanford.edu/people/rak248/{folder}/{number}.jpg",
            "width": WIDTH,
            "height": HEIGHT,
            "coco_id": None,
            "flickr_id": None,
        }
        for number, folder in folders.items()
    ]
    regions = [
        {
            "id": number,
            "regions": [
                genome_region(10 * number, number, (4, 6, 30, 20), " the clock is green "),
                genome_region(10 * number + 1, number, (4, 6, 30, 20), "a wall clock"),
                genome_region(10 * number + 2, number, (-3, 40, 20, 30), "the pavement"),
            ],
        }
        for number in folders
    ]
    splits = {"train": [1, 2], "val": [3], "test": [4]}
    change(regions, images, splits)
    write_json(root / "region_descriptions.json", regions)
    write_json(root / "image_data.json", images)
    write_json(root / "densecap_splits.json", splits)
    return root


def write_grit(root, change=lambda train, test: None):
    """Images 1 to 4 in train.json, 5 in test.json, two boxes each."""
    contents = []
    for numbers in ((1, 2, 3, 4), (5,)):
        for number in numbers:
            write_image(root / "images" / f"{number}.jpg", number)
        contents.append(
            {
                "images": [
                    {"id": n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT}
                    for n in numbers
                ],
                "annotations": [
                    {
                        "id": 10 * n + k,
                        "image_id": n,
                        "category_id": 1,
                        "iscrowd": 0,
                        "area": box[2] * box[3],
                        "bbox": box,
                        "caption": f"caption {k} of {n}",
                    }
                    for n in numbers
                    for k, box in enumerate(([2, 3, 20, 20], [10, 10, 40, 30]))
                ],
                "categories": [{"supercategory": "object", "id": 1, "name": "object"}],
            }
        )
    change(*contents)
    for name, content in zip(("train", "test"), contents, strict=True):
        write_json(root / f"annotations/{name}.json", content)
    return root


def sentence(number, text):
    return {"tokens": text.split(), "raw": text.title(), "sent_id": number, "sent": text}


def reference(number, annotation, image, split, *texts, category=18):
    return {
        "ref_id": number,
        "ann_id": annotation,
        "image_id": image,
        "category_id": category,
        "split": split,
        "file_name": f"COCO_train2014_{image:012d}_{annotation}.jpg",
        "sent_ids": [10 * number + k for k in range(len(texts))],
        "sentences": [sentence(10 * number + k, text) for k, text in enumerate(texts)],
    }


def write_refcoco(root, change=lambda refs, instances: None, name="refs(unc).p", dump=None):
    """Images 1 to 4 in train, val, testA and testB; image 1 has an object of two references."""
    for number in range(1, 5):
        write_image(root / f"train2014/COCO_train2014_{number:012d}.jpg", number)
    instances = {
        "info": {},
        "licenses": [],
        "images": [
            {
                "id": n,
                "file_name": f"COCO_train2014_{n:012d}.jpg",
                "width": WIDTH,
                "height": HEIGHT,
                "coco_url": f"http://mscoco.org/images/{n}",
            }
            for n in range(1, 5)
        ],
        "annotations": [
            {
                "id": 10 * n + k,
                "image_id": n,
                "category_id": 18 - k,
                "segmentation": [polygon],
                "bbox": [float(min(polygon[::2])), float(min(polygon[1::2])), 20.0, 20.0],
                "area": 400.0,
                "iscrowd": 0,
            }
            for n in range(1, 5)
            for k, polygon in enumerate((TRIANGLE, SQUARE))
        ],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
    }
    refs = [
        reference(1, 10, 1, "train", "the left dog", "brown dog"),
        reference(2, 11, 1, "train", "cat", category=17),
        reference(3, 10, 1, "train", "dog that looks at us", "brown dog"),
        reference(4, 20, 2, "val", "dog in front"),
        reference(5, 30, 3, "testA", "the dog"),
        reference(6, 40, 4, "testB", "left dog"),
    ]
    change(refs, instances)
    write_json(root / "instances.json", instances)
    (root / name).write_bytes((dump or (lambda content: pickle.dumps(content, 2)))(refs))
    return root


def read_raw(out, split):
    """The samples of a split, by key."""
    index = DataIndex.load(Path(out) / split)
    return {
        raw.key: raw
        for shard, count in enumerate(index.counts)
        for raw in read_samples(index, shard, range(count))
    }


def read_regions(out, split):
    """The regions of every image of a split, by key."""
    raws = read_raw(out, split)
    return {key: decode_annotation(raw.annotation).regions for key, raw in raws.items()}


def read_priors(out, split, dim):
    """The priors of every image of a split, by key."""
    regions = read_regions(out, split)
    raws = read_raw(out, split)
    return {key: decode_priors(raws[key].priors, len(regions[key]), dim) for key in raws}


def read_faults(out):
    return [orjson.loads(line) for line in (out / "quarantine.jsonl").read_bytes().splitlines()]


def decode_split(out, split, dim=8):
    """Every image of a split as evaluation sees it, by key; the frame is as wide as the images."""
    vocabulary = Vocabulary.load(Path(out) / "vocabulary.safetensors")
    frame = Frame(size=WIDTH, mask_size=WIDTH // 4, concept_dim=dim)
    config = ShardSource(path=str(out))
    return {
        key: decode_sample(raw, 0, config, frame, vocabulary.indexes, training=False)
        for key, raw in read_raw(out, split).items()
    }
