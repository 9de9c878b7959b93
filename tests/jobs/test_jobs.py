"""Each job as a script: other tests call its `main` in their own process."""

import ast
import runpy
import sys
from pathlib import Path

import pytest

JOBS = sorted(path for path in (Path(__file__).parents[2] / "jobs").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_a_job_is_a_script_that_explains_itself(job: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(job), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(job), run_name="__main__")
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert f"{job.name} [-h]" in told
    assert ast.get_docstring(ast.parse(job.read_text())).splitlines()[0][:60] in told
