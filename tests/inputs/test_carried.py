"""The other columns of a manifest: what an image carries into its results, and what is left out and counted."""

import json
from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.inputs.carried import MOST_BYTES, as_json
from pipeline.inputs.manifest import build_manifest, describe

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def carried(uri: object, left_aside: Counter[str] | None = None) -> list[Any]:
    texts = build_manifest(str(uri), None, left_aside)["manifest"].to_pylist()
    return [text and json.loads(text) for text in texts]


@given(st.lists(st.dictionaries(st.text(min_size=1, max_size=8), JSON, max_size=4), min_size=1, max_size=4))
def test_json_lines_come_back_as_they_are(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]):
    others = [{name: value for name, value in row.items() if name not in ("uri", "image_id")} for row in rows]
    path = tmp_path_factory.mktemp("m") / "m.jsonl"
    path.write_text("\n".join(json.dumps(row | {"uri": f"{n}.jpg"}) for n, row in enumerate(others)))
    assert carried(path) == [row or None for row in others]


def test_cells_of_csv_are_text_and_empty_ones_null(store: str):
    storage.write_atomic(f"{store}/m.csv", b"site,uri,n,,n\n007,a.jpg,1,x,2\n,b.jpg,,y,3\n")
    assert carried(f"{store}/m.csv") == [{"site": "007", "n": "1"}, {"site": None, "n": None}]


def test_types_of_parquet_become_those_of_json(tmp_path: Path):
    columns: dict[str, tuple[pa.DataType, Any, Any]] = {
        "count": (pa.int64(), 2**62, 2**62),
        "share": (pa.float64(), 0.1, 0.1),
        "good": (pa.bool_(), True, True),
        "kind": (pa.dictionary(pa.int8(), pa.string()), "night", "night"),
        "price": (pa.decimal128(9, 2), Decimal("12.30"), "12.30"),
        "day": (pa.date32(), date(2026, 11, 26), "2026-11-26"),
        "at": (pa.timestamp("ms"), datetime(2026, 11, 26, 7, 0), "2026-11-26T07:00:00"),
        "utc": (pa.timestamp("ns", "UTC"), datetime(2026, 11, 26, 7, 0, tzinfo=UTC), "2026-11-26T07:00:00+00:00"),
        "hour": (pa.time64("ns"), time(7, 30), "07:30:00"),
        "tags": (pa.list_(pa.string()), ["a", None], ["a", None]),
        "place": (pa.struct([("x", pa.float32()), ("on", pa.date32())]), {"x": 0.5}, {"x": 0.5, "on": None}),
        "nothing": (pa.null(), None, None),
        "manifest": (pa.string(), "its own name", "its own name"),
        "status": (pa.string(), "a name of ours", "a name of ours"),
    }  # fmt: skip
    arrays = {name: pa.array([value], kind) for name, (kind, value, _) in columns.items()}
    pq.write_table(pa.table(arrays | {"uri": ["a.jpg"]}), tmp_path / "m.parquet")
    left_aside: Counter[str] = Counter()
    assert carried(tmp_path / "m.parquet", left_aside) == [{name: said for name, (_, _, said) in columns.items()}]
    assert not left_aside


def test_what_json_cannot_say_is_left_out_and_counted(tmp_path: Path):
    infinite = pa.array([float("inf"), float("nan"), 1.5])
    late = pa.array([10**8, None, 0], pa.int32()).cast(pa.date32())  # beyond the year 9999
    columns = {
        "uri": ["a.jpg", "b.jpg", "c.jpg"],
        "jpg": [b"1", b"2", None],
        "spent": pa.array([timedelta(1)] * 3),
        "files": [[{"bytes": b"1"}]] * 3,
        "late": late,
        "ratio": infinite,
        "n": [1, 2, 3],
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    left_aside: Counter[str] = Counter()
    assert carried(tmp_path / "m.parquet", left_aside) == [
        {"late": None, "n": 1}, {"late": None, "n": 2}, {"late": None, "ratio": 1.5, "n": 3}]  # fmt: skip
    assert left_aside == {f"values of the manifest's column {name}": count for name, count in (
        ("'jpg'", 3), ("'spent'", 3), ("'files'", 3), ("'late'", 2), ("'ratio'", 1))}  # fmt: skip
    assert "3 values of the manifest's column 'jpg'" in describe(left_aside)


def test_half_a_character_in_json_lines_is_left_out(tmp_path: Path):
    (tmp_path / "m.jsonl").write_text(r'{"uri": "a.jpg", "x": "\ud800", "\udfff": 1, "y": {"z": NaN}, "n": 1}')
    left_aside: Counter[str] = Counter()
    assert carried(tmp_path / "m.jsonl", left_aside) == [{"n": 1}]
    assert left_aside.total() == 3
    describe(left_aside).encode()


@given(st.dictionaries(st.text(max_size=40), st.text(max_size=3000) | st.floats(), max_size=8))
def test_what_is_carried_is_bounded_and_the_longest_goes_first(values: dict[str, Any]):
    lost: Counter[str] = Counter()
    text = as_json(values, lost)
    if not values:
        assert text is None
        return
    kept = json.loads(text)
    assert len(text.encode()) <= MOST_BYTES
    assert kept.items() <= values.items()
    texts = {name: sum(len(json.dumps(one, ensure_ascii=False).encode()) for one in (name, value))
             for name, value in values.items() if isinstance(value, str)}  # fmt: skip
    gone = [size for name, size in texts.items() if name not in kept]
    if gone:
        assert min(gone) >= max((size for name, size in texts.items() if name in kept), default=0)
        assert len(text.encode()) + min(gone) + 4 > MOST_BYTES
    numbers = [value for name, value in values.items() if name not in texts and value == value and name not in kept]
    assert lost.total() == len(gone) + len(numbers)


def test_columns_are_counted_by_name_while_they_are_few():
    lost: Counter[str] = Counter()
    for number in range(1000):
        as_json({f"column {number}": b""}, lost)
    assert lost.total() == 1000
    assert len(lost) < 12


def test_a_runs_own_manifest_carries_what_the_run_did(tmp_path: Path):
    (tmp_path / "m.csv").write_text('uri,site\na.jpg,north\nb.jpg,\n"c.jpg","x ""y"""\n')
    first = build_manifest(str(tmp_path / "m.csv"), None)
    storage.write_parquet(f"{tmp_path}/run/manifest.parquet", first)
    assert build_manifest(f"{tmp_path}/run/manifest.parquet", None).to_pylist() == first.to_pylist()
    assert carried(tmp_path / "run/manifest.parquet") == [{"site": "north"}, {"site": None}, {"site": 'x "y"'}]
    (tmp_path / "a.jpg").write_bytes(b"1")
    storage.write_parquet(f"{tmp_path}/none.parquet", build_manifest(f"{tmp_path}/a.jpg", None))
    assert carried(tmp_path / "none.parquet") == [None]
    mine = {"image_id": ["a", "b"], "uri": ["a.jpg", "b.jpg"], "manifest": ["third quarter", "[1]"]}
    pq.write_table(pa.table(mine), tmp_path / "mine.parquet")
    assert carried(tmp_path / "mine.parquet") == [{"manifest": "third quarter"}, {"manifest": "[1]"}]


def test_a_folder_of_images_carries_nothing(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"1")
    assert carried(tmp_path) == [None]
