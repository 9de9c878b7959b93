"""Whose a folder is: one rule for all that begin one."""

import json

import pytest

from pipeline import storage
from pipeline.errors import FolderError
from pipeline.outputs.folder import check_folder

SETTINGS = {"rate": 0.1, "sides": (3, 4), "workers": 2}


def begun(folder: str, settings: dict) -> None:
    storage.write_atomic(storage.join(folder, "run/record.json"), json.dumps(settings).encode())


def test_a_new_folder_has_no_record_and_is_left_as_it_is(store):
    folder = storage.join(store, "out")
    assert check_folder(folder, "run/record.json", SETTINGS) is None
    assert not storage.exists(folder)


def test_the_same_settings_are_welcome_and_neutral_ones_may_change(store):
    begun(store, {"config": SETTINGS, "more": [1]})
    found = check_folder(store, "run/record.json", {**SETTINGS, "workers": 9}, below="config", neutral={"workers"})
    assert found == {"config": {"rate": 0.1, "sides": [3, 4], "workers": 2}, "more": [1]}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({**SETTINGS, "rate": 0.2}, "rate: 0.1 -> 0.2"),
        ({**SETTINGS, "sides": (3, 5)}, r"sides: \[3, 4\] -> \[3, 5\]"),
        ({"rate": 0.1, "sides": (3, 4)}, "workers: 2 -> None"),
        ({**SETTINGS, "new": 1}, "new: None -> 1"),
    ],
)
def test_every_difference_is_named(tmp_path, now, said):
    begun(str(tmp_path), SETTINGS)
    with pytest.raises(FolderError, match=said) as refused:
        check_folder(str(tmp_path), "run/record.json", now)
    assert "choose another --output" in str(refused.value)


def test_what_lies_there_without_a_record_is_somebody_elses(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert check_folder(str(tmp_path), "run/record.json", SETTINGS, holds=("results",)) is None
    (tmp_path / "results").mkdir()
    with pytest.raises(FolderError, match=r"holds results without a run/record\.json"):
        check_folder(str(tmp_path), "run/record.json", SETTINGS, holds=("results",))
