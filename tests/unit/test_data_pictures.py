import io
import zlib

import numpy as np
import pytest
from data_samples import jpeg, png, smooth_image
from PIL import Image

from datamodules.decoding.pictures import PAD_COLOUR, decode_picture, picture_size
from datamodules.decoding.resample import resample


def decode(data, needed=(9999, 9999)):
    return decode_picture(data, picture_size(data), needed)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("needed", "shape"),
    [((100, 150), (100, 150)), ((51, 75), (100, 150)), ((50, 75), (50, 75)), ((1, 1), (13, 19))],
)
def test_jpegs_are_decoded_at_a_fraction_that_is_enough(needed, shape):
    assert decode(jpeg(100, 150), needed).shape == (*shape, 3)


def test_a_fraction_shows_the_same_picture():
    whole, half = (decode(jpeg(100, 150), needed).astype(int) for needed in ((99, 99), (40, 40)))
    averaged = whole.reshape(50, 2, 75, 2, 3).mean((1, 3))
    assert np.abs(averaged - half).mean() < 2


def test_png_modes_become_rgb():
    rgb = Image.fromarray(smooth_image())
    assert np.array_equal(decode(png(rgb)), np.asarray(rgb))
    grey = rgb.convert("L")
    assert np.array_equal(decode(png(grey))[..., 1], np.asarray(grey))
    assert np.array_equal(
        decode(png(rgb.convert("P"))), np.asarray(rgb.convert("P").convert("RGB"))
    )
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    assert np.array_equal(decode(png(deep))[..., 2], np.asarray(grey))


def test_transparency_shows_the_pad_colour():
    image = Image.new("RGBA", (8, 6), (200, 10, 20, 255))
    image.putpixel((3, 2), (0, 0, 0, 0))
    pixels = decode(png(image))
    assert tuple(pixels[2, 3]) == PAD_COLOUR
    assert tuple(pixels[0, 0]) == (200, 10, 20)


def test_grey_and_cmyk_jpegs_become_rgb():
    rgb = Image.fromarray(smooth_image())
    for mode in ("L", "CMYK"):
        pixels = decode(encoded(rgb.convert(mode), "JPEG", quality=95)).astype(int)
        expected = np.asarray(rgb.convert(mode).convert("RGB")).astype(int)
        assert np.abs(pixels - expected).mean() < 4


@pytest.mark.parametrize("mirrored", [False, True])
def test_one_colour_stays_as_it_is(mirrored):
    for level in (0, 1, 127, 254, 255):
        image = np.full((70, 90, 3), level, np.uint8)
        for size in ((64, 64), (5, 64), (64, 3), (70, 90), (1, 1)):
            frame = np.zeros((90, 90, 3), np.uint8)
            resample(image, (0.1, 0, 0.9, 1), size, frame, mirrored)
            assert (frame[: size[0], : size[1]] == level).all()


def test_a_png_far_too_large_is_averaged_first():
    image = Image.fromarray(smooth_image(900, 64))
    pixels = decode(png(image), needed=(20, 64))
    assert pixels.shape == (900 // 11 + 1, 64, 3)
    assert np.abs(pixels[:-1] - np.asarray(image)[:891].reshape(81, 11, 64, 3).mean(1)).max() < 1
    assert decode(png(image), needed=(200, 30)).shape == (900, 64, 3)


@pytest.mark.parametrize("data", [jpeg()[:-200], png(Image.fromarray(smooth_image()))[:-500]])
def test_cut_images_are_refused(data):
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "neither"),
        (b"\xff\xd8\xff garbage", "header of the JPEG is broken"),
        (b"\x89PNG\r\n\x1a\n garbage", "cannot be decoded"),
        (png(Image.new("RGB", (1, 1))), "1 x 1 pixels shows nothing"),
        (jpeg(1, 1), "shows nothing"),
    ],
)
def test_headers_that_cannot_be_used_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        picture_size(data)


def test_decompression_bombs_are_refused_by_their_header():
    bomb = bytearray(png(Image.new("L", (4, 4))))
    bomb[16:24] = (20_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    with pytest.raises(ValueError, match=r"limit|bomb"):
        picture_size(bytes(bomb))
    large = jpeg(16, 16).replace(b"\x00\x10\x00\x10\x03", b"\xff\x00\xff\x00\x03")
    with pytest.raises(ValueError, match="above the limit"):
        picture_size(large)


@pytest.mark.parametrize(
    ("size", "crop"),
    [
        ((48, 64), (0, 0, 1, 1)),
        ((30, 41), (0, 0, 1, 1)),
        ((20, 20), (0.1, 0.2, 0.9, 0.7)),
        ((5, 3), (0, 0, 1, 1)),
        ((60, 60), (0.3, 0.25, 0.5, 0.61)),
        ((48, 64), (0.5, 0, 1, 1)),
        ((1, 1), (0, 0, 1, 1)),
        ((17, 1), (0.99, 0, 1, 1)),
    ],
)
def test_resampling_is_that_of_pillow_within_one_level(size, crop):
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    box = (crop[0] * 64, crop[1] * 48, crop[2] * 64, crop[3] * 48)
    expected = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR, box=box)
    frame = np.full((64, 64, 3), 7, np.uint8)
    resample(image, crop, size, frame)
    assert np.abs(frame[: size[0], : size[1]].astype(int) - np.asarray(expected)).max() <= 1
    assert (frame[size[0] :] == 7).all()
    assert (frame[:, size[1] :] == 7).all()
    mirrored = np.zeros_like(frame)
    resample(image, crop, size, mirrored, mirrored=True)
    part = np.s_[: size[0], : size[1]]
    np.testing.assert_array_equal(mirrored[part][:, ::-1], frame[part])
