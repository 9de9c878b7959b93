"""TIFF, BMP and PNG files written by hand: any depth, planes, byte order, meaning of bands and transparency."""

import struct
import zlib

import numpy as np


def pack(samples_HWC, bits, order):
    """Rows of samples, each row padded to whole bytes."""
    if bits >= 8:
        return samples_HWC.astype({8: "u1", 16: f"{order}u2", 24: "u1", 32: f"{order}u4"}[bits]).tobytes()
    rows = samples_HWC.reshape(len(samples_HWC), -1).astype(np.uint8)
    return b"".join(np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :]).tobytes() for row in rows)


def tiff(samples_HWC, bits, photometric, *, planar=False, extra=(), deflate=False, big_endian=False, rows=None,
         palette=None, sample_format=1, predictor=False, orientation=1, tile=None):  # fmt: skip
    """A TIFF of strips of `rows` rows, or of square tiles of `tile` pixels.

    `extra` are the ExtraSamples, `palette` the ColorMap's 3 << bits values.
    """
    order = ">" if big_endian else "<"
    height, width, bands = samples_HWC.shape
    rows = rows or height
    planes = np.split(samples_HWC, bands, axis=2) if planar else [samples_HWC]
    blocks = [block for plane in planes for block in (_tiles(plane, tile) if tile else _strips(plane, rows))]
    if predictor:
        blocks = [(block - np.pad(block, ((0, 0), (1, 0), (0, 0)))[:, :-1]) % (1 << bits) for block in blocks]
    strips = [pack(block, bits, order) for block in blocks]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    offsets = [8 + sum(len(strip) + len(strip) % 2 for strip in strips[:i]) for i in range(len(strips))]
    data = b"".join(strip + bytes(len(strip) % 2) for strip in strips)
    tags = {256: ("I", [width]), 257: ("I", [height]), 258: ("H", [bits] * bands), 259: ("H", [8 if deflate else 1]),
            262: ("H", [photometric]), 274: ("H", [orientation]), 277: ("H", [bands]), 284: ("H", [2 if planar else 1]),
            317: ("H", [2 if predictor else 1]), 339: ("H", [sample_format] * bands)}  # fmt: skip
    sizes = ("I", [len(strip) for strip in strips])
    if tile:
        tags |= {322: ("I", [tile]), 323: ("I", [tile]), 324: ("I", offsets), 325: sizes}
    else:
        tags |= {273: ("I", offsets), 278: ("I", [rows]), 279: sizes}
    if len(extra):
        tags[338] = ("H", list(extra))
    if palette is not None:
        tags[320] = ("H", list(palette))
    start = 8 + len(data)
    entries, beyond = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        value = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(value) > 4:
            beyond += value
            at = start + 6 + 12 * len(tags) + len(beyond) - len(value)
            beyond += bytes(len(value) % 2)
            value = struct.pack(f"{order}I", at)
        entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(values)) + value.ljust(4, b"\0")
    head = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(f"{order}I", start)
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + beyond


def _strips(plane_HWC, rows):
    return [plane_HWC[top : top + rows].astype(int) for top in range(0, len(plane_HWC), rows)]


def _tiles(plane_HWC, side):
    """Row by row; the last ones are filled up."""
    height, width, _ = plane_HWC.shape
    filled = np.pad(plane_HWC.astype(int), ((0, -height % side), (0, -width % side), (0, 0)))
    return [filled[top : top + side, left : left + side]
            for top in range(0, height, side) for left in range(0, width, side)]  # fmt: skip


def bmp(pixels_HWC, bits, *, masks=None, palette=None, top_down=False, header=40):
    """A BMP: palette indices, 24-bit BGR, or 16- or 32-bit words with `masks` (red, green, blue, alpha) or without."""
    height, width = pixels_HWC.shape[:2]
    rows = pixels_HWC if top_down else pixels_HWC[::-1]
    body = b""
    for row in rows:
        line = row.astype("<u4").tobytes() if bits == 32 else pack(row[None], bits, "<")
        body += line + bytes(-len(line) % 4)
    colours = b"" if palette is None else b"".join(bytes([*colour[::-1], 0]) for colour in palette.tolist())
    used = 0 if palette is None else len(palette)
    info = struct.pack("<IiiHHIIiiII", header, width, -height if top_down else height, 1, bits, 3 if masks else 0,
                       len(body), 2835, 2835, used, 0)  # fmt: skip
    if header > 40:
        info = (info + struct.pack("<IIII", *(masks or (0, 0, 0, 0))) + b"BGRs").ljust(header, b"\0")[:header]
    elif masks:
        info += struct.pack("<III", *masks[:3])
    offset = 14 + len(info) + len(colours)
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + info + colours + body


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png(samples_HWC, bits, colour_type, *, palette=None, transparency=b"", interlaced=False, more=b""):
    """A PNG; `transparency` is the tRNS chunk's content, `more` are further chunks before the pixels."""
    height, width = samples_HWC.shape[:2]
    passes = [samples_HWC[y::dy, x::dx] for x, y, dx, dy in (ADAM7 if interlaced else ((0, 0, 1, 1),))]
    raw = b"".join(b"\0" + pack(part[i : i + 1], bits, ">") for part in passes if part.size for i in range(len(part)))
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced)
    colours = b"" if palette is None else chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    keys = chunk(b"tRNS", transparency) if transparency else b""
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + colours + keys + more + chunk(b"IDAT", zlib.compress(raw))
            + chunk(b"IEND", b""))  # fmt: skip
