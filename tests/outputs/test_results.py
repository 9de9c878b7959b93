"""The output: what is written is what is read, and the audit finds what is missing, doubled or strange."""

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.errors import ResultsError
from pipeline.inputs.manifest import safe_id
from pipeline.outputs.audit import audit
from pipeline.outputs.layout import mask_path, place
from pipeline.outputs.probabilities import probabilities_uri
from pipeline.outputs.results import (
    finished_ids,
    forget_errors,
    read_class_names,
    read_errors,
    read_masks,
    read_results,
    read_skipped,
    scan_parts,
    scan_results,
)
from pipeline.outputs.schema import ERRORS_SCHEMA, OK, RESULTS_SCHEMA, SKIPPED_SCHEMA
from pipeline.outputs.writing import write_mask, write_rows

CLASSES = ("background", "cat", "Fußgänger")


def ok_row(image_id: str, **changes: Any) -> dict[str, Any]:
    row = {"image_id": image_id, "uri": f"/data/{image_id}", "manifest": f'{{"site": "{image_id[0]}"}}', "height": 2,
           "width": 3, "mask": b"png", "pixel_counts": [4, 2, 0], "mean_probability": [0.5, 0.25, None],
           "num_proposals": 7, "mean_confidence": 0.5, "model_fingerprint": "abc", "status": OK, "seconds_decode": 0.5,
           "seconds_filter": None, "seconds_propose": 1.5, "seconds_predict": 2.5, "seconds_refine": 3.5}  # fmt: skip
    return row | changes


def failed_row(image_id: str) -> dict[str, Any]:
    return {"image_id": image_id, "uri": f"/data/{image_id}", "manifest": None, "status": "failed",
            "error_stage": "decode", "error_type": "truncated", "error_message": "ends early"}  # fmt: skip


def skipped_row(image_id: str) -> dict[str, Any]:
    return {"image_id": image_id, "uri": f"/data/{image_id}", "manifest": '{"n": 1}', "height": 3, "width": 4,
            "status": "skipped", "skip_stage": "filter", "skip_reason": "3 x 4 pixels"}  # fmt: skip


ROW_OF = {"ok": ok_row, "failed": failed_row, "skipped": skipped_row}


def write(output: Path, *rows: dict[str, Any]) -> None:
    write_rows(str(output), rows, CLASSES)


def manifest(*ids: str) -> pa.Table:
    return pa.table({"image_id": pa.array(ids, pa.string())})


def files(output: Path) -> list[str]:
    return sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())


def test_rows_come_back_as_they_were(tmp_path: Path):
    rows = [ok_row("a.jpg"), failed_row("b.jpg"), ok_row("c/d.jpg"), skipped_row("e.jpg")]
    counts = write_rows(str(tmp_path), rows, CLASSES)
    assert (counts.ok, counts.failed, counts.skipped) == (2, 1, 1)
    assert sorted(counts.parts) == files(tmp_path)
    results = read_results(str(tmp_path))
    assert results.schema.equals(RESULTS_SCHEMA)
    assert results.to_pylist() == [ok_row("a.jpg"), ok_row("c/d.jpg")]
    errors = read_errors(str(tmp_path))
    assert errors.schema.equals(ERRORS_SCHEMA)
    assert errors.to_pylist() == [failed_row("b.jpg")]
    skipped = read_skipped(str(tmp_path))
    assert skipped.schema.equals(SKIPPED_SCHEMA)
    assert skipped.to_pylist() == [skipped_row("e.jpg")]
    assert read_class_names(str(tmp_path)) == CLASSES
    assert sorted(finished_ids(str(tmp_path)).to_pylist()) == ["a.jpg", "b.jpg", "c/d.jpg", "e.jpg"]


def test_a_status_that_nobody_knows_is_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(ValueError, match="status done; there is ok, failed, skipped"):
        write(tmp_path, ok_row("a.jpg"), failed_row("b.jpg") | {"status": "done"})
    assert files(tmp_path) == []


def test_columns_can_be_chosen(tmp_path: Path):
    write(tmp_path, ok_row("a.jpg"))
    assert read_results(str(tmp_path), ["width", "image_id"]).to_pylist() == [{"width": 3, "image_id": "a.jpg"}]
    assert list(scan_results(str(tmp_path), ["mask"])) == [{"mask": b"png"}]


def test_a_scan_names_the_file_of_each_row_and_masks_are_read_from_it(tmp_path: Path):
    write(tmp_path, ok_row("a.jpg", mask=b"one"), ok_row("b.jpg", mask=b"two"))
    write(tmp_path, ok_row("c.jpg", mask=b"three"), failed_row("d.jpg"))
    parts = {
        image_id: part
        for part, table in scan_parts(str(tmp_path), "results", ["image_id"])
        for image_id in table["image_id"].to_pylist()
    }
    assert sorted(parts) == ["a.jpg", "b.jpg", "c.jpg"]
    assert parts["a.jpg"] == parts["b.jpg"] != parts["c.jpg"]
    assert read_masks(parts["a.jpg"], ["b.jpg", "c.jpg"]) == {"b.jpg": b"two"}
    assert read_masks(parts["c.jpg"], ["c.jpg"]) == {"c.jpg": b"three"}
    assert [table["image_id"].to_pylist() for _, table in scan_parts(str(tmp_path), "errors", ["image_id"])] == [
        ["d.jpg"]
    ]
    assert list(scan_parts(str(tmp_path), "skipped", ["image_id"])) == []


def test_numpy_values_and_nan_are_taken(tmp_path: Path):
    write(tmp_path, ok_row("a.jpg", pixel_counts=np.array([4, 2, 0]), mean_confidence=float("nan"),
                           mean_probability=np.array([0.5, 0.25, np.nan]), height=np.int64(2)))  # fmt: skip
    assert read_results(str(tmp_path)).to_pylist() == [ok_row("a.jpg", mean_confidence=None)]


def test_fields_of_no_schema_are_ignored_and_missing_ones_null(tmp_path: Path):
    row = ok_row("a.jpg", image=b"working pixels", error_type=None)
    del row["seconds_refine"]
    write(tmp_path, row)
    assert read_results(str(tmp_path)).to_pylist() == [ok_row("a.jpg", seconds_refine=None)]


def test_a_retried_write_replaces_its_own_file(tmp_path: Path):
    write(tmp_path, ok_row("a.jpg"), ok_row("b.jpg"), failed_row("c.jpg"))
    before = files(tmp_path)
    write(tmp_path, failed_row("c.jpg"), ok_row("b.jpg", seconds_decode=9.0), ok_row("a.jpg"))
    assert files(tmp_path) == before
    assert audit(str(tmp_path), manifest("a.jpg", "b.jpg", "c.jpg")).complete


def test_a_retried_write_in_which_other_images_fail_doubles_none(tmp_path: Path):
    write(tmp_path, ok_row("a.jpg"), failed_row("b.jpg"))
    write(tmp_path, failed_row("a.jpg"), ok_row("b.jpg"))
    found = audit(str(tmp_path), manifest("a.jpg", "b.jpg"))
    assert (found.ok, found.failed, found.complete) == (1, 1, True)


def test_an_image_in_results_and_errors_is_doubled(tmp_path: Path):
    write(tmp_path, ok_row("a.jpg"), failed_row("b.jpg"))
    write(tmp_path, ok_row("b.jpg"))
    found = audit(str(tmp_path), manifest("a.jpg", "b.jpg"))
    assert (found.duplicated_sample, found.complete) == (("b.jpg",), False)


def test_images_of_a_wider_input_do_no_harm(tmp_path: Path):
    write(tmp_path, ok_row("a.jpg"), ok_row("b.jpg"))
    found = audit(str(tmp_path), manifest("a.jpg"))
    assert (found.unexpected, found.complete) == (1, True)


def test_other_images_get_another_file(tmp_path: Path):
    write(tmp_path, ok_row("a.jpg"))
    write(tmp_path, ok_row("b.jpg"))
    write(tmp_path, failed_row("c.jpg"))
    assert [Path(name).parent.name for name in files(tmp_path)] == ["errors", "results", "results"]


def test_no_rows_write_no_file(tmp_path: Path):
    assert write_rows(str(tmp_path), [], CLASSES) == (0, 0, 0, ())
    assert files(tmp_path) == []


@pytest.mark.parametrize(("rows", "complaint"), [
    ([ok_row("a.jpg"), failed_row("a.jpg")], r"a\.jpg.*twice"),
    ([ok_row("a.jpg"), ok_row("b.jpg") | {"image_id": None}], "None are missing"),
    ([ok_row("a.jpg", pixel_counts=[1, 2])], "need 3 values"),
    ([ok_row("a.jpg"), ok_row("b.jpg", pixel_counts=None)], "b.jpg: .*need 3 values"),
    ([ok_row("a.jpg", mean_probability=[0.5] * 4)], "need 3 values"),
])  # fmt: skip
def test_rows_that_break_the_contract_are_refused_and_nothing_is_written(tmp_path: Path, rows, complaint):
    with pytest.raises(ValueError, match=complaint):
        write_rows(str(tmp_path), rows, CLASSES)
    assert files(tmp_path) == []


def test_masks_are_named_after_their_image(tmp_path: Path):
    write_mask(str(tmp_path), "a/b%20c.jpg", b"png")
    assert (tmp_path / "masks" / "a" / "b%20c.jpg.png").read_bytes() == b"png"


def test_a_folder_without_results_is_empty_but_has_no_classes(tmp_path: Path):
    for output in (tmp_path, tmp_path / "absent"):
        assert len(finished_ids(str(output))) == 0
        assert read_results(str(output)).num_rows == 0
        assert read_results(str(output), ["mask"]).schema.names == ["mask"]
        assert read_errors(str(output)).num_rows == 0
        with pytest.raises(ResultsError, match="holds no results"):
            read_class_names(str(output))


def test_class_names_are_found_where_every_image_failed(tmp_path: Path):
    write(tmp_path, failed_row("a.jpg"))
    assert read_class_names(str(tmp_path)) == CLASSES


def test_what_a_killed_writer_left_is_not_read(tmp_path: Path):
    write(tmp_path, ok_row("a.jpg"))
    (tmp_path / "results" / ".0123.tmp").write_bytes(b"PAR1 half a file")
    assert finished_ids(str(tmp_path)).to_pylist() == ["a.jpg"]


def test_damaged_and_foreign_files_are_named(tmp_path: Path):
    write(tmp_path / "damaged", ok_row("a.jpg"))
    (tmp_path / "damaged" / "results" / "part-0.parquet").write_bytes(b"PAR1 half a file")
    for read in (finished_ids, read_results, read_class_names):
        with pytest.raises(ResultsError, match=r"part-0\.parquet"):
            read(str(tmp_path / "damaged"))
    (tmp_path / "foreign" / "results").mkdir(parents=True)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "foreign" / "results" / "x.parquet")
    with pytest.raises(ResultsError, match="not written by this pipeline"):
        finished_ids(str(tmp_path / "foreign"))
    with pytest.raises(ResultsError, match="class names"):
        read_class_names(str(tmp_path / "foreign"))


def test_an_audit_of_a_whole_output(tmp_path: Path):
    write(tmp_path, ok_row("a.jpg"), failed_row("b.jpg"), skipped_row("c.jpg"))
    found = audit(str(tmp_path), manifest("a.jpg", "b.jpg", "c.jpg"))
    assert (found.total, found.ok, found.failed, found.skipped, found.missing) == (3, 1, 1, 1, 0)
    assert found.complete


def test_an_audit_names_what_is_missing_doubled_and_unexpected(tmp_path: Path):
    write(tmp_path, ok_row("a.jpg"), ok_row("b.jpg"))
    write(tmp_path, ok_row("a.jpg"), failed_row("z.jpg"))
    found = audit(str(tmp_path), manifest("a.jpg", "b.jpg", *(f"m{i}.jpg" for i in range(9))))
    assert (found.total, found.ok, found.failed) == (11, 2, 0)
    assert (found.missing, found.missing_sample) == (9, tuple(f"m{i}.jpg" for i in range(5)))
    assert (found.duplicated, found.duplicated_sample) == (1, ("a.jpg",))
    assert (found.unexpected, found.unexpected_sample) == (1, ("z.jpg",))
    assert not found.complete


def test_forgotten_errors_are_images_still_to_do(tmp_path: Path):
    write(tmp_path, failed_row("a.jpg"), ok_row("b.jpg"))
    forget_errors(str(tmp_path))
    assert finished_ids(str(tmp_path)).to_pylist() == ["b.jpg"]
    forget_errors(str(tmp_path))  # nothing left to forget


IDS = st.sampled_from("abcde")


@given(st.sets(IDS), st.lists(st.dictionaries(IDS, st.sampled_from(sorted(ROW_OF)), min_size=1), max_size=4))
@settings(max_examples=30, deadline=None)
def test_the_audit_counts_every_image_once(tmp_path_factory, wanted: set[str], batches: list[dict[str, str]]):
    output = tmp_path_factory.mktemp("audit")
    for batch in batches:
        write(output, *(ROW_OF[status](image_id) for image_id, status in batch.items()))
    found = audit(str(output), manifest(*wanted))
    seen = set().union(*batches)
    assert found.total == len(wanted) == found.ok + found.failed + found.skipped + found.missing
    assert found.missing == len(wanted - seen)
    assert found.unexpected == len(seen - wanted)


def test_saved_probabilities_and_a_folder_of_their_name_stand_side_by_side(tmp_path):
    uris = [probabilities_uri(str(tmp_path), image_id) for image_id in ("x.jpg", "x.jpg.npz/y.jpg")]
    for uri in uris:
        storage.write_atomic(uri, b"1")
    assert uris == [f"{tmp_path}/probabilities/x.jpg.npz", f"{tmp_path}/probabilities/x.jpg%2Enpz/y.jpg.npz"]


def test_a_mask_and_a_folder_of_its_name_stand_side_by_side(tmp_path):
    ids = ["x.bmp", "x.bmp.png/y.png", "x.bmp.PNG/z.png/z.png", "x.bmp.png/y.png.png/w.png", "a/b.png"]
    for image_id in ids:
        write_mask(str(tmp_path), image_id, image_id.encode())
    assert {(tmp_path / mask_path(image_id)).read_text() for image_id in ids} == set(ids)
    assert mask_path("a/b.png") == "masks/a/b.png.png"
    assert mask_path("x.bmp.png/y.png") == "masks/x.bmp%2Epng/y.png.png"


NAMES = st.tuples(st.text("a.%", max_size=4), st.sampled_from([".png", ".npz"])).map("".join)


@given(st.sets(st.lists(NAMES, min_size=1, max_size=3).map("/".join).map(safe_id), max_size=12),
       st.sampled_from([("masks", "png"), ("probabilities", "npz")]))  # fmt: skip
def test_no_two_files_get_in_each_others_way(ids, of):
    folder, ending = of
    paths = [place(folder, image_id, ending).lower() for image_id in ids]
    folders = {parent for path in paths for parent in map(str, PurePosixPath(path).parents)}
    assert len(set(paths)) == len(paths)
    assert not folders & set(paths)
