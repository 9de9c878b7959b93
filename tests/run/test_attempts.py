"""Images that kill their process: simulated by an exception that no stage catches, as a death is to its caller."""

import pyarrow as pa
import pytest

from pipeline.run.attempts import Ledger, guarded
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


def until_done(rows: pa.Table, work, ledger: Ledger, max_attempts: int) -> tuple[pa.Table, int]:
    """As Ray does: again and again until it comes back."""
    for deaths in range(20):
        try:
            return guarded(rows, "decode", work, ledger, max_attempts), deaths
        except Death:
            pass
    raise AssertionError("tried for ever")


def test_a_table_without_trouble_is_worked_on_once_and_whole():
    seen: list[list[str]] = []
    ledger = Ledger()
    result, deaths = until_done(table("a", "b"), deadly(set(), seen), ledger, 3)
    assert (seen, deaths, len(result)) == ([["a", "b"]], 0, 2)
    assert ledger.progress().done == {"decode": 2}
    assert ledger.progress().lost == 0


@pytest.mark.parametrize("max_attempts", [1, 2, 3, 5])
def test_an_image_that_kills_becomes_an_error_row_and_the_others_are_done(max_attempts):
    ledger = Ledger()
    result, deaths = until_done(table("a", "b", "c", "d"), deadly({"c"}, []), ledger, max_attempts)
    assert deaths == max_attempts + 1  # the first with the whole table
    rows = {row["image_id"]: row for row in result.to_pylist()}
    assert [one for one, row in rows.items() if row["status"] == "failed"] == ["c"]
    assert (rows["c"]["error_stage"], rows["c"]["error_type"]) == ("decode", "WorkerDied")
    assert f"alone died {max_attempts} times" in rows["c"]["error_message"]
    assert ledger.progress().lost >= deaths
    assert ledger.progress().done == {"decode": 4}


def test_two_killers_in_one_table_both_become_error_rows():
    result, _ = until_done(table("a", "b", "c"), deadly({"a", "c"}, []), Ledger(), 2)
    assert [row["status"] for row in result.to_pylist()] == ["failed", "ok", "failed"]


def test_a_process_lost_by_chance_costs_no_image():
    chance = iter([True, False, False, False])

    def work(rows: pa.Table) -> pa.Table:
        if next(chance):
            raise Death
        return rows

    result, deaths = until_done(table("a", "b", "c"), work, Ledger(), 3)
    assert deaths == 1
    assert {row["status"] for row in result.to_pylist()} == {"ok"}


def test_stages_are_counted_apart():
    ledger = Ledger()
    with pytest.raises(Death):
        guarded(table("a"), "decode", deadly({"a"}, []), ledger, 3)
    seen: list[list[str]] = []
    guarded(table("a", "b"), "propose", deadly(set(), seen), ledger, 3)
    assert seen == [["a", "b"]]


def test_what_came_out_is_kept_before_the_attempt_ends():
    ledger, kept = Ledger(), []

    def keep(result: pa.Table) -> None:
        assert ledger.progress().done == {}
        kept.append(result["image_id"].to_pylist())

    guarded(table("a", "b"), "refine", lambda rows: rows, ledger, 3, keep)
    assert kept == [["a", "b"]]
    assert ledger.progress().done == {"refine": 2}
