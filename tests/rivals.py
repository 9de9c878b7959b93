"""Calls that take a lease at the same moment."""

from collections.abc import Callable
from threading import Barrier, Thread
from typing import TypeVar

import pytest

from pipeline.outputs import lease

T = TypeVar("T")


def at_once(
    monkeypatch: pytest.MonkeyPatch, *calls: Callable[[], T], refused: type[Exception] | tuple[type[Exception], ...]
) -> list[T | Exception]:
    """What calls in threads return, or raise of the kinds `refused`; none writes its lease before all have looked."""
    all_looked, look = Barrier(len(calls)), lease._refuse_if_one_lives
    found: list[T | Exception] = []

    def look_and_wait(*arguments) -> None:
        look(*arguments)
        all_looked.wait(60)

    def call(one: Callable[[], T]) -> None:
        try:
            found.append(one())
        except refused as error:
            found.append(error)

    monkeypatch.setattr(lease, "_refuse_if_one_lives", look_and_wait)
    threads = [Thread(target=call, args=[one]) for one in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    return found
