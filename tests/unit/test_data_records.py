import numpy as np
import orjson
import pytest
from data_samples import sample

from datamodules.order.draws import generator, permutation, sample_seed, sample_seeds, splitmix64
from datamodules.shards.records import (
    decode_annotation,
    decode_priors,
    encode_annotation,
    encode_priors,
    image_extension,
)


def test_annotation_survives_the_round_trip():
    made = sample()
    read = decode_annotation(encode_annotation(made))
    assert (read.width, read.height) == (made.width, made.height)
    assert read.regions == made.regions


def test_a_region_without_a_mask_survives_the_round_trip():
    made = sample()
    made.regions[0].segmentation = None
    data = encode_annotation(made)
    assert decode_annotation(data).regions == made.regions
    record = orjson.loads(data)
    assert record["annotations"][0].pop("segmentation") is None
    assert decode_annotation(orjson.dumps(record)).regions == made.regions


def test_official_sa1b_annotation_is_read():
    record = {
        "image": {"image_id": 7, "width": 4, "height": 2, "file_name": "sa_7.jpg"},
        "annotations": [
            {
                "bbox": [0.0, 0.0, 2.0, 1.0],
                "area": 2,
                "segmentation": {"size": [2, 4], "counts": "01110^O1"},
                "predicted_iou": 0.97,
                "point_coords": [[1.0, 0.5]],
                "crop_box": [0.0, 0.0, 4.0, 2.0],
                "id": 12345,
                "stability_score": 0.95,
            }
        ],
    }
    region = decode_annotation(orjson.dumps(record)).regions[0]
    assert region.box == (0.0, 0.0, 2.0, 1.0)
    assert (region.predicted_iou, region.stability_score) == (0.97, 0.95)
    assert region.category is None
    assert region.phrases == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "SA-1B's layout"),
        (b'{"image": {"width": 1, "height": 1}, "annotations": [{}]}', "SA-1B's layout"),
        (b'{"image": {"width": 1, "height": 1}, "annotations": 3}', "SA-1B's layout"),
    ],
)
def test_broken_annotations_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        decode_annotation(data)


def test_priors_survive_the_round_trip():
    priors = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float16)
    np.testing.assert_array_equal(decode_priors(encode_priors(priors), 3, 5), priors)


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        (np.zeros((2, 5), np.float16), r"shape \[2, 5\]"),
        (np.zeros((3, 4), np.float16), "concept_dim"),
        (np.full((3, 5), np.nan, np.float16), "NaN"),
    ],
)
def test_unusable_priors_are_refused(priors, message):
    with pytest.raises(ValueError, match=message):
        decode_priors(encode_priors(priors), 3, 5)


def test_pickled_cut_and_garbage_priors_are_refused(tmp_path):
    np.save(tmp_path / "pickled.npy", np.array([{"an": "object"}], object), allow_pickle=True)
    good = encode_priors(np.zeros((3, 5), np.float16))
    for data in ((tmp_path / "pickled.npy").read_bytes(), good[:-1], b"", b"garbage"):
        with pytest.raises(ValueError, match="not a numpy array"):
            decode_priors(data, 3, 5)


def test_only_jpeg_and_png_are_images():
    assert image_extension(sample().image) == "jpg"
    with pytest.raises(ValueError, match="neither"):
        image_extension(b"GIF89a")


def test_permutation_is_a_permutation_and_depends_on_every_key():
    orders = [permutation(50, *keys).tolist() for keys in ((0, 1), (1, 0), (0, 1, 0), (0, 2))]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(map(tuple, orders))) == 4
    assert permutation(50, 0, 1).tolist() == orders[0]


def test_permutations_are_uniform():
    first = [int(permutation(4, key)[0]) for key in range(4000)]
    assert np.abs(np.bincount(first) / 4000 - 0.25).max() < 0.03


def test_seeds_are_fixed_for_ever():
    assert splitmix64(np.zeros(1, np.uint64))[0] == 0xE220A8397B1DCDAF  # the paper's own
    assert sample_seed(0, 0, 0) == 2558736989570252433
    assert sample_seed(1, 2, 3) == 5797055558538453683


def test_seeds_of_many_positions_are_those_of_each():
    seeds = sample_seeds(3, 1, np.arange(100))
    assert seeds.tolist() == [sample_seed(3, 1, position) for position in range(100)]
    assert len(set(seeds.tolist())) == 100
    assert seeds.min() >= 0


def test_streams_of_a_sample_differ():
    one, other, again = (generator(5, stream).random(8) for stream in (0, 1, 0))
    assert not np.array_equal(one, other)
    assert np.array_equal(one, again)
