"""Pictures and priors made to mislead: each condemns its sample."""

import io

import numpy as np
import pytest
import simplejpeg
from data_samples import box_mask, png, raw, region, sample, smooth_image
from hostile_bytes import FRAME, HEIGHT, SIZE, WIDTH, decode, detailed, npy, shaped
from PIL import Image

from datamodules.decoding.decode import BadSampleError, decode_sample
from datamodules.decoding.pictures import MAX_SCANS
from datamodules.shards.records import encode_priors
from tap_platform.config.data import ShardSource


class TestPictures:
    def test_a_jpeg_whose_data_are_corrupt_in_the_middle_is_refused(self):
        whole = detailed()
        assert simplejpeg.decode_jpeg(whole).shape == (*SIZE, 3)
        rng = np.random.default_rng(1)
        middle = len(whole) // 2
        for _ in range(20):
            broken = bytearray(whole)
            broken[middle : middle + 400] = rng.integers(0, 255, 400, np.uint8).tobytes()
            with pytest.raises(BadSampleError, match="cannot be decoded"):
                decode(image=bytes(broken))

    @pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_a_scan_that_would_be_filled_with_grey_is_refused(self, end, progressive):
        whole = detailed(progressive=progressive)
        with pytest.raises(BadSampleError, match="cannot be decoded"):
            decode(image=whole[: len(whole) * 2 // 3] + end)

    def test_cmyk_is_decoded_and_as_strict(self):
        picture = Image.fromarray(smooth_image(*SIZE)).convert("CMYK")
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=95)
        whole = bytearray(buffer.getvalue())
        for transform in (0, 2):  # Adobe's marks of CMYK and YCCK
            whole[whole.index(b"Adobe") + 11] = transform
            expected = np.asarray(Image.open(io.BytesIO(whole)).convert("RGB"))
            decoded = simplejpeg.decode_jpeg(bytes(whole))
            assert np.abs(decoded.astype(int) - expected).max() <= 2
            assert decode(image=bytes(whole)).size == (48, 64)
            with pytest.raises(BadSampleError, match="cannot be decoded"):
                decode(image=bytes(whole[: len(whole) // 2]) + b"\xff\xd9")

    def test_a_bomb_of_many_scans_is_refused_unread(self):
        whole = detailed(progressive=True)
        scan = whole[whole.rindex(b"\xff\xda") : -2]
        bomb = whole[:-2] + b"\xff\xda" * MAX_SCANS + scan + whole[-2:]
        with pytest.raises(BadSampleError, match="scans"):
            decode(image=bomb)
        assert decode(image=whole).size == (48, 64)

    def test_only_progressive_jpegs_are_searched_for_scans(self):
        comment = b"\xff\xfe" + (2 + 4 * MAX_SCANS).to_bytes(2, "big") + b"\xff\xda" * 2 * MAX_SCANS
        whole = detailed()
        filled = whole[:2] + b"\xff" + comment + whole[2:]
        assert decode(image=filled).size == (48, 64)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:],
            lambda data: data[: len(data) // 2],
            lambda data: data.replace(b"IDAT", b"IDAX"),
            lambda data: data[:33],
            lambda data: data[:24],
        ],
    )
    def test_a_broken_png_is_refused(self, damage):
        whole = png(Image.fromarray(smooth_image(*SIZE)))
        with pytest.raises(BadSampleError, match="cannot be decoded"):
            decode(image=damage(whole))

    def test_a_picture_of_another_kind_is_refused(self):
        buffer = io.BytesIO()
        Image.fromarray(smooth_image(*SIZE)).save(buffer, "BMP")
        with pytest.raises(BadSampleError, match="neither a JPEG nor a PNG"):
            decode(image=buffer.getvalue())


class TestPriors:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (npy(shaped("(1000000, 1000000)")), "shape"),
            (npy(shaped("(2, 4)")), "0 bytes of numbers, where the shape calls for 16"),
            (npy(shaped("(2, 4)"), bytes(15)), "numpy array"),
            (npy(shaped("(2, 4)"), bytes(17)), "numpy array"),
            (npy(shaped(f"({10**30}, 4)")), "numpy array"),
            (npy(shaped("(2, -4)")), "numpy array"),
            (npy(shaped("(8,)"), bytes(16)), "numpy array"),
            (npy(shaped("(2, 4)", order="True"), bytes(16)), "numpy array"),
            (npy(shaped("(2, 4)", "|O"), bytes(64)), "not a numpy array of floats"),
            (npy(shaped("(2, 4)", "<i2"), bytes(16)), "not a numpy array of floats"),
            (npy(shaped("(2, 4)", "|b1"), bytes(8)), "not a numpy array of floats"),
            (npy(shaped("(2, 4)", "<c8"), bytes(64)), "not a numpy array of floats"),
            (npy(shaped("(2, 4)", "<f2,<f2"), bytes(32)), "not a numpy array of floats"),
            (npy("__import__('os').abort()"), "numpy array"),
            (npy("(" * 100), "numpy array"),
            (b"\x93NUMPY\x01\x00\xff\xff", "numpy array"),
            (b"\x80\x04N.", "numpy array"),
            (encode_priors(np.full((2, 4), np.inf)), "NaN or infinity"),
        ],
    )
    def test_priors_that_mislead_are_refused(self, data, message):
        with pytest.raises(BadSampleError, match=message):
            decode(priors=data)

    @pytest.mark.parametrize("kind", ["<f2", ">f2", "<f4", ">f4", "<f8"])
    def test_floats_of_any_kind_are_read(self, kind):
        priors = np.arange(8).reshape(2, 4).astype(kind)
        decoded = decode(priors=npy(shaped("(2, 4)", kind), priors.tobytes()))
        np.testing.assert_array_equal(np.sort(decoded.priors.ravel()), np.arange(8))

    def test_a_prior_that_is_not_drawn_is_not_looked_at(self):
        made = sample(
            regions=[region(box_mask(*SIZE, 4, 6, 80, 100))] * 9, height=HEIGHT, width=WIDTH
        )
        made.priors[0] = np.nan
        source = ShardSource(path="", regions_per_image=3)

        def outcome(seed):
            try:
                decode_sample(raw(made), seed, source, FRAME, {}, training=False)
            except BadSampleError as error:
                return str(error)
            return "good"

        outcomes = [outcome(seed) for seed in range(20)]
        assert set(outcomes) == {"the priors hold NaN or infinity", "good"}
        assert outcomes == [outcome(seed) for seed in range(20)]
