"""The picture of the live table shows a state that a run can be in, and fits its width."""

from itertools import pairwise

from rich.console import Console

from examples.live_table import SPEEDS, VIEW, WIDTH
from pipeline.config.stages import STAGES
from pipeline.run.live import live_table


def test_the_picture_shows_a_state_that_a_run_can_be_in_and_no_line_is_broken():
    assert set(VIEW.done) == set(VIEW.alone) == set(VIEW.processes) == set(SPEEDS) <= {one.name for one in STAGES}
    passed = [VIEW.total, *VIEW.done.values(), VIEW.saved]
    assert all(before >= after for before, after in pairwise(passed))
    console = Console(width=WIDTH, color_system=None)
    with console.capture() as shown:
        console.print(live_table(VIEW, SPEEDS))
    assert len(shown.get().splitlines()) == 1 + len(VIEW.done) + 1
