"""What the folders of published data sets look like, for help and for errors."""

from __future__ import annotations

LVIS = """\
FOLDER/lvis_v1_train.json   LVIS v1; both files may also lie
FOLDER/lvis_v1_val.json     in FOLDER/annotations/
FOLDER/train2017/           COCO's images, or in another folder (images);
FOLDER/val2017/             LVIS's val needs both"""

VISUAL_GENOME = """\
FOLDER/region_descriptions.json   regions: x, y, width, height and phrase
FOLDER/image_data.json            id, URL, width and height of each image
FOLDER/densecap_splits.json       image ids by split, from info/ of the
                                  repository jcjohnson/densecap
FOLDER/VG_100K/                   the images of both archives
FOLDER/VG_100K_2/"""

GRIT = """\
FOLDER/annotations/train.json   images, and annotations with bbox and caption
FOLDER/annotations/test.json    the same; it may be missing if not held out
FOLDER/images/                  the images of both archives of Visual Genome
The files may also lie in FOLDER itself, and images/ may be called VG_100K/."""

REFCOCO = """\
FOLDER/refs(SPLIT_BY).p   references, a pickle of plain lists, texts, numbers;
                          a .json of the same content does as well
FOLDER/instances.json     COCO's annotations of the same images
FOLDER/train2014/         COCO's images, COCO_train2014_*.jpg, or in another
                          folder (images)"""
