"""The stages of the main job that need no network, as functions of tables: decode, propose, refine, write. No Ray here.

Each works on the rows that have not failed yet; see `pipeline.rows` for the row. Nothing here imports torch: it costs a
process half a gigabyte and seconds, so the stage that needs it is apart, `pipeline.predict_stage`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline import rows as r
from pipeline import storage
from pipeline.attempts import Work
from pipeline.classes import voc_palette
from pipeline.config import DecodeConfig, ProposeConfig, RefineConfig
from pipeline.crf.refine import check_backend, refine_batch
from pipeline.gpus import check_gpu, ending_with_its_gpu
from pipeline.images import decode_image, encode_mask, resize_labels, working_size
from pipeline.lease import Lease
from pipeline.proposals.edgeboxes import propose
from pipeline.results import OK, write_mask, write_rows
from pipeline.rows import Row, pack, unpack


def decode_stage(table: pa.Table, config: DecodeConfig) -> pa.Table:
    """Read each image and bring it to working size.

    Raises:
        StoreAwayError: the images' store does not answer.
    """

    def work(row: Row) -> None:
        image_HW3 = decode_image(storage.read_image(row["uri"]), config.max_megapixels)
        row["height"], row["width"] = image_HW3.shape[:2]
        working_HW3 = working_size(image_HW3, config.max_side)
        row["work_height"], row["work_width"] = working_HW3.shape[:2]
        row["image"] = pack(working_HW3)

    return r.run_rows(table, "decode", work)


def propose_stage(table: pa.Table, config: ProposeConfig) -> pa.Table:
    """Give each image its object proposals."""

    def work(row: Row) -> None:
        proposals = propose(r.image_of(row), config)
        row["boxes"] = pack(proposals.boxes_N4)
        row["num_proposals"] = len(proposals.boxes_N4)

    return r.run_rows(table, "propose", work)


def load_refine(config: RefineConfig, num_classes: int, gpus: float) -> Work:
    """`refine_stage` for a process that shares the machine with others.

    Args:
        config: the CRF's settings.
        num_classes: background included.
        gpus: what the process was given.

    Raises:
        ConfigError: the CRF's backend is not installed here.
        RuntimeError: a GPU was given, and torch sees none.
    """
    check_backend(config)
    if config.crf == "torch":
        import torch  # noqa: PLC0415  (half a gigabyte that the other backends do not need)

        check_gpu(gpus, "--refine-gpus 0")
        torch.set_num_threads(1)
    device = "cuda" if gpus else "cpu"
    return partial(refine_stage, config=config, num_classes=num_classes, device=device)


def refine_stage(table: pa.Table, config: RefineConfig, num_classes: int, device: str = "cpu") -> pa.Table:
    """Refine each image with the CRF and label its pixels at full size; `crf torch` takes all images together."""

    def work(rows: list[Row]) -> list[Row]:
        images = [r.image_of(row) for row in rows]
        class_ids = [unpack(row["class_ids"], np.int64, -1) for row in rows]
        probabilities = [
            unpack(row["probabilities"], np.float16, len(class_ids_K), *image_HW3.shape[:2])
            for row, class_ids_K, image_HW3 in zip(rows, class_ids, images, strict=True)
        ]
        with ending_with_its_gpu(device):
            refined = refine_batch(images, probabilities, config, device)
        return [_labelled(*one, num_classes) for one in zip(rows, class_ids, refined, strict=True)]

    if config.crf == "torch":
        return r.run_together(table, "refine", work)
    return r.run_rows(table, "refine", lambda row: row.update(work([row])[0]))


def _labelled(
    row: Row, class_ids_K: NDArray[np.int64], refined_KHW: NDArray[np.float32], num_classes: int
) -> dict[str, Any]:
    labels_HW = class_ids_K[refined_KHW.argmax(axis=0)].astype(np.uint8)
    confidence_HW = refined_KHW.max(axis=0)
    full_HW = resize_labels(labels_HW, row["height"], row["width"])
    return dict.fromkeys(r.WORKING_COLUMNS.names) | {
        "mean_confidence": float(confidence_HW.mean()),
        "mean_probability": mean_per_class(labels_HW, confidence_HW, num_classes),
        "pixel_counts": np.bincount(full_HW.ravel(), minlength=num_classes).tolist(),
        "mask": encode_mask(full_HW, voc_palette()),
    }


def mean_per_class(
    labels_HW: NDArray[np.uint8], confidence_HW: NDArray[np.float32], num_classes: int
) -> list[float | None]:
    """Mean probability of each class over the pixels that carry its label; None where no pixel does."""
    counts = np.bincount(labels_HW.ravel(), minlength=num_classes)
    sums = np.bincount(labels_HW.ravel(), weights=confidence_HW.ravel(), minlength=num_classes)
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]


def write_stage(table: pa.Table, lease: Lease, class_names: tuple[str, ...], *, masks: bool) -> pa.Table:
    """Stage the rows as files of results and errors, write masks as PNG files if asked; return one row of counts.

    The files are in their place only when the driver has committed them (`Lease.commit`). An output that cannot be
    written is no fault of an image: the exception ends the run, which can be resumed.

    Returns:
        `parts` to commit, `ok`, `failed`, `requests_repeated`, and for each stage `rows_<stage>` and
        `seconds_<stage>`: rows that entered it, time they took.

    Raises:
        LeaseError: another run took the output over; it may be making other masks.
    """
    rows = table.to_pylist()
    if masks:  # before the rows: an image in the results has its mask
        lease.check()
        for row in rows:
            if row["status"] == OK:
                write_mask(lease.output, row["image_id"], row["mask"])
    written = write_rows(lease.staged, rows, class_names)
    counts: dict[str, Any] = written._asdict() | {"requests_repeated": storage.retries(reset=True)}
    for stage in r.STAGES:
        seconds = table[f"seconds_{stage}"]
        counts[f"rows_{stage}"] = len(seconds) - seconds.null_count
        counts[f"seconds_{stage}"] = pc.sum(seconds).as_py() or 0.0
    return pa.Table.from_pylist([counts])
