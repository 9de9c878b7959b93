"""The measurement for a GPU: dry on a CPU with only torch, numpy and safetensors, and what it makes of results."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from benchmarks.gpu import claims, processes, sections
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.report import markdown
from benchmarks.gpu.results import KERNEL_CHECKS, RIGHT, Results, Section, Table, kernels_wrong
from benchmarks.gpu.scenes import load_scenes, make_scenes
from benchmarks.gpu.sizes import Sizes, quick
from benchmarks.timing import fast_dtypes

ROOT = Path(__file__).parents[2]
NOT_THERE = ("ray", "cv2", "PIL", "pyarrow", "tyro", "rich", "pydantic", "yaml", "psutil", "pytest", "scipy",
             "simplejpeg", "botocore", "jinja2", "tenacity", "torchvision", "densecrf_lattice")  # fmt: skip


def test_a_dry_run_needs_torch_and_numpy_alone_and_measures_every_claim_that_a_cpu_can(tmp_path):
    for name in NOT_THERE:
        (tmp_path / f"{name}.py").write_text("raise ImportError(f'{__name__} is not on a GPU machine')\n")
    # -P: the checkout, in which the compiled CRF may lie, comes after the stand-ins and not before them.
    given = ["--device", "cpu", "--quick", "--output", str(tmp_path / "out")]
    command = [sys.executable, "-P", "-m", "benchmarks.gpu", *given]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT)])
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "dry run" in ran.stdout.splitlines()[0]
    held = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert held["dry_run"]
    assert [(one["name"], one["status"]) for one in held["sections"]] == [(name, "done") for name in sections.SECTIONS]
    missing = [one["claim"] for one in held["claims"] if one["holds"] == "not measured"]
    allowed = ["H100", "narrow"]
    if "bfloat16" not in fast_dtypes(torch.device("cpu")):
        allowed += ["bfloat16", "`voc`", "images/s", "two calls"]
    assert [claim for claim in missing if not any(word in claim for word in allowed)] == []
    judged = {one["claim"]: one["holds"] for one in held["claims"] if one["holds"] not in {"not measured", "dry run"}}
    assert judged == {"the kernels compute what torch's operations do": "yes"}
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert "dry run" in text.splitlines()[2]
    assert all(f"| {one['claim']}" in text for one in held["claims"])
    assert "not installed here: native" in text
    assert "install the project again" not in ran.stdout


def test_without_a_gpu_it_says_so_and_a_cpu_is_for_dry_runs(tmp_path, capsys):
    if not torch.cuda.is_available():
        assert main(["--output", str(tmp_path / "out")]) == 2
        assert "--device cpu --quick" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit, match="2"):
        main(["--device", "cpu"])


def some_section(name=KERNEL_CHECKS, status="done", result=RIGHT):
    return Section(name, 10, status, 1, "", [Table(KERNEL_CHECKS, [{"kernel": "unpooling", "result": result}])])


def test_a_wrong_kernel_decides_the_exit_code_and_opens_the_report():
    assert kernels_wrong([some_section()]) == []
    wrong = [some_section(result="WRONG: 3 of 128 values")]
    assert kernels_wrong(wrong) == ["unpooling: WRONG: 3 of 128 values"]
    assert kernels_wrong([some_section(status="out of time")]) == ["the checks did not end: out of time"]
    text = markdown(Sizes(), Results(wrong), 3.0)
    assert "**Kernels that compute wrong:** unpooling" in text
    assert "dry run" not in text
    (verdict,) = (one for one in claims.verdicts(Results(wrong)) if "compute what torch" in one.claim)
    assert (verdict.measured, verdict.holds) == ("0 of 1 checks", "no")


def test_a_wrong_kernel_is_found_by_its_section(monkeypatch):
    from pipeline.inference import kernels

    unpool = kernels.unpool
    monkeypatch.setattr(kernels, "unpool", lambda x_NCHW, places: -unpool(x_NCHW, places))
    rows = [row for table in sections.kernel_checks(quick("cpu")) for row in table.rows]
    assert any(row["result"].startswith("WRONG") for row in rows)
    assert any(row["result"] == RIGHT for row in rows)


@pytest.mark.parametrize(("gpu", "rate", "holds"), [
    ("NVIDIA H100 80GB HBM3", 500.0, "yes"), ("NVIDIA H100 80GB HBM3", 600.0, "no"),
    ("NVIDIA H100 80GB HBM3", 300.0, "no"), ("NVIDIA L4", 500.0, "another GPU"),
])  # fmt: skip
def test_claims_about_one_gpu_are_not_judged_by_another(gpu, rate, holds):
    rows = [{"step": "float32", "ms a crop": 2.0, "windows/s": 250.0}]
    rows.append({"step": "bfloat16", "ms a crop": 1.0, "windows/s": rate})
    machine = Section("machine", 9, tables=[Table("machine", [{"what": "GPU", "value": gpu}])])
    training = Section("training step", 9, tables=[Table("training step, wide", rows)])
    found = {one.claim: one for one in claims.verdicts(Results([machine, training]))}
    assert found["an H100 takes about 480 windows/s in training at full width, bfloat16"].holds == holds
    assert found["training in bfloat16 is faster than in float32"].measured.startswith("2 times")
    assert found["training in bfloat16 is faster than in float32"].holds == "yes"


def endless(_sizes):
    yield Table("first", [{"a": 1}])
    yield Table("first", [{"a": 2}])
    time.sleep(600)


def breaking(_sizes):
    yield Table("first", [{"a": 1}])
    raise RuntimeError("an illegal memory access")


def dying(_sizes):
    yield Table("first", [{"a": 1}])
    os._exit(77)


@pytest.mark.parametrize(("name", "status", "error"), [
    ("endless", "out of time", ""), ("breaking", "failed", "RuntimeError: an illegal memory access"),
    ("dying", "failed", "its process ended with exit code 77"),
])  # fmt: skip
def test_a_section_that_goes_wrong_leaves_its_rows_and_ends(name, status, error, monkeypatch):
    """The child is forked here, so that it has this module's sections."""
    monkeypatch.setitem(sections.SECTIONS, name, sections.Part(1, globals()[name]))
    get_context = processes.multiprocessing.get_context
    monkeypatch.setattr(processes.multiprocessing, "get_context", lambda _way: get_context("fork"))
    section = processes.run_limited(name, quick("cpu"), 3 if name == "endless" else 60)
    assert (section.status, section.error) == (status, error)
    assert [row["a"] for row in section.tables[0].rows] == ([1, 2] if name == "endless" else [1])


def test_the_stored_scenes_are_the_generators():
    for stored, made in zip(load_scenes(), make_scenes(), strict=True):
        np.testing.assert_array_equal(stored.truth_HW, made.truth_HW)
        np.testing.assert_array_equal(stored.image_HW3, made.image_HW3)
        assert stored.boxes_N4.shape == (50, 4)


def test_the_full_measurement_has_the_sizes_of_the_documentation():
    full = Sizes()
    assert (full.wide, full.narrow, full.proposals, full.training_batch) == (1.0, 0.125, 50, 32)
    assert not full.interpreted
    assert replace(full, device="cpu").interpreted
