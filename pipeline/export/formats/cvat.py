"""The format "CVAT for images 1.1" (docs.cvat.ai, "XML annotation format"): annotations.xml, and images/ beside it.

Each region is a `mask`: run lengths in the region's bounding box, row by row, those outside and those inside by turns,
beginning with one outside. labels.json has the labels as CVAT's "Raw" editor takes them, for the task must know them
before annotations are uploaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

from pipeline.errors import ResultsError
from pipeline.export.pictures import Pictures, write
from pipeline.export.regions import regions_of, run_lengths
from pipeline.export.results import Results
from pipeline.imaging.classes import class_table


def export(results: Results, pictures: Pictures, folder: Path) -> None:
    """Write annotations.xml, labels.json and images/."""
    labels = [
        {"name": one["name"], "color": colour_code(one["colour"]), "type": "mask", "attributes": list[str]()}
        for one in class_table(results.class_names)[1:]
    ]
    if strange := [one["name"] for one in labels if not str(one["name"]).isprintable()]:
        raise ResultsError(f"the class {strange[0]!r} has characters that XML does not; CVAT cannot hold it")
    write(folder / "labels.json", json.dumps(labels, indent=1).encode())
    with (folder / "annotations.xml").open("w", encoding="utf-8") as file:
        xml = XMLGenerator(file, "utf-8", short_empty_elements=True)
        xml.startDocument()
        with _element(xml, "annotations"):
            _text(xml, "version", "1.1")
            _meta(xml, labels, results.count)
            for image in results:
                pictures.place(image)
                height, width = image.labels_HW.shape
                head = {"id": image.number - 1, "name": image.picture, "width": width, "height": height}
                with _element(xml, "image", **head):
                    for region in regions_of(image.labels_HW, len(results.class_names)):
                        left, top, box_width, box_height = region.box
                        with _element(
                            xml, "mask", label=results.class_names[region.label], source="auto", occluded=0,
                            rle=", ".join(map(str, run_lengths(region.mask_hw.ravel()))),
                            left=left, top=top, width=box_width, height=box_height, z_order=0,
                        ):  # fmt: skip
                            pass
        xml.endDocument()


def colour_code(rgb: list[int]) -> str:
    """A colour as `#rrggbb`."""
    return "#" + bytes(rgb).hex()


def _meta(xml: XMLGenerator, labels: list[dict[str, object]], count: int) -> None:
    with _element(xml, "meta"), _element(xml, "task"):
        _text(xml, "size", str(count))
        _text(xml, "mode", "annotation")
        with _element(xml, "labels"):
            for label in labels:
                with _element(xml, "label"):
                    for key in ("name", "color", "type"):
                        _text(xml, key, str(label[key]))
                    _text(xml, "attributes", "")


def _text(xml: XMLGenerator, name: str, text: str) -> None:
    with _element(xml, name):
        xml.characters(text)


@contextmanager
def _element(xml: XMLGenerator, tag: str, **attributes: object) -> Iterator[None]:
    xml.startElement(tag, AttributesImpl({key: str(value) for key, value in attributes.items()}))
    yield
    xml.endElement(tag)
    xml.ignorableWhitespace("\n")
