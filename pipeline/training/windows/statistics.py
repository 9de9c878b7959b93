"""Figures of a training set: counts of classes before and after balance, overlaps and sizes of its windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

OVERLAP_EDGES = np.linspace(0, 1, 21)
SIDE_EDGES = np.geomspace(8, 2048, 17)  # half an octave each; values outside count in the first or last
QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)


def describe(images: pa.Table, repeats_N: NDArray[np.integer], class_names: Sequence[str]) -> dict[str, Any]:
    """Figures of one index, ready for JSON.

    Args:
        images: an index (`index.INDEX_SCHEMA`; `repeats` is not needed).
        repeats_N: repeats of all windows of all rows, concatenated.
        class_names: background first.

    Returns:
        `images`, `windows` and `examples` (windows times repeats); `per_class` with the latter two; `overlap` (IoU) and
        `side` (square root of the window's area, in pixels of the image), each with `quantiles` and a `histogram` over
        the windows, without repeats.
    """
    class_ids_N = pc.list_flatten(images["class_ids"]).to_numpy()
    boxes_N4 = pc.list_flatten(images["boxes"]).to_numpy().reshape(-1, 4)
    windows_C = np.bincount(class_ids_N, minlength=len(class_names))
    examples_C = np.bincount(class_ids_N, weights=repeats_N, minlength=len(class_names))
    side_N = np.sqrt(np.prod(boxes_N4[:, 2:] - boxes_N4[:, :2], axis=1))
    return {
        "images": len(images), "windows": int(windows_C.sum()), "examples": int(examples_C.sum()),
        "per_class": {
            name: {"windows": int(windows_C[c]), "examples": int(examples_C[c])}
            for c, name in enumerate(class_names) if c > 0 or windows_C[0] > 0
        },
        "overlap": _distribution(pc.list_flatten(images["overlaps"]).to_numpy(), OVERLAP_EDGES),
        "side": _distribution(side_N, SIDE_EDGES),
    }  # fmt: skip


def _distribution(values_N: NDArray[np.floating], edges: NDArray[np.floating]) -> dict[str, Any]:
    counts, _ = np.histogram(values_N.clip(edges[0], edges[-1]), edges)
    quantiles = np.quantile(values_N, QUANTILES).round(3).tolist() if len(values_N) else []
    return {
        "quantiles": dict(zip(map(str, QUANTILES), quantiles, strict=False)),
        "histogram": {"edges": edges.round(3).tolist(), "windows": counts.tolist()},
    }
