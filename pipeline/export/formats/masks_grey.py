"""Plain folders: masks/*.png (8-bit grey, the values are the classes' numbers), images/ and classes.txt.

This is the simplest layout that `build-training-set` reads, and one that most frameworks have a reader for.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.export.pictures import Pictures, write
from pipeline.export.results import Results
from pipeline.imaging.images import encode_mask


def export(results: Results, pictures: Pictures, folder: Path) -> None:
    """Write masks/, images/ and classes.txt."""
    write(folder / "classes.txt", "".join(f"{name}\n" for name in results.class_names).encode())
    for image in results:
        pictures.place(image)
        write(folder / "masks" / f"{image.name}.png", encode_mask(image.labels_HW, None))
