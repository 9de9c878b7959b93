"""Reports of outputs in a store, written there: the same pages as of the same outputs on a disk."""

from pathlib import Path

import numpy as np
import pytest
from conftest import exit_code
from pages import Page, check_is_safe_and_usable, read
from run_outputs import begin, failure, photograph, result, skip
from s3_outputs import upload
from training_outputs import look, window_training

from jobs import console
from pipeline import storage


def read_from(uri: str) -> Page:
    page = Page()
    page.feed(storage.read_bytes(uri).decode())
    page.close()
    page.text = " ".join(page.text.split())
    return page


def test_a_run_in_a_store_has_the_page_that_it_has_on_a_disk(
    tmp_path: Path, stored: str, capsys: pytest.CaptureFixture[str]
):
    photos = tmp_path / "photos"
    labels_HW = np.zeros((40, 60), np.uint8)
    labels_HW[10:20] = 1
    rows = [failure("bad.jpg"), skip("small.jpg")]
    for number, name in enumerate(("a b/größe.jpg", "100%25.jpg", "gone.jpg")):
        if name != "gone.jpg":
            photograph(photos, name, 40, 60, colour=90 * number)
        rows.append(result(name, labels_HW * (number < 2), 0.3 + number / 10, photos))
    local = read(begin(tmp_path, rows, "left.jpg").output)
    upload(tmp_path, stored)
    assert exit_code(console.main, "report", f"{stored}/OUT") == 0
    assert capsys.readouterr().out.strip() == f"{stored}/OUT/run/report.html"
    page = read_from(f"{stored}/OUT/run/report.html")
    check_is_safe_and_usable(page)
    assert "Not finished: 1 of 6 images left" in page.text
    assert "the photograph is not there any more" in page.text
    assert [(one["alt"], one["src"]) for one in page.all("img")] == [
        (one["alt"], one["src"]) for one in local.all("img")
    ]  # 2 photographs with their results, and a mask alone
    assert len(page.all("img")) == 5
    links = [one["href"] for one in page.all("a") if not one["href"].startswith("#")]
    assert links == []  # a browser opens nothing of a store
    assert stored in page.text


def test_a_training_in_a_store_has_the_page_that_it_has_on_a_disk(tmp_path: Path, stored: str):
    history = {"stage1": [look(n, 10 * n + 10, 0.5 + n / 10, (0.9, 0.4, 0.2, None)) for n in range(3)]}
    output = window_training(tmp_path / "OUT", history)
    upload(tmp_path / "OUT", f"{stored}/OUT")
    local = read(output)
    assert exit_code(console.main, "report", f"{stored}/OUT/") == 0
    page = read_from(f"{stored}/OUT/report.html")
    check_is_safe_and_usable(page)
    assert page.text.replace(f"{stored}/OUT", output).split("UTC")[1] == local.text.split("UTC")[1]  # when it was made
    assert page.all("img") == local.all("img")
    assert len(page.all("img")) == 1


def test_an_address_without_an_output_is_told(stored: str, capsys: pytest.CaptureFixture[str]):
    storage.write_atomic(f"{stored}/OUTPUT/notes.txt", b"mine")
    assert exit_code(console.main, "report", f"{stored}/OUTPUT") == 2
    assert "holds no run/config.json and no train.json" in capsys.readouterr().err
    assert exit_code(console.main, "report", f"{stored}/OUTPTU") == 2
    assert f"did you mean {stored}/OUTPUT?" in capsys.readouterr().err
