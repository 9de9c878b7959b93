"""Layouts of TIFF, BMP and PNG drawn at random: the pixels that were written, or a refusal; never other pixels."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from raster_files import bmp, chunk, png, tiff

from pipeline.errors import ImageError
from pipeline.imaging.images import decode_image

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged tags

HEIGHT, WIDTH = 11, 13
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK = 0, 1, 2, 3, 5
OWN_BANDS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4}
MULTIPLIED_IN, BESIDE = 1, 2


def samples(seed, bands, bits, height=HEIGHT, width=WIDTH):
    return np.random.default_rng(seed).integers(0, 1 << bits, (height, width, bands))


def to_8_bits(samples_HWC, bits):
    return samples_HWC >> 8 if bits == 16 else samples_HWC * 255 / ((1 << bits) - 1)


def on_white(rgb_HW3, alpha_HW):
    alpha_HW1 = alpha_HW[:, :, None] / 255
    return rgb_HW3 * alpha_HW1 + 255 * (1 - alpha_HW1)


def is_right_or_refused(data, expected_HW3):
    """True: decoded; False: refused, with a reason. The bytes are those of a sound file, so nothing is damaged."""
    try:
        decoded = decode_image(data, 1)
    except ImageError as error:
        refused = error
    else:
        assert decoded.shape == (*expected_HW3.shape[:2], 3)
        assert np.abs(decoded - expected_HW3).max() <= 2  # the roundings of Pillow's CMYK and of its alpha
        return True
    assert refused.kind == "unsupported", refused
    return False


def tiff_and_pixels(seed, bits, photometric, extra, untagged, **layout):
    """A TIFF with further bands, tagged by `extra` or not, and the picture in it."""
    own = OWN_BANDS[photometric]
    stored = samples(seed, own + len(extra), bits)
    palette = samples(seed, 1, 16, 3, 1 << bits).ravel() if photometric == PALETTE else None
    shown = stored[:, :, :own]
    alpha = extra[0] if extra and not untagged else 0
    if alpha == MULTIPLIED_IN:  # so that no colour is more than its alpha
        stored[:, :, own] = np.maximum(stored[:, :, own], shown.max(axis=2))
    if photometric == WHITE_IS_ZERO:
        shown = (1 << bits) - 1 - shown
    if palette is not None:
        rgb = (palette.reshape(3, -1) >> 8)[:, shown[:, :, 0]].transpose(1, 2, 0)
    elif photometric == CMYK:
        inks = to_8_bits(shown, bits)
        rgb = (255 - inks[:, :, :3]) * (255 - inks[:, :, 3:]) / 255
    else:
        rgb = np.broadcast_to(to_8_bits(shown, bits), (HEIGHT, WIDTH, 3))
    if alpha:
        opacity = to_8_bits(stored[:, :, own], bits)
        rgb = on_white(rgb, opacity) if alpha == BESIDE else rgb + 255 - opacity[:, :, None]
    tags = () if untagged else extra
    return tiff(stored, bits, photometric, extra=tags, palette=palette, **layout), rgb


@given(
    seed=st.integers(0, 1000), bits=st.sampled_from([1, 2, 4, 8, 16]), photometric=st.sampled_from(sorted(OWN_BANDS)),
    extra=st.lists(st.sampled_from([0, MULTIPLIED_IN, BESIDE]), max_size=2).map(tuple), untagged=st.booleans(),
    planar=st.booleans(), big_endian=st.booleans(), deflate=st.booleans(), rows=st.sampled_from([None, 4]),
    predictor=st.booleans(), orientation=st.sampled_from([1, 1, 6]), tile=st.sampled_from([None, None, 16]),
)  # fmt: skip
@settings(max_examples=5 * settings().max_examples)
@example(0, 16, RGB, (), False, True, False, False, None, False, 1, None).via("16-bit planes")
@example(0, 16, WHITE_IS_ZERO, (), False, False, False, False, None, False, 1, None).via("16 bits, white is zero")
@example(0, 8, RGB, (0,), True, False, False, False, None, False, 1, None).via("a fourth band without a tag: infrared")
@example(0, 8, BLACK_IS_ZERO, (BESIDE,), False, True, False, False, None, False, 1, None).via(
    "alpha in a plane of its own"
)
@example(0, 8, RGB, (0,), True, True, False, False, None, False, 1, None).via("a fourth plane without a tag")
@example(0, 8, WHITE_IS_ZERO, (), False, True, False, False, 4, False, 1, None).via("one plane, white is zero")
def test_tiffs(
    seed, bits, photometric, extra, untagged, planar, big_endian, deflate, rows, predictor, orientation, tile
):
    if photometric == PALETTE and bits > 8:
        bits = 8
    layout = {"planar": planar, "big_endian": big_endian, "deflate": deflate, "rows": rows,
              "predictor": predictor and deflate and bits >= 8, "orientation": orientation,
              "tile": tile}  # fmt: skip
    data, expected = tiff_and_pixels(seed, bits, photometric, extra, untagged, **layout)
    is_right_or_refused(data, np.rot90(expected, -1) if orientation == 6 else expected)


def test_a_tile_is_as_large_as_an_image_may_be():
    """It is decoded whole: of an image of a few pixels, a tile of gigabytes."""
    stored = samples(0, 3, 8)
    data = tiff(stored, 8, RGB, tile=1008, deflate=True)
    np.testing.assert_array_equal(decode_image(data, 1.1), stored)
    with pytest.raises(ImageError, match="1008x1008 pixels of a tile") as caught:
        decode_image(data, 1)
    assert caught.value.kind == "too_large"


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize(("bits", "photometric", "extra", "untagged", "planar"), [
    (8, BLACK_IS_ZERO, (), False, False), (8, WHITE_IS_ZERO, (), False, False), (16, BLACK_IS_ZERO, (), False, False),
    (16, WHITE_IS_ZERO, (), False, False), (8, RGB, (), False, True), (16, RGB, (), False, False),
    (16, RGB, (), False, True), (8, RGB, (0,), False, False), (8, RGB, (0,), True, False), (16, RGB, (0,), True, False),
    (8, RGB, (BESIDE,), False, False), (16, RGB, (BESIDE,), False, False), (8, RGB, (0, 0), False, False),
    (8, CMYK, (), False, False), (4, PALETTE, (), False, False), (1, WHITE_IS_ZERO, (), False, False),
])  # fmt: skip
def test_usual_tiffs_are_decoded(bits, photometric, extra, untagged, planar, deflate, big_endian):
    layout = {"planar": planar, "deflate": deflate, "big_endian": big_endian}
    assert is_right_or_refused(*tiff_and_pixels(0, bits, photometric, extra, untagged, **layout))


@pytest.mark.parametrize(("change", "said"), [
    ({"bits": 32}, "32 bits"), ({"sample_format": 2}, "signed"), ({"photometric": BLACK_IS_ZERO}, "3 bands"),
])  # fmt: skip
def test_tiffs_without_a_meaning_are_refused_with_the_reason(change, said):
    layout = {"bits": 8, "photometric": RGB} | change
    stored = samples(0, 1 if "photometric" not in change else 3, 8)
    if "photometric" not in change:
        layout["photometric"] = BLACK_IS_ZERO
    with pytest.raises(ImageError, match=said) as caught:
        decode_image(tiff(stored, **layout), 1)
    assert caught.value.kind == "unsupported"


BYTE_MASKS = {"BGRA": (16, 8, 0, 24), "RGBA": (0, 8, 16, 24), "ABGR": (24, 16, 8, 0), "BGAR": (24, 8, 0, 16)}
WORD_MASKS = {"565": ((11, 5), (5, 6), (0, 5)), "555": ((10, 5), (5, 5), (0, 5))}


@given(seed=st.integers(0, 1000), order=st.sampled_from(sorted(BYTE_MASKS)), alpha=st.sampled_from(["0", "255", "any"]),
       tagged=st.booleans(), header=st.sampled_from([40, 56, 108, 124]), top_down=st.booleans())  # fmt: skip
@settings(max_examples=3 * settings().max_examples)
@example(0, "BGRA", "0", True, 108, False).via("an alpha of zeros, by programs that know none")
def test_32_bit_bmps(seed, order, alpha, tagged, header, top_down):
    rgb, opacity = samples(seed, 3, 8), {"0": 0, "255": 255}.get(alpha, samples(seed + 1, 1, 8)[:, :, 0])
    opacity_HW = np.broadcast_to(opacity, (HEIGHT, WIDTH))
    words = sum(
        band << shift for band, shift in zip([*rgb.transpose(2, 0, 1), opacity_HW], BYTE_MASKS[order], strict=True)
    )
    masks = [255 << shift for shift in BYTE_MASKS[order]]
    if not tagged or header == 40:
        masks[3] = 0
    counts = masks[3] and opacity_HW.any()
    data = bmp(words, 32, masks=tuple(masks), header=header, top_down=top_down)
    decoded = is_right_or_refused(data, on_white(rgb, opacity_HW) if counts else rgb)
    assert decoded or (order == "RGBA" and masks[3] == 0)


@pytest.mark.parametrize("header", [40, 108, 124])
@pytest.mark.parametrize("top_down", [False, True])
def test_bmps_of_16_and_24_bits_and_32_without_masks(header, top_down):
    rgb, layout = samples(0, 3, 8), {"header": header, "top_down": top_down}
    assert is_right_or_refused(bmp(rgb[:, :, ::-1], 24, **layout), rgb)
    assert is_right_or_refused(bmp(rgb[:, :, 0] << 16 | rgb[:, :, 1] << 8 | rgb[:, :, 2], 32, **layout), rgb)
    for name, bands in WORD_MASKS.items():
        parts = [samples(1, 1, bits)[:, :, 0] for _, bits in bands]
        words = sum(part << shift for part, (shift, _) in zip(parts, bands, strict=True))
        masks = (*(((1 << bits) - 1) << shift for shift, bits in bands), 0)
        expected = np.stack([to_8_bits(part, bits) for part, (_, bits) in zip(parts, bands, strict=True)], axis=2)
        assert is_right_or_refused(bmp(words, 16, masks=masks, **layout), expected)
        if name == "555":
            assert is_right_or_refused(bmp(words, 16, **layout), expected)


@given(seed=st.integers(0, 1000), bits=st.sampled_from([1, 4, 8]), colours=st.integers(1, 256),
       palette=st.sampled_from(["any", "greys", "black and white"]), top_down=st.booleans())  # fmt: skip
@settings(max_examples=3 * settings().max_examples)
@example(0, 8, 2, "black and white", False).via("Pillow takes 8 bits for one")
@example(0, 4, 16, "greys", False).via("Pillow takes 4 bits for eight")
def test_bmps_with_a_palette(seed, bits, colours, palette, top_down):
    used = 2 if palette == "black and white" else min(colours, 1 << bits)
    table = {"any": samples(seed, 3, 8, 1, used)[0], "greys": np.repeat(np.arange(used)[:, None], 3, axis=1),
             "black and white": np.array([[0] * 3, [255] * 3])}[palette]  # fmt: skip
    indices = samples(seed + 1, 1, 30)[:, :, 0] % used
    assert is_right_or_refused(bmp(indices, bits, palette=table, top_down=top_down), table[indices])


PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


@given(seed=st.integers(0, 1000), kind=st.sampled_from([(c, b) for c, depths in PNG_DEPTHS.items() for b in depths]),
       transparent=st.sampled_from(["none", "some pixels", "no pixel"]), interlaced=st.booleans())  # fmt: skip
@settings(max_examples=5 * settings().max_examples)
@example(0, (0, 4), "some pixels", False).via("Pillow scales the values, not the transparent one")
@example(0, (0, 16), "some pixels", False).via("16-bit grey with a transparent value")
@example(0, (2, 16), "some pixels", False).via("16-bit RGB with a transparent colour")
def test_pngs(seed, kind, transparent, interlaced):
    colour_type, bits = kind
    bands, most = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type], (1 << bits) - 1
    stored = samples(seed, bands, bits)
    palette, keys, opacity = None, b"", np.full((HEIGHT, WIDTH), 255)
    if colour_type == 3:
        palette = samples(seed + 1, 3, 8, 1, 1 << bits)[0]
        rgb = palette[stored[:, :, 0]]
        if transparent != "none":  # the last entries may be left out: opaque
            alphas = samples(seed + 2, 1, 8, 1, 1 << bits).ravel()
            alphas[len(alphas) // 2 :] = 255
            keys, opacity = alphas[: len(alphas) // 2].astype(np.uint8).tobytes(), alphas[stored[:, :, 0]]
    else:
        own = bands - (colour_type in {4, 6})
        rgb = np.broadcast_to(to_8_bits(stored[:, :, :own], bits), (HEIGHT, WIDTH, 3))
        if colour_type in {4, 6}:
            opacity = to_8_bits(stored[:, :, -1], bits)
        elif transparent != "none":
            key = stored[3, 4] if transparent == "some pixels" else (stored[3, 4] + 1) & most
            keys = key.astype(">u2").tobytes()
            opacity = np.where((stored == key).all(axis=2), 0, 255)
    decoded = is_right_or_refused(
        png(stored, bits, colour_type, palette=palette, transparency=keys, interlaced=interlaced),
        on_white(rgb, opacity),
    )
    assert decoded or (colour_type == 2 and bits == 16 and keys)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"tEXt"])
def test_a_png_with_megabytes_of_text_or_colour_profile_is_read(kind):
    stored = samples(0, 3, 8)
    text = bytes(3_000_000) if kind != b"tEXt" else b"x" * 3_000_000
    content = b"name\0" + (text if kind == b"tEXt" else b"\0" + zlib.compress(text))
    np.testing.assert_array_equal(decode_image(png(stored, 8, 2, more=chunk(kind, content)), 1), stored)


@pytest.mark.slow
def test_a_bomb_of_text_is_no_damage_but_too_large():
    content = b"name\0\0" + zlib.compress(bytes(70 << 20))
    with pytest.raises(ImageError, match="64 MiB") as caught:
        decode_image(png(samples(0, 3, 8), 8, 2, more=chunk(b"zTXt", content)), 1)
    assert caught.value.kind == "too_large"


def test_damaged_tags_are_damage():
    data = bytearray(tiff(samples(0, 3, 8), 8, RGB))
    data[4:8] = struct.pack("<I", len(data) - 3)
    with pytest.raises(ImageError) as caught:
        decode_image(bytes(data), 1)
    assert caught.value.kind == "unreadable"
