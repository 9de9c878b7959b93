"""Ray's accounts of what went wrong, as it words them, in a line."""

import pytest

from pipeline.run.error_line import LONGEST, in_short

TASK = """ray::MapBatches(write_stage)() (pid=16925, ip=192.0.2.2)
  File "/job/pipeline/stages/works.py", line 134, in write_stage
    lease.check()
  File "/job/pipeline/storage/s3_client.py", line 112, in attempt
    raise _translated(error, uri) from None
    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
pipeline.storage.retrying.TransientError: s3://bucket/out/run/lease.json: Could not connect (attempt 10, the last)

The above exception was the direct cause of the following exception:

ray::MapBatches(write_stage)() (pid=16925, ip=192.0.2.2)
ray.exceptions.UserCodeException: UDF failed to process a data block.
"""
ACTOR = """The actor died unexpectedly before finishing this task.
\tclass_name: AttemptLog
\tactor_id: a113d7ea3d0f769f973715b301000000
The actor is dead because its worker process has died."""


@pytest.mark.parametrize(
    ("account", "line"),
    [
        (TASK, "pipeline.storage.retrying.TransientError: s3://bucket/out/run/lease.json: Could not connect "
               "(attempt 10, the last)"),
        (ACTOR, "The actor died unexpectedly before finishing this task. class_name: AttemptLog actor_id: "
                "a113d7ea3d0f769f973715b301000000 The actor is dead because its worker process has died."),
        ("no image was finished in any stage for 7 s", "no image was finished in any stage for 7 s"),
        ("", "RuntimeError"),
    ],
)  # fmt: skip
def test_the_first_error_is_told_in_a_line(account, line):
    assert in_short(RuntimeError(account)) == line


def test_it_ends_somewhere_and_tells_no_secret(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush-hush")
    told = in_short(RuntimeError("hush-hush-hush " + "used memory\n" * 1000))
    assert len(told) <= LONGEST
    assert told.startswith("*** used memory used")
