"""Windows packed into packs, unpacked and mixed: every example arrives exactly as often as it should."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.training.windows.cut import Window, windows_of_row
from pipeline.training.windows.index import INDEX_SCHEMA
from pipeline.training.windows.packing import (
    PACK_SCHEMA,
    batches_in_order,
    mixed_batches,
    pack_size,
    packs_of_rows,
    windows_of_packs,
)


@pytest.fixture
def rows(tmp_path):
    """Two images with 2 and 5 windows, of which 3 and 9 examples are to be shown."""
    rng = np.random.default_rng(0)
    found = []
    for name, repeats in (("a", [1, 2]), ("b", [4, 1, 1, 2, 1])):
        Image.fromarray(rng.integers(0, 256, (90, 120, 3), np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(rng.integers(0, 9, (90, 120), np.uint8)).save(tmp_path / f"{name}_mask.png")
        boxes = [float(x) for i in range(len(repeats)) for x in (3 * i, 2 * i, 60 + i, 70)]
        found.append(
            {"image_uri": str(tmp_path / f"{name}.png"), "class_mask_uri": str(tmp_path / f"{name}_mask.png"),
             "boxes": boxes, "class_ids": [3] * len(repeats), "overlaps": [1.0] * len(repeats), "repeats": repeats}
        )  # fmt: skip
    return pa.Table.from_pylist(found, INDEX_SCHEMA)


def shown(windows):
    """How often each window is to be shown."""
    counts = Counter()
    for window in windows:
        counts[window.image_HW3.tobytes(), window.label_HW.tobytes()] += window.repeats
    return counts


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 5, 12, 100])
def test_parcels_hold_the_same_number_of_examples_and_all_of_them(rows, stage, size, monkeypatch):
    monkeypatch.setattr("pipeline.training.windows.packing.TABLE", 4)
    tables = list(packs_of_rows(rows, stage, size))
    assert all(table.schema == PACK_SCHEMA for table in tables)
    examples = [sum(repeats) for table in tables for repeats in table["repeats"].to_pylist()]
    assert examples == [size] * (12 // size) + [12 % size] * (12 % size > 0)
    one_by_one = [window for row in rows.to_pylist() for window in windows_of_row(row, stage)]
    for way in (tables, [pa.concat_tables(tables)], [pa.concat_tables(tables).combine_chunks()]):
        travelled = [window for table in way for window in windows_of_packs(table)]
        assert shown(travelled) == shown(one_by_one)


def test_no_rows_are_no_parcels(rows):
    assert list(packs_of_rows(rows.slice(2), 1, 64)) == []


def test_parcels_are_small_where_workers_would_get_few_of_them():
    assert pack_size(100, 1) == 1
    assert pack_size(100, 2) == 1
    assert pack_size(10_000, 8) == 19  # 65 packs each
    assert pack_size(2_700_000, 8) == 64
    assert pack_size(0, 3) == 1


def numbered(repeats):
    """Windows that show their number in every pixel, as they are asked for."""
    for number, times in enumerate(repeats):
        pixels = np.full((250, 250, 4), number, np.uint8)
        yield Window(pixels[..., :3], pixels[..., 3], times)


def numbers(batch):
    images, labels = batch
    assert images.shape[1:] == (250, 250, 3)
    assert labels.shape[1:] == (250, 250)
    assert (images == labels[..., None]).all()
    return labels[:, 7, 9].tolist()


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 12), st.integers(1, 12), st.integers(0, 9))
def test_mixing_shows_every_example_once_from_a_pool_of_windows(repeats, batch_size, pool, seed):
    taken = 0

    def counted():
        nonlocal taken
        for window in numbered(repeats):
            taken += 1
            yield window

    left, batches = Counter(dict(enumerate(repeats))), []
    for batch in mixed_batches(counted(), batch_size, pool, seed):
        batches.append(numbers(batch))
        assert sum(left[number] > 0 for number in range(taken)) <= pool
        left.subtract(batches[-1])
        assert min(left.values()) >= 0
    assert not left.total()
    if pool >= batch_size:
        assert all(len(batch) == batch_size for batch in batches[:-1])
    assert batches == [numbers(batch) for batch in mixed_batches(numbered(repeats), batch_size, pool, seed)]


def test_a_batch_is_drawn_evenly_from_the_examples_in_the_pool():
    # Windows 0 to 9 are shown 1 to 10 times: of many first batches, window n makes (n + 1) / 55.
    repeats, drawn = range(1, 11), Counter()
    for seed in range(60):
        drawn.update(numbers(next(mixed_batches(numbered(repeats), 5, 10, seed))))
    for number in range(10):
        assert drawn[number] / 300 == pytest.approx((number + 1) / 55, abs=0.05)


def test_validation_shows_each_window_once_in_order():
    batches = [numbers(batch) for batch in batches_in_order(numbered([1] * 7), 3)]
    assert batches == [[0, 1, 2], [3, 4, 5], [6]]
