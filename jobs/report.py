"""What came out of a run, on one page, made from its output alone.

python jobs/report.py --results runs/photos
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from jobs import commands
from jobs.common import EXIT_DONE, call, end_process
from pipeline import storage
from pipeline.config.evaluating import ReportConfig
from pipeline.inputs.named import check_named
from pipeline.outputs.layout import RECORD, REPORT
from pipeline.report.page.parts import Step
from pipeline.report.run_page.facts import RunFacts
from pipeline.report.run_page.gather import gather
from pipeline.report.run_page.render import render


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; returns the exit code."""
    return call(commands.REPORT, arguments, run)


def run(config: ReportConfig) -> int:
    """Write the page and say where it is."""
    check_named("results", config.results)
    print(write_report(config.results))
    return EXIT_DONE


def write_report(output: str) -> str:
    """Write OUTPUT/run/report.html; returns where.

    Raises:
        ResultsError: it is no run's output, or a file in it is damaged or foreign.
        FolderError: the run's record is damaged.
        OSError: it cannot be read or written.
    """
    facts = gather(output)
    target = storage.join(output, REPORT)
    storage.write_atomic(target, render(facts, list(next_steps(facts))).encode("utf-8", "replace"))
    return target


def next_steps(facts: RunFacts) -> Iterator[Step]:
    """What people do with a run, most urgent first."""
    output, source = shlex.quote(facts.output), shlex.quote(facts.about.source)
    again = ["--config", shlex.quote(storage.join(facts.output, RECORD)), "--output", output]
    if facts.audit.missing:
        yield Step("Do the images that are left", commands.SEGMENT.line(source, *again))
    if facts.audit.failed:
        yield Step(
            "Try the images that failed again, once what the errors say is mended",
            commands.SEGMENT.line(source, *again, "--retry-failed"),
        )
    if facts.audit.ok:
        yield Step("Pictures of the first images", commands.EVALUATE.line(output, "--panels", commands.PANELS))
        yield Step(
            "The masks for another tool, such as an annotation editor",
            commands.EXPORT.line(output, "--to", "coco", "--output", "FOLDER"),
        )
        yield Step("Score the masks against ground truth", commands.EVALUATE.line(output, "--ground-truth", "FOLDER"))
    yield Step("Make this page again", commands.REPORT.line(output))


if __name__ == "__main__":
    end_process(main)
