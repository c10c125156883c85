import io

import numpy as np
import orjson
import pytest
from data_samples import box_mask, region, sample
from PIL import Image
from rich.console import Console

from datamodules.inspection.canvas import TINT, region_colour
from datamodules.inspection.contact_sheet import contact_sheet
from datamodules.inspection.data_set import open_parts, place_of, spread
from datamodules.inspection.histogram import (
    Histogram,
    aspect_ratios,
    shares_by_half_decades,
    whole_numbers,
)
from datamodules.inspection.report import print_statistics
from datamodules.inspection.statistics import gather
from datamodules.shards.index import DataIndex
from datamodules.shards.writer import ShardWriter


def cat(phrases=()):
    return region(box_mask(48, 64, 4, 6, 30, 40), "cat", phrases=list(phrases))


def unnamed():
    return region(box_mask(48, 64, 0, 0, 32, 48), None)


@pytest.fixture
def data(tmp_path):
    """Train: 6 samples in 2 shards, of 0 to 5 regions; val: one of 48 x 64 without priors."""
    root = tmp_path / "data"
    with ShardWriter(root / "train", 4) as writer:
        for number in range(6):
            regions = [cat(["one", " \n", "a small cat"])] * number
            writer.write(sample(f"key{number}", regions, seed=number))
    with ShardWriter(root / "val", 4) as writer:
        made = sample("held", [unnamed()])
        made.priors = None
        writer.write(made)
    return root


def test_everything_is_counted(data):
    statistics = gather("data", open_parts(data))
    train, val = statistics.parts
    assert (train.name, train.shards, train.samples, train.samples_with_priors) == (
        "train",
        2,
        6,
        6,
    )
    assert (val.name, val.shards, val.samples, val.samples_with_priors) == ("val", 1, 1, 0)
    assert train.regions == {
        "regions": 15,
        "with masks": 15,
        "with category": 15,
        "with phrases": 15,
        "with priors": 15,
        "phrases": 30,
        "phrases left out": 15,
    }
    assert val.regions["with category"] == val.regions["with priors"] == 0
    assert dict(statistics.regions.rows()) == {"0": 1, "1": 2, "2-3": 2, "4-7": 2}
    assert dict(statistics.words.rows()) == {"1": 15, "2": 0, "3": 15}
    assert dict(statistics.areas.rows()) == {"10-30%": 15, "30-100%": 1}
    assert dict(statistics.sides.rows()) == {"1-127": 7}
    assert dict(statistics.aspects.rows()) == {"4:3": 7}
    assert statistics.categories == {"cat": 15}
    assert not statistics.is_estimate
    sizes = [path.stat().st_size for path in (data / "train").glob("*.tar")]
    assert train.shard_bytes == sum(sizes)
    index = DataIndex.load(data / "train")
    images = [index.members(shard, n).image[1] for shard, n in ((0, 0), (0, 1), (0, 2), (0, 3))]
    assert sum(images) < train.member_bytes["images"] < train.shard_bytes
    assert val.member_bytes["priors"] == 0


def test_a_spread_of_samples_tells_of_the_whole(tmp_path):
    with ShardWriter(tmp_path / "train", 8) as writer:
        for number in range(40):
            writer.write(sample(f"key{number}", [cat()] * 2))
    shown = []
    statistics = gather("x", open_parts(tmp_path / "train"), 10, lambda *now: shown.append(now))
    [part] = statistics.parts
    assert (part.read, part.samples, part.regions["regions"]) == (10, 40, 20)
    assert part.regions["regions"] * part.scale == 80
    assert statistics.is_estimate
    assert shown == [(10, 10)]


def test_a_spread_is_even_and_always_the_same():
    chosen = spread(1000, 10)
    assert [position // 100 for position in chosen] == list(range(10))
    assert chosen == spread(1000, 10)
    assert len({position % 100 for position in chosen}) > 5
    assert list(spread(3, 10)) == list(spread(3, None)) == [0, 1, 2]
    assert len(spread(10**12, 2000)) == 2000


def test_positions_run_through_all_parts_and_shards(data):
    parts = open_parts(data)
    places = [place_of(parts, position) for position in range(7)]
    assert [(each.part.name, each.shard, each.number) for each in places] == [
        *(("train", 0, number) for number in range(4)),
        ("train", 1, 0),
        ("train", 1, 1),
        ("val", 0, 0),
    ]


def test_what_cannot_be_read_is_counted_apart(data):
    index = DataIndex.load(data / "train")
    offset = index.members(0, 3).annotation[0]
    path = index.path(0)
    content = bytearray(path.read_bytes())
    content[offset] = 0
    path.write_bytes(content)
    index.path(1).unlink()
    statistics = gather("data", open_parts(data))
    assert statistics.parts[0].unreadable == 3
    assert statistics.parts[0].regions["regions"] == 3


def test_one_folder_of_shards_is_a_data_set_too(data):
    [part] = gather("train", open_parts(data / "train")).parts
    assert (part.name, part.samples) == ("train", 6)
    with pytest.raises(ValueError, match="no such folder of shards"):
        open_parts(data / "nothing")
    with pytest.raises(ValueError, match="tap data index"):
        open_parts(data.parent)


def test_bins_hold_what_their_labels_say():
    numbers = Histogram("", whole_numbers([0, 1, 2, 4]))
    numbers.add([0, 1, 1, 3, 2, 9])
    assert numbers.rows() == [("0", 1), ("1", 2), ("2-3", 2), ("4+", 1)]
    assert (numbers.mean, numbers.least, numbers.greatest) == (16 / 6, 0, 9)
    shares = Histogram("", shares_by_half_decades(2))
    shares.add([0.0, 0.02, 0.05, 0.29, 0.3, 1.0, 1.5])
    assert shares.rows() == [("<1%", 1), ("1-3%", 1), ("3-10%", 1), ("10-30%", 1), ("30-100%", 3)]
    aspects = Histogram("", aspect_ratios())
    aspects.add([0.1, 9 / 16, 2 / 3, 0.99, 1.01, 4 / 3, 1500 / 2250, 16 / 9, 8.0])
    assert dict(aspects.rows())["2:3"] == 2
    assert dict(aspects.rows())["1:1"] == 2
    assert aspects.rows()[0] == ("1:2 or taller", 1)
    assert aspects.rows()[-1] == ("2:1 or wider", 1)
    assert Histogram("", aspect_ratios()).rows() == []


def printed(statistics, width=80):
    file = io.StringIO()
    print_statistics(statistics, Console(file=file, width=width))
    return file.getvalue()


def test_the_report_fits_a_terminal(data):
    statistics = gather("data", open_parts(data))
    shown = printed(statistics)
    assert max(map(len, shown.splitlines())) <= 80
    assert "estimated" not in shown
    assert "cat" in shown
    assert "~" not in shown
    assert max(map(len, printed(statistics, 50).splitlines())) <= 50
    assert "estimated from 3 of 7 samples" in printed(gather("data", open_parts(data), 3))


def test_the_whole_image_is_100_percent(tmp_path):
    with ShardWriter(tmp_path / "train", 4) as writer:
        writer.write(sample("a", [region(np.ones((48, 64), bool))]))
    shown = printed(gather("x", open_parts(tmp_path / "train")))
    assert "mean 100%, from 100% to 100%" in shown


def test_the_record_for_machines_is_json(data):
    record = orjson.loads(orjson.dumps(gather("data", open_parts(data), 3).as_dict()))
    assert record["estimated"] is True
    assert record["samples_read"] == 3
    assert sum(record["histograms"]["regions an image"]["counts"]) == 3


def test_colours_are_distinct_and_dark_enough_for_white_letters():
    colours = [np.array(region_colour(number)) for number in range(12)]
    for number, colour in enumerate(colours):
        luminance = (colour / 255) ** 2.2 @ [0.2126, 0.7152, 0.0722]
        assert 1.05 / (luminance + 0.05) > 4.5
        others = [np.abs(colour - other).sum() for other in colours[:number]]
        assert not others or min(others) > 30


def test_a_contact_sheet_shows_regions_where_they_are(tmp_path):
    black = np.zeros((48, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(black).save(buffer, "PNG")
    made = sample("a", [unnamed()])
    made.image = buffer.getvalue()
    with ShardWriter(tmp_path / "train", 4) as writer:
        writer.write(made)
    sheet = np.asarray(contact_sheet("x", open_parts(tmp_path / "train"), 5))
    assert sheet.shape[1] == 576
    picture = sheet[60:400, 14 + 18 : 526]
    # The right half of the picture stays black, the left half is tinted.
    assert (picture[:, 260:] == 0).mean() > 0.9
    colour = np.array(region_colour(0))
    np.testing.assert_allclose(np.median(picture[100:, 20:200], (0, 1)), TINT * colour, atol=3)


def test_a_contact_sheet_is_the_same_every_time_and_tells_what_is_broken(data):
    parts = open_parts(data)
    one, two = (contact_sheet("x", parts, 6).tobytes() for _ in range(2))
    assert one == two
    for path in (data / "train").glob("*.tar"):
        path.unlink()
    broken = contact_sheet("x", parts, 6)
    assert broken.tobytes() != one
    assert broken.width == 3 * 558 + 18


def test_an_empty_data_set_is_not_drawn(tmp_path):
    with ShardWriter(tmp_path / "train", 4):
        pass
    parts = open_parts(tmp_path / "train")
    assert gather("x", parts).samples == 0
    assert printed(gather("x", parts))
    with pytest.raises(ValueError, match="holds no sample"):
        contact_sheet("x", parts, 3)
