"""Images that kill their process: simulated by an exception that no stage catches, as a death is to its caller."""

import pyarrow as pa
import pytest

from pipeline.run.attempts import AttemptLog, with_attempt_limit
from pipeline.stages.rows import start_rows


class Death(BaseException):
    """Nothing after it runs, as when a process dies."""


def table(*ids: str) -> pa.Table:
    return start_rows(pa.table({"image_id": ids, "uri": [f"/{one}" for one in ids]}))


def deadly(killers: set[str], seen: list[list[str]]):
    def work(rows: pa.Table) -> pa.Table:
        seen.append(rows["image_id"].to_pylist())
        if killers & set(seen[-1]):
            raise Death
        return rows

    return work


def until_done(rows: pa.Table, work, attempt_log: AttemptLog, max_attempts: int) -> tuple[pa.Table, int]:
    """As Ray does: again and again until it comes back."""
    for deaths in range(20):
        try:
            return with_attempt_limit(rows, "decode", work, attempt_log, max_attempts), deaths
        except Death:
            pass
    raise AssertionError("tried for ever")


def test_a_table_without_trouble_is_worked_on_once_and_whole():
    seen: list[list[str]] = []
    attempt_log = AttemptLog()
    result, deaths = until_done(table("a", "b"), deadly(set(), seen), attempt_log, 3)
    assert (seen, deaths, len(result)) == ([["a", "b"]], 0, 2)
    assert attempt_log.progress().done == {"decode": 2}
    assert attempt_log.progress().lost == 0


@pytest.mark.parametrize("max_attempts", [1, 2, 3, 5])
def test_an_image_that_kills_becomes_an_error_row_and_the_others_are_done(max_attempts):
    attempt_log = AttemptLog()
    result, deaths = until_done(table("a", "b", "c", "d"), deadly({"c"}, []), attempt_log, max_attempts)
    assert deaths == max_attempts + 1  # the first with the whole table
    rows = {row["image_id"]: row for row in result.to_pylist()}
    assert [one for one, row in rows.items() if row["status"] == "failed"] == ["c"]
    assert (rows["c"]["error_stage"], rows["c"]["error_type"]) == ("decode", "WorkerDied")
    assert f"alone died {max_attempts} times" in rows["c"]["error_message"]
    assert attempt_log.progress().lost >= deaths
    assert attempt_log.progress().done == {"decode": 4}


def test_two_killers_in_one_table_both_become_error_rows():
    result, _ = until_done(table("a", "b", "c"), deadly({"a", "c"}, []), AttemptLog(), 2)
    assert [row["status"] for row in result.to_pylist()] == ["failed", "ok", "failed"]


def test_a_process_lost_by_chance_costs_no_image():
    chance = iter([True, False, False, False])

    def work(rows: pa.Table) -> pa.Table:
        if next(chance):
            raise Death
        return rows

    result, deaths = until_done(table("a", "b", "c"), work, AttemptLog(), 3)
    assert deaths == 1
    assert {row["status"] for row in result.to_pylist()} == {"ok"}


def test_stages_are_counted_apart():
    attempt_log = AttemptLog()
    with pytest.raises(Death):
        with_attempt_limit(table("a"), "decode", deadly({"a"}, []), attempt_log, 3)
    seen: list[list[str]] = []
    with_attempt_limit(table("a", "b"), "propose", deadly(set(), seen), attempt_log, 3)
    assert seen == [["a", "b"]]


def test_what_came_out_is_kept_before_the_attempt_ends():
    attempt_log, kept = AttemptLog(), []

    def keep(result: pa.Table) -> None:
        assert attempt_log.progress().done == {}
        kept.append(result["image_id"].to_pylist())

    with_attempt_limit(table("a", "b"), "refine", lambda rows: rows, attempt_log, 3, keep)
    assert kept == [["a", "b"]]
    assert attempt_log.progress().done == {"refine": 2}
