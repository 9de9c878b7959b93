"""Whether an output holds each image of its manifest once."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.outputs import layout
from pipeline.outputs.results import ids_in, joined

SAMPLE = 5


@dataclass(frozen=True)
class Audit:
    """An output compared with the manifest: numbers of images, and a few of their ids as samples.

    Attributes:
        total: images in the manifest.
        ok: those of them in the results.
        failed: those only in the errors.
        skipped: those that the settings leave out: in the skipped images, not in the results.
        missing: those in none of the three.
        duplicated: images that are there more than once, in all three together.
        unexpected: images in the output that are not in the manifest.
        missing_sample: first ids by name; likewise the other samples.
    """

    total: int
    ok: int
    failed: int
    skipped: int
    missing: int
    duplicated: int
    unexpected: int
    missing_sample: tuple[str, ...]
    duplicated_sample: tuple[str, ...]
    unexpected_sample: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether the output holds each image of the manifest exactly once; images of a wider input do no harm."""
        return self.missing == self.duplicated == 0


def audit(output_uri: str, manifest: pa.Table) -> Audit:
    """Compare results, errors and skipped images with a manifest.

    Args:
        output_uri: the output folder.
        manifest: a table with a column `image_id`, each id once.

    Raises:
        ResultsError: a file is damaged, or not of this project.
    """
    wanted = manifest["image_id"]
    segmented, skipped = ids_in(output_uri, layout.RESULTS), ids_in(output_uri, layout.SKIPPED)
    seen, counts = joined(segmented, ids_in(output_uri, layout.ERRORS), skipped).value_counts().flatten()
    not_segmented, missing = _without(wanted, segmented), _without(wanted, seen)
    left_out = len(not_segmented) - len(_without(not_segmented, skipped))
    unexpected = _without(seen, wanted)
    duplicated = seen.filter(pc.greater(counts, 1))
    return Audit(
        total=len(wanted),
        ok=len(wanted) - len(not_segmented),
        failed=len(not_segmented) - left_out - len(missing),
        skipped=left_out,
        missing=len(missing),
        duplicated=len(duplicated),
        unexpected=len(unexpected),
        missing_sample=_sample(missing),
        duplicated_sample=_sample(duplicated),
        unexpected_sample=_sample(unexpected),
    )


def _without(ids: pa.Array | pa.ChunkedArray, others: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return ids.filter(pc.invert(pc.is_in(ids, value_set=others)))


def _sample(ids: pa.Array | pa.ChunkedArray) -> tuple[str, ...]:
    return tuple(ids.take(pc.bottom_k_unstable(ids, SAMPLE)).to_pylist())
