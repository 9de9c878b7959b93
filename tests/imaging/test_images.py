"""Decoding: every kind of image becomes upright RGB, every kind of bad bytes a typed error."""

import math
import os
import pickle
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from raster_files import png

from pipeline.errors import ImageError
from pipeline.imaging import images
from pipeline.imaging.classes import voc_palette
from pipeline.imaging.images import (
    SUPPORTED,
    decode_at_working_size,
    decode_image,
    decode_mask,
    encode_mask,
    resize_labels,
    working_size,
)
from pipeline.imaging.jpeg import decode_jpeg

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged metadata

LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {"compression": "tiff_lzw"}, "BMP": {}}


def encode(image: Image.Image, form: str, **options) -> bytes:
    with BytesIO() as file:
        image.save(file, form, **options)
        return file.getvalue()


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / width, 255 * y / height, 255 - 255 * x / width], axis=2).astype(np.uint8)


def decode(data: bytes) -> np.ndarray:
    image = decode_image(data, max_megapixels=1)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.flags.c_contiguous
    return image


def refusal(data: bytes, max_megapixels: float = 1) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(data, max_megapixels)
    return caught.value


@pytest.mark.parametrize("form", LOSSLESS)
@pytest.mark.parametrize("size", [(40, 60), (1, 1), (1, 5000), (5000, 1)])
def test_lossless_formats_give_back_their_pixels(form, size):
    pixels = noise(*size)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(pixels), form, **LOSSLESS[form])), pixels)


@pytest.mark.parametrize(("form", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {})])
def test_lossy_formats_come_close(form, options):
    pixels = smooth(60, 80)
    decoded = decode(encode(Image.fromarray(pixels), form, quality=95, **options))
    assert np.abs(decoded.astype(int) - pixels).mean() < 3


JPEGS = [
    encode(Image.fromarray(pixels), "JPEG", **options)
    for pixels in (smooth(61, 83), noise(37, 50), noise(33, 21, 1)[:, :, 0])
    for options in ({}, {"quality": 95, "subsampling": 0}, {"progressive": True}, {"restart_marker_blocks": 3})
]


@pytest.mark.parametrize("data", JPEGS)
def test_plain_jpegs_have_pillows_pixels_without_pillow(data):
    with Image.open(BytesIO(data)) as image:
        np.testing.assert_array_equal(decode_jpeg(image, data), np.asarray(image.convert("RGB")))
        np.testing.assert_array_equal(decode(data), np.asarray(image.convert("RGB")))


def outcome(data: bytes) -> np.ndarray | str:
    try:
        return decode(data)
    except ImageError as error:
        return error.kind


def pillows_outcome(data: bytes) -> np.ndarray | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "decode_jpeg", lambda *_: None)
        return outcome(data)


@given(st.sampled_from(JPEGS), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3),
       st.integers(0, 200), st.binary(max_size=6))  # fmt: skip
@settings(max_examples=3 * settings().max_examples)
@example(JPEGS[4], [(JPEGS[4].rindex(b"\xff\0") + 1, 0xC5)], 0, b"").via("libjpeg stops and fills up with grey")
@example(JPEGS[2], [], 0, b"\xff\xd9 and more").via("something behind the image")
def test_what_is_left_of_a_damaged_jpeg_is_what_pillow_makes_of_it_or_refused(data, flips, cut, tail):
    broken = bytearray(data[: len(data) - cut] + tail)
    for position, value in flips:
        broken[position % len(broken)] = value
    ours, pillows = outcome(bytes(broken)), pillows_outcome(bytes(broken))
    if isinstance(pillows, str):
        assert isinstance(ours, str)
    elif not isinstance(ours, str):
        np.testing.assert_array_equal(ours, pillows)


PHOTOGRAPH = encode(Image.fromarray(cv2.GaussianBlur(noise(200, 240), (0, 0), 3)), "JPEG", quality=90)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_cut_in_the_middle_whose_end_is_intact_is_refused(mode, options):
    with Image.open(BytesIO(PHOTOGRAPH)) as photograph:
        data = encode(photograph.convert(mode), "JPEG", quality=90, **options)
    assert decode(data).shape == (200, 240, 3)
    for share in (0.45, 0.6, 0.9):
        middle = int(len(data) * share)
        for broken in (data[:middle] + data[-2:], data[:middle] + data[middle + 300 :]):
            assert refusal(broken).kind in {"unreadable", "truncated"}


def test_what_is_odd_but_whole_is_taken():
    end = PHOTOGRAPH[-2:]
    for odd in (
        PHOTOGRAPH + b"\r\n", PHOTOGRAPH + bytes(500) + b"trailer", PHOTOGRAPH[:-2] + bytes(7) + end,
        PHOTOGRAPH[:20] + b"junk!" + PHOTOGRAPH[20:], PHOTOGRAPH.replace(b"JFIF\0\1\1", b"JFIF\0\x09\1", 1),
    ):  # fmt: skip
        np.testing.assert_array_equal(decode(odd), decode(PHOTOGRAPH))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_exif_orientation_is_applied(form, orientation):
    pixels = smooth(24, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {**LOSSLESS, "JPEG": {"quality": 95}}[form]
    data = encode(Image.fromarray(pixels), form, exif=exif, **options)
    turned = {2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.transpose(1, 0, 2),
              6: np.rot90(pixels, -1), 7: np.rot90(pixels, 2).transpose(1, 0, 2), 8: np.rot90(pixels)}  # fmt: skip
    expected = turned.get(orientation, pixels)
    decoded = decode(data)
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).mean() < 3


def test_damaged_exif_data_does_not_cost_the_image():
    pixels = smooth(20, 30)
    data = encode(Image.fromarray(pixels), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert np.abs(decode(data).astype(int) - pixels).mean() < 3


def test_grey_and_bilevel():
    grey = noise(10, 20, 1)[:, :, 0]
    np.testing.assert_array_equal(decode(encode(Image.fromarray(grey), "PNG")), np.dstack([grey] * 3))
    bilevel = Image.fromarray(grey > 127)
    np.testing.assert_array_equal(decode(encode(bilevel, "PNG"))[:, :, 1], np.where(grey > 127, 255, 0))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_transparency_is_laid_on_white(form):
    rgba = noise(16, 16, 4)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    if form == "WEBP":  # keeps no colour where it is fully transparent
        rgba[0, :, :3] = 0
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    decoded = decode(encode(Image.fromarray(rgba), form, **options))
    alpha = rgba[:, :, 3:].astype(float) / 255
    expected = rgba[:, :, :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decoded - expected).max() <= 1
    assert (decoded[0] == 255).all()
    np.testing.assert_array_equal(decoded[1], rgba[1, :, :3])


def test_grey_with_alpha_is_laid_on_white():
    la = np.array([[[10, 0], [10, 255]]], dtype=np.uint8)
    assert decode(encode(Image.fromarray(la), "PNG")).tolist() == [[[255] * 3, [10] * 3]]


def test_palettes_with_and_without_transparency():
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    assert decode(encode(image, "PNG")).tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    for form in ("PNG", "GIF"):
        assert decode(encode(image, form, transparency=1)).tolist() == [[[255, 0, 0], [255] * 3, [0, 0, 255]]]


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_keeps_its_colours(form):
    """Pillow writes Adobe's inverted CMYK to JPEG and plain CMYK to TIFF."""
    pixels = smooth(40, 60)
    data = encode(Image.fromarray(pixels).convert("CMYK"), form, **({"quality": 95} if form == "JPEG" else {}))
    assert (b"Adobe" in data) == (form == "JPEG")
    assert np.abs(decode(data).astype(int) - pixels).mean() < 1


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 3)])
def test_16_bits_are_scaled_not_clipped(suffix, shape):
    deep = np.full(shape, 0x12FF, dtype=np.uint16)
    deep[0, 0], deep[2, 3] = 0xFFFF, 0x00FF
    ok, data = cv2.imencode(suffix, deep)
    assert ok
    expected = np.full((3, 4, 3), 0x12)
    expected[0, 0], expected[2, 3] = 255, 0
    np.testing.assert_array_equal(decode(data.tobytes()), expected)


def test_big_endian_16_bit_tiff():
    shorts = {256: 2, 257: 1, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 4}
    ifd = [(tag, 3, 1, value << 16) for tag, value in shorts.items()]
    body = struct.pack(">HH", 0x1234, 0xFFFE)
    entries = b"".join(struct.pack(">HHII", *entry) for entry in ifd)
    data = b"MM\0*" + struct.pack(">I", 12) + body + struct.pack(">H", len(ifd)) + entries + b"\0\0\0\0"
    assert decode(data)[:, :, 0].tolist() == [[0x12, 0xFF]]


def test_values_without_a_range_are_refused_with_a_reason():
    for dtype in (np.float32, np.int32):
        data = encode(Image.fromarray(np.ones((4, 4), dtype=dtype)), "TIFF")
        error = refusal(data)
        assert error.kind == "unsupported"
        assert "convert" in str(error)
    lab = ImageCms.applyTransform(Image.fromarray(smooth(4, 4)), ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"))  # fmt: skip
    assert refusal(encode(lab, "TIFF")).kind == "unsupported"


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_taken(form):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime")]
    options = {"lossless": True} if form == "WEBP" else {}
    decoded = decode(encode(frames[0], form, save_all=True, append_images=frames[1:], **options))
    assert (decoded == [255, 0, 0]).all()


def test_no_bytes_and_no_image():
    assert refusal(b"").kind == "empty"
    assert refusal(b"name,label\nx.jpg,cat\n").kind == "not_an_image"
    assert refusal(b"<html>404</html>").kind == "not_an_image"
    assert refusal(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").kind == "not_an_image"


def test_a_signature_with_rubbish_behind_is_unreadable():
    assert refusal(b"II*\0" + b"rubbish" * 9).kind == "unreadable"
    assert refusal(b"GIF89a").kind == "unreadable"
    assert refusal(b"\x89PNG\r\n\x1a\n").kind == "unreadable"


def test_a_bomb_is_refused_from_its_header():
    """30 000 x 30 000 pixels in a file of a few bytes, with no pixel data at all: decoding would say `truncated`."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    error = refusal(data, max_megapixels=200)
    assert error.kind == "too_large"
    assert "30000x30000" in str(error)
    assert "at most 200" in str(error)


def test_the_limit_itself_is_allowed():
    data = encode(Image.new("RGB", (1000, 1000)), "PNG")
    assert decode_image(data, max_megapixels=1).shape == (1000, 1000, 3)
    assert refusal(data, max_megapixels=0.999).kind == "too_large"


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(refusal(b"")))
    assert (error.kind, str(error)) == ("empty", "the file is empty")


def samples() -> list[bytes]:
    image = Image.fromarray(noise(24, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = image.convert("P")
    return [
        encode(image, "JPEG", exif=exif), encode(image, "JPEG", progressive=True),
        encode(image.convert("CMYK"), "JPEG"), encode(image, "PNG", exif=exif), encode(palette, "PNG", transparency=3),
        encode(image, "WEBP"), encode(image, "WEBP", lossless=True, exif=exif), encode(image, "TIFF"),
        encode(image, "TIFF", compression="tiff_lzw"), encode(image, "TIFF", compression="jpeg"),
        encode(image, "BMP"), encode(palette, "BMP"),
        encode(palette, "GIF", save_all=True, append_images=[palette.rotate(90)]),
    ]  # fmt: skip


SAMPLES = samples()


@given(st.sampled_from(range(len(SAMPLES))), st.floats(0, 1, exclude_max=True))
@settings(max_examples=3 * settings().max_examples)
def test_a_truncated_file_is_an_error_or_whole_never_half_grey(index: int, share: float):
    data = SAMPLES[index]
    cut = data[: int(len(data) * share)]
    try:
        pixels = decode(cut)
    except ImageError:
        return
    np.testing.assert_array_equal(pixels, decode(data))  # only the end marks after the pixels were cut off


@given(st.sampled_from(range(len(SAMPLES))),
       st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6))  # fmt: skip
@settings(max_examples=3 * settings().max_examples)
def test_flipped_bytes_give_an_image_or_a_typed_error(index: int, flips: list[tuple[int, int]]):
    data = bytearray(SAMPLES[index])
    for position, value in flips:
        data[position % len(data)] = value
    with suppress(ImageError):
        assert decode(bytes(data)).size > 0


@given(st.binary(max_size=200))
@settings(max_examples=2 * settings().max_examples)
def test_random_bytes_are_refused(data: bytes):
    assert refusal(data).kind in {"empty", "not_an_image", "unreadable", "truncated"}


def test_every_supported_suffix_is_known_to_the_decoder():
    for suffix in SUPPORTED:
        form = Image.registered_extensions()[suffix]
        assert decode(encode(Image.new("RGB", (4, 4)), form)).shape == (4, 4, 3)


@pytest.mark.parametrize(("height", "width", "expected"), [
    (480, 640, (480, 640)), (960, 1280, (480, 640)), (1, 5000, (1, 640)), (5000, 1, (640, 1)), (1, 1, (1, 1)),
    (333, 777, (274, 640)), (641, 640, (640, 639)),
])  # fmt: skip
def test_the_working_size(height, width, expected):
    assert working_size(noise(height, width), 640).shape == (*expected, 3)


def test_scaling_down_averages_areas():
    image = noise(64, 96)
    scaled = working_size(image, 24)
    blocks = image.reshape(16, 4, 24, 4, 3).mean(axis=(1, 3))
    assert np.abs(scaled - blocks).max() <= 1


@pytest.mark.parametrize(("options", "tolerance"), [
    ({"quality": 95}, 1.5), ({"quality": 95, "subsampling": 0}, 1.0), ({"quality": 95, "progressive": True}, 1.5),
])  # fmt: skip
@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_a_shrunk_jpeg_has_about_the_means_of_its_blocks(shrink, options, tolerance):
    data = encode(Image.fromarray(smooth(96, 160)), "JPEG", **options)
    with Image.open(BytesIO(data)) as image:
        small = decode_jpeg(image, data, shrink)
    blocks = decode(data).reshape(96 // shrink, shrink, 160 // shrink, shrink, 3).mean(axis=(1, 3))
    assert small.shape == blocks.shape
    assert np.abs(small - blocks).mean() < tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("height", "width"), [(96, 160), (200, 336), (160, 94), (97, 161), (30, 20)])
def test_a_jpeg_straight_to_working_size_is_the_decoded_one_scaled(height, width, orientation):
    """Also where the image lies on its side in the file. Sides that leave a rest are not divided."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(smooth(height, width)), "JPEG", quality=95, exif=exif)
    whole = decode(data)
    for max_side in (0, 20, 40, 64, 333):
        found, size = decode_at_working_size(data, 100, max_side)
        expected = working_size(whole, max_side)
        assert (size, found.shape) == (whole.shape[:2], expected.shape)
        assert np.abs(found.astype(int) - expected).mean() < 1.5
        if max_side == 0 or max(size) < 3 * max_side or size[0] % 2 or size[1] % 2:
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("form", [*LOSSLESS, "WEBP"])
def test_other_formats_are_decoded_whole(form):
    data = encode(Image.fromarray(smooth(80, 120)), form, **LOSSLESS.get(form, {}))
    found, size = decode_at_working_size(data, 100, 16)
    np.testing.assert_array_equal(found, working_size(decode(data), 16))
    assert size == (80, 120)


@given(st.sampled_from(JPEGS), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3),
       st.integers(0, 200))  # fmt: skip
@settings(max_examples=2 * settings().max_examples)
@example(JPEGS[4], [(JPEGS[4].rindex(b"\xff\0") + 1, 0xC5)], 0).via("libjpeg stops and fills up with grey")
def test_damage_is_noticed_in_a_shrunk_jpeg_as_in_a_whole_one(data, flips, cut):
    damaged = bytearray(data)
    for at, value in flips:
        damaged[at % len(damaged)] = value
    damaged = bytes(damaged[: len(damaged) - cut])
    whole = outcome(damaged)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "decode", lambda one: decode_at_working_size(one, 1, 5)[0])
        shrunk = outcome(damaged)
    if isinstance(whole, str):
        assert shrunk == whole
    else:
        assert shrunk.shape == working_size(whole, 5).shape


def test_max_side_0_and_small_images_are_left_alone():
    image = noise(700, 20)
    assert working_size(image, 0) is image
    assert working_size(image, 700) is image


def test_masks_keep_every_label():
    labels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    png = encode_mask(labels, voc_palette())
    np.testing.assert_array_equal(decode_mask(png), labels)
    with Image.open(BytesIO(png)) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), voc_palette()[labels])


def how_to_read_masks() -> list[str]:
    """The lines of docs/segmenting.md, one a library."""
    text = (Path(__file__).parents[2] / "docs" / "segmenting.md").read_text()
    return [line for line in text.splitlines() if line.startswith("labels = ")]


@pytest.mark.parametrize("line", how_to_read_masks())
@pytest.mark.parametrize("palette", [None, voc_palette()])
def test_the_documented_lines_read_masks(line, palette, tmp_path):
    import torchvision

    labels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    file = tmp_path / "mask.png"
    file.write_bytes(encode_mask(labels, palette))
    names = {"np": np, "Image": Image, "cv2": cv2, "torchvision": torchvision, "mask": str(file)}
    exec(line, names)
    read_rightly = np.array_equal(names["labels"], labels)
    assert read_rightly == (palette is None or "both formats" in line)
    np.testing.assert_array_equal(decode_mask(file.read_bytes()), labels)


def test_there_is_a_line_for_each_library():
    assert [word for line in how_to_read_masks() for word in ("Pillow", "OpenCV", "torchvision") if word in line] == [
        "Pillow", "OpenCV", "torchvision",
    ]  # fmt: skip


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("colour_type", [0, 3])
def test_masks_keep_the_values_that_are_stored_at_every_depth(bits, colour_type):
    labels = noise(9, 13, 1) & ((1 << bits) - 1)
    data = png(labels, bits, colour_type, palette=noise(1, 1 << bits)[0] if colour_type == 3 else None)
    np.testing.assert_array_equal(decode_mask(data), labels[:, :, 0])


def test_grey_masks_and_small_palettes_are_read():
    labels = np.array([[0, 1, 2, 1]], dtype=np.uint8)
    np.testing.assert_array_equal(decode_mask(encode(Image.fromarray(labels), "PNG")), labels)
    image = Image.fromarray(labels)
    image.putpalette([0, 0, 0, 9, 9, 9, 8, 8, 8])
    np.testing.assert_array_equal(decode_mask(encode(image, "PNG", bits=2)), labels)


def test_what_is_no_mask_is_refused():
    grey = Image.new("L", (4, 4))
    for data, kind in [
        (b"", "empty"), (b"text", "not_an_image"), (encode(Image.new("RGB", (4, 4)), "PNG"), "unsupported"),
        (encode(Image.new("1", (4, 4)), "PNG"), "unsupported"), (encode(grey, "JPEG"), "unsupported"),
        (encode(Image.new("I;16", (4, 4)), "PNG"), "unsupported"),
        (encode(Image.fromarray(noise(30, 30, 1)[:, :, 0]), "PNG")[:200], "truncated"),
    ]:  # fmt: skip
        with pytest.raises(ImageError) as caught:
            decode_mask(data)
        assert caught.value.kind == kind


@pytest.mark.parametrize(("shape", "dtype"), [((2, 2), np.int64), ((2, 2, 1), np.uint8), ((0, 2), np.uint8)])
def test_only_uint8_label_maps_are_encoded(shape, dtype):
    labels = np.zeros(shape, dtype)
    with pytest.raises(ValueError, match="label map"):
        encode_mask(labels, voc_palette())


def test_only_whole_palettes_are_used():
    with pytest.raises(ValueError, match="palette"):
        encode_mask(np.zeros((2, 2), np.uint8), voc_palette()[:21])


@given(*[st.integers(1, 20)] * 4)
def test_resized_labels_lie_under_the_pixel_centres(height, width, new_height, new_width):
    labels = noise(height, width, 1)[:, :, 0]
    resized = resize_labels(labels, new_height, new_width)
    for y, x in np.ndindex(new_height, new_width):
        source_y = math.floor((y + Fraction(1, 2)) * height / new_height)
        source_x = math.floor((x + Fraction(1, 2)) * width / new_width)
        assert resized[y, x] == labels[source_y, source_x]


def test_voc_files_round_trip(voc):
    for path in sorted((voc / "SegmentationClass").glob("*.png"))[::60]:
        labels = decode_mask(path.read_bytes())
        with Image.open(path) as image:
            np.testing.assert_array_equal(labels, np.asarray(image))
        np.testing.assert_array_equal(decode_mask(encode_mask(labels, voc_palette())), labels)
        photograph = decode((voc / "JPEGImages" / f"{path.stem}.jpg").read_bytes())
        assert photograph.shape == (*labels.shape, 3)


DAMAGES = 20


def damaged(data: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    """20 truncations, 20 flips of one byte, and all 20 flips together."""
    for end in rng.integers(0, len(data), DAMAGES):
        yield data[:end]
    together = bytearray(data)
    for at, by in zip(rng.integers(0, len(data), DAMAGES), rng.integers(1, 256, DAMAGES), strict=True):
        together[at] ^= by
        yield data[:at] + bytes([data[at] ^ by]) + data[at + 1 :]
    yield bytes(together)


def test_photographs_that_are_cut_or_flipped_give_an_image_or_an_image_error(voc):
    """Anything else fails, a crash too. A sample; all 7,800 files with DECONVNET_EVERY_FILE=1, in half an hour."""
    every = 1 if os.environ.get("DECONVNET_EVERY_FILE") else 180
    rng = np.random.default_rng(0)
    files = sorted(path for path in voc.parent.rglob("*") if path.suffix in {".jpg", ".png"})[::every]
    assert len(files) > 40
    outcomes: Counter[str] = Counter()
    for path in files:
        for broken in damaged(path.read_bytes(), rng):
            try:
                image_HW3 = decode_image(broken, 200)
            except ImageError as error:
                outcomes[error.kind] += 1
            else:
                outcomes["image"] += 1
                assert image_HW3.ndim == 3
    assert outcomes["truncated"] > len(files) * DAMAGES / 2
