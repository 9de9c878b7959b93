"""What a store's error means depends on whether the job has claimed its output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import PipelineError, StoppedError


@contextmanager
def after_claim() -> Iterator[None]:
    """Within, an OSError is raised as StoppedError: the job has claimed its output, and the same command continues."""
    try:
        yield
    except PipelineError:
        raise
    except OSError as error:
        raise StoppedError(str(error)) from error
