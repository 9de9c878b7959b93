"""The table that people watch: what it says of a run, and that what a run holds is shown as it is."""

from dataclasses import replace

import pytest
from rich.console import Console

from pipeline.run.live import WINDOW, Speeds, View, live_table

VIEW = View(
    {"decode": 1_200, "propose": 1_100, "predict": 300, "refine": 290}, 5_000, 280, 7, 0, 2,
    {"decode": "tasks", "propose": "tasks", "predict": "4", "refine": "2"},
    {"decode": 0.01, "propose": 0.125, "predict": 0.5, "refine": 0.2}, "predict",
    ["a/[bold]x[/bold].jpg, decode: cut off \u2014 <script>", "b.jpg, predict: " + "long " * 100],
)  # fmt: skip


def shown(view: View, speeds: dict[str, float], width: int = 100) -> list[str]:
    console = Console(width=width, record=True, color_system=None, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(live_table(view, speeds))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_each_stage_has_a_line_and_the_bound_is_marked():
    lines = shown(VIEW, {"decode": 3.0, "propose": 3.0, "predict": 1.5, "refine": 2.0})
    assert lines[0].split() == ["stage", "processes", "passed", "waiting", "images/s", "now", "alone,", "each"]
    assert lines[1].split() == ["decode", "tasks", "1,200", "3,800", "3.00", "100.00"]
    assert lines[2].split() == ["propose", "tasks", "1,100", "100", "3.00", "8.00"]
    assert lines[3].split() == ["predict", "<-", "all", "wait", "for", "this", "4", "300", "800", "1.50", "2.00"]
    assert lines[4].split() == ["refine", "2", "290", "10", "2.00", "5.00"]
    assert lines[5].endswith(
        "273 of 5,000 images done, 7 failed, 2 attempts lost, 0:39:15 left"
    )  # 4,710 images at 2 a second


def test_failed_and_skipped_images_are_not_done():
    assert "200 of 5,000 images done, 7 failed, 73 skipped" in shown(replace(VIEW, skipped=73), {})[-3]


def test_failures_are_shown_as_they_are_and_take_a_line_each():
    lines = shown(VIEW, {})
    assert lines[-2] == "failed: a/[bold]x[/bold].jpg, decode: cut off \u2014 <script>"
    assert lines[-1].startswith("failed: b.jpg, predict: long long")
    assert all(len(line) <= 100 for line in lines)


def test_tasks_that_bound_a_run_together_are_all_marked_and_shared_cpus_are_said():
    view = View(VIEW.done, 5_000, 0, 0, 0, 0, {}, {}, "decode and propose", [])
    assert sum("all wait for this" in line for line in shown(view, {})) == 2
    cpu = View(VIEW.done, 5_000, 0, 0, 0, 0, {}, {}, "cpu", [])
    assert shown(cpu, {})[-1].strip() == "0 of 5,000 images done, all stages wait for the CPUs"


def test_speeds_are_those_of_the_last_minute():
    speeds = Speeds()
    assert speeds.see(0.0, {"decode": 0}) == {"decode": 0.0}
    now, done = 0.0, 0
    for _ in range(600):  # two images a second for ten minutes
        now, done = now + 1, done + 2
        found = speeds.see(now, {"decode": done, "refine": 0})
    assert found == {"decode": pytest.approx(2.0), "refine": 0.0}
    for _ in range(round(WINDOW)):  # and none for a minute
        now += 1
        found = speeds.see(now, {"decode": done, "refine": 0})
    assert found["decode"] == pytest.approx(0.0)
    assert len(speeds._seen) <= WINDOW + 2
