"""The thread that puts staged files in place: all the time, at the end, and whatever ends the run."""

import threading
from typing import Any

from pipeline.run.saver import Saver


class Source:
    """A sink's side: what is staged comes with the next look, what waits only when it is asked for."""

    def __init__(self, staged: list[int], waiting: list[int]) -> None:
        self.staged, self.waiting = staged, waiting

    def collect(self, *, flush: bool) -> list[Any]:
        found, self.staged = self.staged + (self.waiting if flush else []), []
        self.waiting = [] if flush else self.waiting
        return found


def nothing() -> None:
    pass


def test_what_is_staged_is_saved_meanwhile_and_the_rest_at_the_end():
    source, saved, first = Source([1, 2], [3]), [], threading.Event()

    def save(counts: Any) -> None:
        saved.append(counts)
        if len(saved) == 2:
            first.set()

    saver = Saver(source.collect, save, nothing, nothing, period=0.01)
    assert first.wait(10)
    assert saved == [1, 2]
    saver.close()
    saver.close()
    assert saved == [1, 2, 3]
    assert (saver.reason, saver.unsaved) == (None, None)


def test_a_run_that_must_not_go_on_is_stopped_and_what_it_finished_is_saved():
    source, saved, stopped = Source([1], [2]), [], threading.Event()
    refusal = RuntimeError("too many errors")

    def check() -> None:
        if saved:
            raise refusal

    saver = Saver(source.collect, saved.append, check, stopped.set, period=0.01)
    assert stopped.wait(10)
    saver.close()
    assert saver.reason is refusal
    assert saved == [1, 2]


def test_what_cannot_be_saved_at_the_end_is_said():
    full = OSError(28, "No space left on device")

    def save(_: Any) -> None:
        raise full

    saver = Saver(Source([], [1]).collect, save, nothing, nothing, period=0.01)
    saver.close()
    assert saver.reason is None
    assert saver.unsaved is full


def test_what_comes_after_it_was_given_up_is_not_saved():
    """Of a process that stood still and goes on, when another graph may be doing the same images."""
    asked, answer, saved = threading.Event(), threading.Event(), []

    def collect(*, flush: bool) -> list[Any]:
        asked.set()
        answer.wait()
        return [1]

    saver = Saver(collect, saved.append, nothing, nothing, period=0.01)
    assert asked.wait(10)
    saver.close(patience=0.01)
    assert isinstance(saver.unsaved, TimeoutError)
    answer.set()
    saver.close()
    assert saved == []
