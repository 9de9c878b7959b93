"""What images and labels are called in an export: tools join the two by their path without its ending."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.imaging.images import SUPPORTED

_ENDINGS = "|".join(ending.removeprefix(".") for ending in SUPPORTED)
_ENDING = re.compile(rf"\.({_ENDINGS})$", re.IGNORECASE)
_FOLDER = re.compile(rf"\.({_ENDINGS}|txt)/", re.IGNORECASE)


@dataclass(frozen=True)
class Names:
    """The names of all images of a run.

    A point that would make two names equal is written `%2E`, which no image id has there (`inputs.manifest.safe_id`):
    that of an ending where several images differ in nothing else (`a.jpg` and `a.png`), and that of a folder's name
    which looks like a file's (`x.png/a.jpg` beside a mask `x.png`).
    """

    shared: frozenset[str]
    """Ids without ending that several images have."""

    def label(self, image_id: str) -> str:
        """The path of an image's label, without an ending."""
        bare = _ENDING.sub("", image_id)
        name = _ENDING.sub(r"%2E\1", image_id) if bare in self.shared else bare
        return _FOLDER.sub(r"%2E\1/", name)

    def picture(self, image_id: str, uri: str) -> str:
        """The path of the image: that of its label, with the image's ending (that of the file where the id has none).

        A file without a known ending keeps none.
        """
        ending = _ENDING.search(image_id) or _ENDING.search(uri)
        return self.label(image_id) + (ending[0] if ending else "")


def names_of(image_ids: pa.ChunkedArray) -> Names:
    """The names of images; holds those ids only that differ in nothing but their ending."""
    bare, counts = pc.replace_substring_regex(image_ids, rf"(?i)\.({_ENDINGS})$", "").value_counts().flatten()
    return Names(frozenset(bare.filter(pc.greater(counts, 1)).to_pylist()))
