"""What an error of a store means depends on when it comes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import PipelineError, StoppedError


@contextmanager
def after_claim() -> Iterator[None]:
    """The part of a job after it claimed its output: an OSError of a store now ends it as stopped."""
    try:
        yield
    except PipelineError:
        raise
    except OSError as error:
        raise StoppedError(str(error)) from error
