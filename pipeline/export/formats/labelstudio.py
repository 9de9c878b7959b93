"""Label Studio: tasks.json with brush predictions, and config.xml, the labelling interface they are for.

The run lengths of a brush are those of rle-pack (thi.ng/umbrella), which Label Studio uses: a stream of bits with the
number of values (32), the bits of a value less 1 (5), four sizes of lengths less 1 (4 each); then for each run a 1,
which of the sizes (2), the length less 1, the value. The values are RGBA, row by row, 255 in all four inside.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from pipeline.export.formats.cvat import colour_code
from pipeline.export.pictures import Pictures, write
from pipeline.export.regions import Region, regions_of
from pipeline.export.results import Results, Segmented
from pipeline.imaging.classes import class_table

CHANNELS = 4
VALUE_BITS = 8
LENGTH_BITS = (3, 4, 8, 16)
INSIDE = 255


def export(results: Results, pictures: Pictures, folder: Path) -> None:
    """Write tasks.json, config.xml and images/."""
    write(folder / "config.xml", interface(results.class_names))
    with (folder / "tasks.json").open("w", encoding="ascii") as file:
        for image in results:
            file.write("[\n" if image.number == 1 else ",\n")
            file.write(json.dumps(task(image, pictures, results.class_names)))
        file.write("\n]\n")


def interface(class_names: tuple[str, ...]) -> bytes:
    """The labelling interface: an image, and a brush for each class but the background."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    brushes = ElementTree.SubElement(view, "BrushLabels", name="label", toName="image")
    for one in class_table(class_names)[1:]:
        ElementTree.SubElement(brushes, "Label", value=one["name"], background=colour_code(one["colour"]))
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode").encode()


def task(image: Segmented, pictures: Pictures, class_names: tuple[str, ...]) -> dict[str, Any]:
    """An image and its prediction. An image that is not in the export is named by its address."""
    place = pictures.place(image)
    regions = regions_of(image.labels_HW, len(class_names))
    return {
        "data": {
            "image": image.row["uri"] if place is None else f"/data/local-files/?d={quote(place)}",
            "image_id": image.image_id,
            **image.carried,
        },
        "predictions": [{
            "model_version": image.row["model_fingerprint"],
            "score": image.row["mean_confidence"],
            "result": [brush(f"{image.number}-{number}", region, image.labels_HW.shape, class_names[region.label])
                       for number, region in enumerate(regions, start=1)],
        }],
    }  # fmt: skip


def brush(name: str, region: Region, size: tuple[int, ...], class_name: str) -> dict[str, Any]:
    """A region as a brush stroke of an image of `size`, height and width."""
    height, width = size
    return {
        "id": name, "type": "brushlabels", "from_name": "label", "to_name": "image",
        "original_width": width, "original_height": height, "image_rotation": 0,
        "value": {"format": "rle", "rle": list(packed(region.runs(height, width))), "brushlabels": [class_name]},
    }  # fmt: skip


def packed(runs: Iterable[int]) -> bytes:
    """Run lengths in pixels, outside first, as rle-pack's bytes."""
    lengths = [CHANNELS * run for run in runs]
    bits = [f"{sum(lengths):032b}{VALUE_BITS - 1:05b}", *(f"{size - 1:04b}" for size in LENGTH_BITS)]
    for number, length in enumerate(lengths):
        bits += _run(length, INSIDE if number % 2 else 0)
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def _run(length: int, value: int) -> list[str]:
    """The bits of one run, cut into pieces that the longest size holds."""
    pieces = []
    longest = 1 << LENGTH_BITS[-1]
    while length:
        piece = min(length, longest)
        index, size = next((i, size) for i, size in enumerate(LENGTH_BITS) if piece <= 1 << size)
        pieces.append(f"1{index:02b}{piece - 1:0{size}b}{value:0{VALUE_BITS}b}")
        length -= piece
    return pieces
