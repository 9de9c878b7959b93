"""The edge detectors compared with outlines that people drew."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict
from typing import Any

import cv2

from benchmarks.config import Edges
from pipeline.datasets.bsds import load_outlined
from pipeline.evaluation.edges import edge_score, match_counts
from pipeline.proposals.detectors.gradient import gradient_edges
from pipeline.proposals.detectors.learned import learned_edges


def run(config: Edges) -> list[dict[str, Any]]:
    """F-measures of the edges as EdgeBoxes gets them, thinned; one thread."""
    cv2.setNumThreads(1)
    data = load_outlined(config.data, config.split, config.limit)
    rows = []
    for name, detect in {"gradient": gradient_edges, "learned": learned_edges}.items():
        counts, seconds = [], []
        for one in data:
            started = time.perf_counter()
            edges_HW, _ = detect(one.image_HW3)
            seconds.append(time.perf_counter() - started)
            counts.append(match_counts(edges_HW, one.outlines_AHW))
        rows.append(
            {
                "edges": name,
                "images": len(data),
                **asdict(edge_score(counts)),
                "ms, median": statistics.median(seconds) * 1e3,
            }
        )
    return rows
