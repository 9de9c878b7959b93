"""Object proposals from other programs, read from files (`--proposals-from`).

    boxes.parquet     one row per box: image_id, box (x0, y0, x1, y1), score
    detections.json   COCO's results: a list of {"image_id", "bbox": [x, y, width, height], "score"}
    folder            the DeconvNet release's cache, <name>.mat with `boxes_padded`: windows, extended already

Boxes are half-open, in pixels of the upright image at full size. They refer to an image by its id in the results or by
its file name without folder and extension; in COCO's files, by its name as a number.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.proposals.edgeboxes import Proposals

if TYPE_CHECKING:
    import pyarrow.dataset as ds

COLUMNS = {"image_id": pa.string(), "box": pa.list_(pa.float32()), "score": pa.float32()}


def are_windows(uri: str) -> bool:
    """Whether the boxes at an address are windows, extended already: only the release's cache."""
    return not uri.endswith((".parquet", ".json"))


def check_given(uri: str) -> None:
    """Make sure that proposals can be read from an address, before a million images fail one by one.

    Raises:
        ConfigError: there are no proposals in a known format; the message says what is there.
    """
    if uri.endswith(".parquet"):
        try:
            names = _dataset(uri).schema.names
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"--proposals-from {uri} cannot be read as Parquet: {error}") from error
        if missing := COLUMNS.keys() - set(names):
            raise ConfigError(f"--proposals-from {uri} has no column {', '.join(sorted(missing))}; it has {names}")
    elif uri.endswith(".json"):
        _detections(uri)
    elif not storage.is_folder(uri):
        raise ConfigError(
            f"--proposals-from is {uri}; give a .parquet file, a .json file of COCO detections, or a folder of the "
            "DeconvNet release's .mat files"
        )
    else:
        try:
            import scipy.io  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "--proposals-from a folder of .mat files needs scipy: install the extra `train`"
            ) from error


def given_proposals(uri: str, ids: Sequence[str], sizes: Sequence[tuple[int, int]]) -> list[Proposals | Exception]:
    """The proposals of some images, best first, or for an image without any, the reason.

    Args:
        uri: an address that `check_given` accepts.
        ids: the images' ids.
        sizes: height and width of each image, upright, in pixels.
    """
    tables = _of_table(uri, ids) if uri.endswith(".parquet") else {}
    found: list[Proposals | Exception] = []
    for image_id, (height, width) in zip(ids, sizes, strict=True):
        try:
            found.append(_of_image(uri, image_id, height, width, tables))
        except (LookupError, ValueError, OSError) as error:
            found.append(error)
    return found


def _of_image(uri: str, image_id: str, height: int, width: int, tables: dict[str, Proposals]) -> Proposals:
    name = PurePosixPath(image_id).stem
    if are_windows(uri):
        return _release(storage.join(uri, f"{name}.mat"), height, width)
    if uri.endswith(".json"):
        of_image = _detections(uri).get(int(name)) if name.isdecimal() else None
    else:
        of_image = tables.get(image_id) or tables.get(name)
    if of_image is None:
        raise LookupError(f"{uri} has no box for this image; give it one at least, of the whole image")
    return _sorted(of_image, uri)


def _sorted(proposals: Proposals, uri: str) -> Proposals:
    """Best first, and checked."""
    boxes_N4, scores_N = proposals.boxes_N4, proposals.scores_N
    if not (np.isfinite(boxes_N4).all() and np.isfinite(scores_N).all()):
        raise LookupError(f"{uri} has a box or a score for this image that is not finite")
    if not (boxes_N4[:, :2] < boxes_N4[:, 2:]).all():
        raise LookupError(f"{uri} has a box without area for this image; x0 < x1 and y0 < y1 are needed")
    order = np.argsort(-scores_N, kind="stable")
    return Proposals(boxes_N4[order], scores_N[order])


def _dataset(uri: str) -> ds.Dataset:
    import pyarrow.dataset as ds  # only here: it imports pandas, which takes as long as all else that a job imports

    filesystem, path = storage.resolve(uri)
    return ds.dataset(path, filesystem=filesystem, format="parquet")


def _of_table(uri: str, ids: Sequence[str]) -> dict[str, Proposals]:
    """Boxes of some images at once: if a table is sorted by image, only the row groups that have them are read."""
    wanted = sorted({*ids, *(PurePosixPath(image_id).stem for image_id in ids)})
    table = _dataset(uri).to_table(columns=list(COLUMNS), filter=pc.field("image_id").isin(wanted))
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table.cast(pa.schema(COLUMNS)).to_pylist():
        rows[row["image_id"]].append(row)
    return {name: _proposals([(row["box"], row["score"]) for row in of_image]) for name, of_image in rows.items()}


def _proposals(pairs: Sequence[tuple[Sequence[float], float]]) -> Proposals:
    boxes_N4 = np.array([box for box, _ in pairs], np.float32).reshape(-1, 4)
    return Proposals(boxes_N4, np.array([score for _, score in pairs], np.float32))


@lru_cache(maxsize=1)
def _detections(uri: str) -> dict[int, Proposals]:
    """Boxes by image from a file of COCO detections, read whole, once per process.

    Raises:
        ConfigError: the file is not one.
    """
    try:
        pairs: dict[int, list[tuple[list[float], float]]] = defaultdict(list)
        for one in json.loads(storage.read_bytes(uri)):
            x, y, width, height = one["bbox"]
            pairs[int(one["image_id"])].append(([x, y, x + width, y + height], float(one["score"])))
        return {number: _proposals(of_image) for number, of_image in pairs.items()}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"--proposals-from {uri} is no list of COCO detections, each with image_id, bbox and score: {error!r}"
        ) from error


def _release(uri: str, height: int, width: int) -> Proposals:
    """Windows from the release's cache: `x1 y1 x2 y2` in the padded image, counted from 1, both ends in the box.

    The image is padded by its height on the left and right and by its width above and below.
    """
    from scipy.io import loadmat

    data = storage.read_bytes(uri)
    try:
        boxes: NDArray[np.float64] = np.asarray(loadmat(io.BytesIO(data))["boxes_padded"], np.float64)[:, :4]
    except Exception as error:  # damaged files make it raise nearly anything
        raise LookupError(f"{uri} has no boxes_padded of the DeconvNet release: {error}") from error
    if boxes.size == 0:
        raise LookupError(f"{uri} has no box")
    boxes_N4 = (boxes - (height + 1, width + 1, height, width)).astype(np.float32)
    return _sorted(Proposals(boxes_N4, -np.arange(len(boxes_N4), dtype=np.float32)), uri)
