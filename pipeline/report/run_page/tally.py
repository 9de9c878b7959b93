"""Counting a run's results, file by file: what is kept does not grow with the number of images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config.stages import STAGES
from pipeline.report.page.parts import Label
from pipeline.report.run_page.facts import Bar, Candidate, ClassFigures, Confidence, StageTimes

LEAST_SURE = 24
"""Images of the gallery that have an object."""
NOTHING_FOUND = 12
"""Images of the gallery that have none."""
STEPS = 1000  # of the confidences that are counted, 0..1
BARS = 20
BAR_STEPS = (1, 2, 5, 10, 20, 50)  # steps a bar may be wide: 20 of the widest are the whole range
FEW = 20
"""With fewer images, one in twenty is none: their confidences are listed instead."""
BELOW = 0.01  # part of the images that may lie left of the histogram's range

COLUMNS = [
    "image_id", "uri", "pixel_counts", "mean_probability", "mean_confidence",
    *(f"seconds_{stage.name}" for stage in STAGES),
]  # fmt: skip
"""Of the results that are read."""

Float64Array = NDArray[np.float64]


class Tally:
    """Sums over the results.

    Args:
        classes: how many there are, the background included.
    """

    def __init__(self, classes: int) -> None:
        self.images = 0
        self._class_images = np.zeros(classes, np.int64)
        self._class_pixels = np.zeros(classes, np.int64)
        self._class_shares = np.zeros(classes)
        self._class_probabilities = np.zeros(classes)
        self._confidences = np.zeros(STEPS, np.int64)
        self._first_confidences: list[float] = []  # as they are, of `FEW` images at most
        self._times = {stage.name: (0, 0.0, 0.0) for stage in STAGES}  # images, seconds, longest
        self._worst: dict[bool, list[Candidate]] = {True: [], False: []}  # by whether an object was found
        self.without_object = 0

    def add(self, part: str, table: pa.Table) -> None:
        """Count the rows of a file of results.

        Args:
            part: its address.
            table: its columns `COLUMNS`.
        """
        counts_NC = _lists(table["pixel_counts"]).reshape(len(table), len(self._class_images)).astype(np.int64)
        confidence_N = _numbers(table["mean_confidence"])
        found_N = counts_NC[:, 1:].any(axis=1)
        self.images += len(table)
        self.without_object += int((~found_N).sum())
        self._add_classes(counts_NC, _lists(table["mean_probability"]).reshape(counts_NC.shape))
        known_N = confidence_N[~np.isnan(confidence_N)]
        self._first_confidences += known_N[: FEW - len(self._first_confidences)].tolist()
        self._confidences += np.bincount(np.clip(known_N * STEPS, 0, STEPS - 1).astype(np.int64), minlength=STEPS)
        for stage, (images, seconds, longest) in self._times.items():
            taken_N = _numbers(table[f"seconds_{stage}"])
            taken_N = taken_N[~np.isnan(taken_N)]
            most = float(taken_N.max(initial=longest))
            self._times[stage] = (images + taken_N.size, seconds + float(taken_N.sum()), most)
        for found, limit in ((True, LEAST_SURE), (False, NOTHING_FOUND)):
            self._keep_worst(part, table, confidence_N, found_N == found, self._worst[found], limit)

    def _add_classes(self, counts_NC: NDArray[np.int64], probabilities_NC: Float64Array) -> None:
        pixels_N1 = np.maximum(counts_NC.sum(axis=1, keepdims=True), 1)
        self._class_images += (counts_NC > 0).sum(axis=0)
        self._class_pixels += counts_NC.sum(axis=0)
        self._class_shares += (counts_NC / pixels_N1).sum(axis=0)
        self._class_probabilities += np.nansum(probabilities_NC * counts_NC, axis=0)

    @staticmethod
    def _keep_worst(
        part: str,
        table: pa.Table,
        confidence_N: Float64Array,
        wanted_N: NDArray[np.bool_],
        worst: list[Candidate],
        limit: int,
    ) -> None:
        """Let `worst` hold the least sure images of those that are wanted, and of those it holds."""
        rank_N = np.nan_to_num(confidence_N, nan=np.inf)
        bound = _rank(worst[-1]) if len(worst) == limit else np.inf
        rows = np.flatnonzero(wanted_N & ((rank_N < bound) | (len(worst) < limit)))
        rows = rows[np.argsort(rank_N[rows], kind="stable")[:limit]]
        for row in table.take(pa.array(rows)).select(COLUMNS[:5]).to_pylist():
            counts = tuple(row["pixel_counts"])
            worst.append(Candidate(row["mean_confidence"], row["image_id"], row["uri"] or "", part, counts))
        worst.sort(key=lambda one: (_rank(one), one.image_id))
        del worst[limit:]

    def worst(self, *, found: bool) -> tuple[Candidate, ...]:
        """The least sure images with an object, or without one."""
        return tuple(self._worst[found])

    def stages(self, alone: dict[str, float]) -> tuple[StageTimes, ...]:
        """The stages that some image passed.

        Args:
            alone: seconds an image of one process by stage, where they were timed.
        """
        each = {stage: seconds / images for stage, (images, seconds, _) in self._times.items() if images}
        most = max(each.values(), default=0.0)
        return tuple(
            StageTimes(stage, *self._figures(stage), alone.get(stage), slowest=seconds == most)
            for stage, seconds in each.items()
        )

    def _figures(self, stage: str) -> tuple[int, float, float]:
        images, seconds, longest = self._times[stage]
        return images, seconds / images, longest

    def classes(self, labels: Sequence[Label]) -> tuple[ClassFigures, ...]:
        """The classes' figures, in the order of the labels."""
        total = max(int(self._class_pixels.sum()), 1)
        sums = (self._class_images, self._class_pixels, self._class_shares, self._class_probabilities)
        rows = zip(labels, *(each.tolist() for each in sums), strict=True)
        return tuple(
            ClassFigures(
                label,
                images,
                area=pixels / total,
                area_where_found=shares / images if images else 0.0,
                probability=probabilities / pixels if pixels else None,
            )
            for label, images, pixels, shares, probabilities in rows
        )

    def confidence(self) -> Confidence:
        """The histogram. Its bars are as narrow as they can be with at most `BELOW` of the images left of them."""
        known = int(self._confidences.sum())
        below = np.concatenate([[0], np.cumsum(self._confidences)])  # below[i]: images under i steps
        fits = (width for width in BAR_STEPS if below[STEPS - BARS * width] <= BELOW * known)
        width = next(fits, BAR_STEPS[-1])
        edges = [*range(STEPS - BARS * width, STEPS + 1, width)]
        edges[0] = 0
        bars = (Bar(low / STEPS, high / STEPS, int(below[high] - below[low])) for low, high in pairwise(edges))
        values = tuple(sorted(self._first_confidences)) if known < FEW else ()
        return Confidence(tuple(bars), values, _quantile(below, 0.5), _quantile(below, 0.05), self.images - known)


def _quantile(below: NDArray[np.int64], part: float) -> float | None:
    """The confidence under which this part of the images lies, to a step; None without images."""
    return float(np.searchsorted(below, part * below[-1], side="left")) / STEPS if below[-1] else None


def _rank(one: Candidate) -> float:
    return np.inf if one.confidence is None else one.confidence


def _numbers(column: pa.ChunkedArray) -> Float64Array:
    """Values of a column, NaN where there is none."""
    return np.asarray(column.to_numpy(), np.float64)


def _lists(column: pa.ChunkedArray) -> Float64Array:
    """Values of a column of lists, one list after the other, NaN where there is none."""
    return np.asarray(pc.list_flatten(column).to_numpy(), np.float64)
