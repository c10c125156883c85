from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from datamodules.decoding.pictures import PAD_COLOUR
from tap_platform.prediction.images import find_images, read_image

RED = (200, 30, 10)


def saved(tmp_path, image, name="image.png", **how):
    image.save(tmp_path / name, **how)
    return tmp_path / name


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr", "HSV"])
def test_every_mode_becomes_rgb(mode):
    image = Image.new("RGB", (5, 3), RED)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    pixels = read_image(image)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (3, 5, 3))
    assert np.abs(pixels.astype(int) - RED).max() <= 4


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_becomes_three_equal_channels(mode):
    pixels = read_image(Image.new("L", (5, 3), 255).convert(mode))
    assert (pixels == 255).all()
    assert pixels.shape == (3, 5, 3)


def test_a_cmyk_jpeg(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (16, 16), RED).convert("CMYK"), "c.jpg", quality=95)
    assert np.abs(read_image(path).astype(int) - RED).max() <= 6


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_of_16_bits_the_upper_8_are_kept(tmp_path, name):
    values = np.array([[0, 255, 256, 65535]], np.uint16)
    path = saved(tmp_path, Image.fromarray(values), name)
    assert read_image(path)[0, :, 0].tolist() == [0, 0, 1, 255]
    assert read_image(values)[0, :, 0].tolist() == [0, 0, 1, 255]


def test_transparency_shows_the_pad_colour(tmp_path):
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (*RED, 0))
    assert read_image(image)[0].tolist() == [list(RED), list(PAD_COLOUR)]
    palette = Image.new("P", (1, 1), 3)
    palette.putpalette([9] * 768)
    path = saved(tmp_path, palette, transparency=3)
    assert read_image(path)[0, 0].tolist() == list(PAD_COLOUR)


def test_images_are_turned_as_their_camera_was(tmp_path):
    image = Image.new("RGB", (32, 16), (0, 0, 0))
    image.paste(RED, (0, 0, 8, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is at the right
    pixels = read_image(saved(tmp_path, image, "turned.jpg", exif=exif, quality=95))
    assert pixels.shape == (32, 16, 3)
    assert pixels[4, 8, 0] > 150
    assert pixels[28, 8, 0] < 50


def test_arrays_of_every_shape():
    array = np.zeros((3, 5, 4), np.uint8)
    array[..., 0], array[..., 3] = 9, 255
    assert read_image(array[..., :3])[0, 0].tolist() == [9, 0, 0]
    assert read_image(array[..., :3], "BGR")[0, 0].tolist() == [0, 0, 9]
    assert read_image(array)[0, 0].tolist() == [9, 0, 0]
    assert read_image(array, "BGR")[0, 0].tolist() == [0, 0, 9]
    assert read_image(array[..., 0])[0, 0].tolist() == [9, 9, 9]
    assert read_image(array[..., :1])[0, 0].tolist() == [9, 9, 9]


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((3, 5, 3), np.float32), "not of float32"),
        (np.zeros((5,), np.uint8), r"not \[5\]"),
        (np.zeros((3, 5, 2), np.uint8), r"not \[3, 5, 2\]"),
        (np.zeros((0, 5, 3), np.uint8), r"not \[0, 5, 3\]"),
        (np.array([["a"]]), "uint8 from 0 to 255"),
    ],
)
def test_arrays_that_are_no_image_are_refused(array, told):
    with pytest.raises(ValueError, match=told):
        read_image(array)


def test_files_that_are_no_image_are_refused_in_words(tmp_path):
    text = tmp_path / "notes.jpg"
    text.write_text("milk, bread\n")
    with pytest.raises(ValueError, match=r"notes.jpg is no image \(it starts with 'milk, bread"):
        read_image(text)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty.png is empty"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(ValueError, match=r"nowhere.png cannot be read: No such file"):
        read_image(tmp_path / "nowhere.png")
    script = tmp_path / "script.png"
    script.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n")
    with pytest.raises(ValueError, match="is no image"):
        read_image(script)


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png"])
def test_a_truncated_file_is_refused(tmp_path, name):
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), name)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=f"{name} is broken"):
        read_image(path)


def test_bombs_are_refused(monkeypatch):
    monkeypatch.setattr("tap_platform.prediction.images.MAX_PIXELS", 10)
    with pytest.raises(ValueError, match="million pixels"):
        read_image(Image.new("L", (11, 1)))


def test_a_folder_gives_its_images_by_name(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", "deeper/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([tmp_path, tmp_path / "notes.txt"])
    assert [file.name for file in found] == ["a.png", "b.JPG", "c.webp", "notes.txt"]
    with pytest.raises(ValueError, match="there is no image"):
        find_images([tmp_path / "nowhere"])
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        find_images([tmp_path / "none"])
