"""What came out of a run or a training, on one page, made from its output alone.

python jobs/report.py --results runs/photos
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from jobs import commands
from jobs.common import EXIT_DONE, call, end_process
from pipeline import storage
from pipeline.config.evaluating import ReportConfig
from pipeline.errors import ResultsError
from pipeline.inputs.named import check_named
from pipeline.outputs import layout
from pipeline.outputs.audit import Audit
from pipeline.report import run_page, training_page
from pipeline.report.page.parts import Step, templates

TRAININGS = {one.name: one for one in (commands.TRAIN, commands.TRAIN_FCN, commands.TRAIN_LITE)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; returns the exit code."""
    return call(commands.REPORT, arguments, run)


def run(config: ReportConfig) -> int:
    """Write the page and say where it is."""
    check_named("results", config.results)
    print(write_report(config.results))
    return EXIT_DONE


def get_ready() -> None:
    """Compile the templates of a run's page."""
    templates(run_page.FOLDER)


def write_report(output: str, found: Audit | None = None) -> str:
    """Write OUTPUT/run/report.html of a run, or OUTPUT/report.html of a training; returns where.

    Args:
        output: the output folder.
        found: the audit of a run that has just ended; None: it is made here.

    Raises:
        ResultsError: it is the output of neither, or a file in it is damaged or foreign.
        FolderError: its record is damaged.
        OSError: it cannot be read or written.
    """
    if storage.exists(storage.join(output, layout.RECORD)):
        facts = run_page.gather(output, found)
        target, page = layout.REPORT, run_page.render(facts, list(next_steps(facts)))
    elif storage.exists(storage.join(output, layout.TRAINING_RECORD)):
        trained = training_page.gather(output)
        target, page = layout.TRAINING_REPORT, training_page.render(trained, list(steps_after_training(trained)))
    else:
        raise ResultsError(
            f"{storage.absolute(output)} holds no {layout.RECORD} and no {layout.TRAINING_RECORD}; give the output "
            "folder of a run or a training"
        )
    uri = storage.join(output, target)
    storage.write_atomic(uri, page.encode("utf-8", "replace"))
    return uri


def next_steps(facts: run_page.RunFacts) -> Iterator[Step]:
    """What people do with a run, most urgent first."""
    output, source = shlex.quote(facts.output), shlex.quote(facts.about.source)
    again = ["--config", shlex.quote(storage.join(facts.output, layout.RECORD)), "--output", output]
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


def steps_after_training(facts: training_page.TrainingFacts) -> Iterator[Step]:
    """What people do with a training, most urgent first."""
    command, output = TRAININGS[facts.command], shlex.quote(facts.output)
    data = " ".join(map(shlex.quote, facts.data))
    same = ["--config", shlex.quote(storage.join(facts.output, layout.TRAINING_RECORD))]
    if facts.network is None:
        yield Step("Go on from the last checkpoint", command.line(data, *same, "--output", output))
    else:
        with_it = [*_members(facts), "--weights", shlex.quote(facts.network)]
        yield Step("Segment with the network", commands.SEGMENT.line("PHOTOS", "--output", "MASKS", *with_it))
        yield Step(
            "Score its masks on whole photographs, which count more than the figures of a training",
            commands.EVALUATE.line("MASKS", "--ground-truth", "FOLDER"),
        )
        if command is commands.TRAIN_FCN:
            yield Step(
                "Train a light DeconvNet from it, for both as an ensemble",
                commands.TRAIN_LITE.line(data, "--fcn", shlex.quote(facts.network), "--output", "FOLDER"),
            )
    yield Step("Train in the same way with other settings", command.line(data, *same, "--output", "FOLDER"))
    yield Step("Make this page again", commands.REPORT.line(output))


def _members(facts: training_page.TrainingFacts) -> list[str]:
    """The recipe, and the second network, that a network of this training is used with."""
    if facts.command == commands.TRAIN_LITE.name:
        (fcn,) = (one.value for one in facts.settings if one.name == "--fcn")
        return ["--recipe", "voc", "--fcn", shlex.quote(fcn)]
    return ["--recipe", "fcn+crf"] if facts.command == commands.TRAIN_FCN.name else []


if __name__ == "__main__":
    end_process(main)
