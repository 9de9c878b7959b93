"""What a submitted job may call its output."""

import pytest

from pipeline.errors import StorageError
from pipeline.storage import check_kept


def test_a_submitted_job_must_not_write_into_rays_copy_of_the_working_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    for given, kept in (("runs/x", "/home/me/runs/x"), ("./runs/../x", "/home/me/x")):
        with pytest.raises(StorageError) as error:
            check_kept("output", given)
        assert f"Write --output {kept} (" in str(error.value)
    for good in ("/shared/runs/x", "s3://bucket/runs/x", "file:///shared/x"):
        check_kept("output", good)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    check_kept("output", "runs/x")
