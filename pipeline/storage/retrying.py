"""Retries after transient failures: exponential back-off with jitter, bounded and counted."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import TypeVar

from tenacity import (
    RetryCallState,
    RetryError,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
)
from tenacity.wait import wait_random_exponential

T = TypeVar("T")

MAX_ATTEMPTS = 10
TOTAL_SECONDS = 300
"""No new attempt begins later than this after the first."""
FIRST_WAIT = 0.2
LONGEST_WAIT = 20.0
FIRST_CONTACT = 8.0
"""Seconds for which a store may be away when a job first asks it: a wrong address should be reported soon."""

_log = logging.getLogger(__name__)
_lock = Lock()
_retries = 0
_patience: ContextVar[float] = ContextVar("patience", default=TOTAL_SECONDS)


class TransientError(OSError):
    """A transient fault: the store was busy, slow or out of reach. The same request may succeed later."""

    used_up = False
    """Whether it was already tried as often as it may be."""


class StoreAwayError(OSError):
    """The store answers no request at all, so the fault is not a single object's."""


class CredentialsError(PermissionError, StoreAwayError):
    """The store does not accept the credentials, or no longer: tokens can expire during a run."""


def max_attempts() -> int:
    """Return the most attempts for one request: `AWS_MAX_ATTEMPTS`, or 10."""
    text = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return max(int(text), 1) if text.isdecimal() else MAX_ATTEMPTS


def retries(*, reset: bool = False) -> int:
    """Return how many requests this process had to send again since the start or the last reset.

    Args:
        reset: count from 0 again; no retry is lost between reading and resetting.
    """
    global _retries
    with _lock:
        count, _retries = _retries, 0 if reset else _retries
    return count


@contextmanager
def first_contact() -> Iterator[None]:
    """Within, requests are repeated for no longer than `FIRST_CONTACT` seconds."""
    token = _patience.set(FIRST_CONTACT)
    try:
        yield
    finally:
        _patience.reset(token)


def retrying(operation: Callable[[], T]) -> T:
    """Return what `operation` returns, calling it again after every `TransientError`.

    Raises:
        TransientError: the last one, when attempts or time are used up.
        Exception: any other error of `operation`, at once.
    """
    attempts = Retrying(
        retry=retry_if_exception(_may_be_repeated),
        wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
        stop=stop_after_attempt(max_attempts()) | stop_before_delay(_patience.get()),
        before_sleep=_count,
    )
    try:
        return attempts(operation)
    except RetryError as error:
        last = error.last_attempt
        transient = TransientError(f"{last.exception()} (attempt {last.attempt_number}, the last)")
        transient.used_up = True
        raise transient from None


def retrying_arrow(operation: Callable[[], T]) -> T:
    """Like `retrying`, for reads through Arrow, whose S3 client does not retry when an answer ends early.

    Requests that `retrying` repeated already (of the stores whose files Arrow reads through Python) are not repeated.

    Raises:
        TransientError: the last one, when attempts or time are used up.
        Exception: any other error of `operation`, at once.
    """

    def run() -> T:
        try:
            return operation()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            if isinstance(error, TransientError) or "AWS Error" not in str(error):  # whose faults have no type
                raise
            raise TransientError(str(error)) from error

    return retrying(run)


def _may_be_repeated(error: BaseException) -> bool:
    return isinstance(error, TransientError) and not error.used_up


def _count(state: RetryCallState) -> None:
    global _retries  # noqa: PLW0603
    with _lock:
        _retries += 1
    assert state.outcome is not None
    _log.info("attempt %d failed, trying again: %s", state.attempt_number, state.outcome.exception())
