"""docs/using_results.md: what it shows in Python runs as it stands, and its exports are written."""

import json
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from conftest import exit_code
from result_files import CLASSES, PATHS, carried, write_output

from jobs import console
from pipeline.config.exporting import ExportFormat

PAGE = Path(__file__).parents[2] / "docs" / "using_results.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_what_the_page_shows_works_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    pytest.importorskip("duckdb")
    pytest.importorskip("datasets")
    masks = write_output(tmp_path / "made")
    (tmp_path / "runs").mkdir()
    shutil.move(tmp_path / "made" / "run", tmp_path / "runs" / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    exports = [line for language, text in BLOCKS if not language for line in text.splitlines() if " export " in line]
    assert len(exports) >= 3
    for line in exports:
        assert exit_code(console.main, *shlex.split(line)[1:]) == 0, line
    names = {"__name__": "using_results"}
    for language, text in BLOCKS:
        if language == "python":
            exec(compile(text, PAGE.name, "exec"), names)
    told = capsys.readouterr().out
    assert all(name in told for name in CLASSES)  # DuckDB's table has a row a class
    carried_by = {image_id: json.loads(text)["site"] for image_id in masks if (text := carried(image_id))}
    sites = Counter(carried_by.values())
    assert {site: images for site, images, _ in names["sites"].fetchall()} == {**sites, None: 1}
    table = names["table"].set_index("image_id")
    assert {one: table["site"][one] for one in carried_by} == carried_by
    assert names["shares"].shape == (len(PATHS), len(CLASSES))
    assert names["shares"].sum(axis=1).round(6).eq(1).all()
    assert names["labels"].tolist() == masks[names["masks"]["image_id"].iloc[0]].tolist()
    assert len(names["photos"]) == len(PATHS)


def test_the_table_of_exports_has_each_format():
    rows = re.findall(r"^\| `([a-z][\w-]*)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(get_args(ExportFormat))
