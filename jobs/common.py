"""The frame of every job: reads the command line, and turns an error into one line and an exit code.

exit code   error (pipeline/errors)   meaning
0           -                         done
1           any other                 a fault of the program: a traceback is printed; or Ray ended the process
2           UserError, OSError        something given cannot be used; nothing was written
3           StoppedError, Ctrl-C      stopped; the same command goes on
4           FailedError               what came out is no result: too many errors, a loss that exploded
5           ClusterError              no Ray cluster could be reached or started
"""

from __future__ import annotations

import io
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from jobs.commands import REPORT, Command, parse
from pipeline.errors import ClusterError, FailedError, StoppedError, UserError

if TYPE_CHECKING:
    from pipeline.outputs.audit import Audit

EXIT_DONE, EXIT_FAULT, EXIT_ARGUMENTS, EXIT_STOPPED, EXIT_FAILED, EXIT_NO_CLUSTER = range(6)

EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (KeyboardInterrupt, EXIT_STOPPED),
    (StoppedError, EXIT_STOPPED),
    (FailedError, EXIT_FAILED),
    (ClusterError, EXIT_NO_CLUSTER),
    (UserError, EXIT_ARGUMENTS),
    (OSError, EXIT_ARGUMENTS),
)
"""The first entry that fits counts."""

OUR_PACKAGES = ("pipeline", "jobs")
Run = Callable[[Any], int]


def call(
    command: Command, arguments: Sequence[str] | None = None, run: Run | None = None, console: bool = False
) -> int:
    """Run a job; returns the exit code.

    Args:
        command: the job.
        arguments: of the command line; None for the process's own.
        run: does the work and returns the exit code, or raises; None for `run` of the job's module.
        console: whether the arguments are those of `deconvnet`.

    Raises:
        SystemExit: after the help, or if the command line is wrong.
    """
    try:
        config = parse(command, arguments, console)
        _check_outputs(config)
        return (run or import_module(f"jobs.{command.module}").run)(config)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OUR_PACKAGES:
            return told(command, error)
        return told(command, UserError(
            f"the package {error.name} is not installed; pip install 'deconvnet-ray[all]' brings what all commands need"
        ))  # fmt: skip
    except (Exception, KeyboardInterrupt) as error:
        return told(command, error)


def _check_outputs(config: Any) -> None:
    """Make sure that the store of each output answers, and that Ray does not remove what a submitted job writes."""
    from pipeline.storage import check_kept, check_writable, first_contact  # only now: it imports pyarrow

    for option in ("output", "json", "submission"):
        if (uri := getattr(config, option, None)) is not None:
            check_kept(option, uri)
            with first_contact():
                check_writable(uri)


def get_ready_to_report() -> None:
    """Import what `make_report` needs, and compile its templates, while a job waits for something else."""
    with suppress(Exception):  # `make_report` says what is wrong
        from jobs.report import get_ready

        get_ready()


def make_report(output: str, say: Callable[[str], None], found: Audit | None = None) -> None:
    """Write the report of a run or a training and say where it is; what goes wrong is a line, since the work is done.

    Args:
        output: the output folder.
        say: prints a line for people.
        found: the run's audit; None: it is made here.
    """
    try:
        from jobs.report import write_report  # only now: it imports jinja2, which the start does not need

        say(f"report:  {write_report(output, found)}")
    except (Exception, KeyboardInterrupt) as error:
        from pipeline.run.error_line import in_short

        reason = in_short(error) if isinstance(error, Exception) else "stopped"
        say(f"the report was not written ({reason}); to try again: {REPORT.line(shlex.quote(output))}")


def counted(number: int, thing: str) -> str:
    """A number of things, as `1 image` and `2 images`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def told(command: Command, error: BaseException) -> int:
    """Say on stderr what ended a job; returns the exit code."""
    from pipeline.storage import redact  # only after the command line is read: it imports pyarrow

    code = next((code for kind, code in EXIT_CODES if isinstance(error, kind)), EXIT_FAULT)
    if isinstance(error, KeyboardInterrupt):
        message = "stopped; the same command goes on from here"
    elif code == EXIT_STOPPED:
        message = f"stopped, the same command goes on from here: {error}"
    elif code == EXIT_FAULT:
        print(redact("".join(traceback.format_exception(error))), file=sys.stderr)
        message = f"a fault of the program, please report the lines above ({type(error).__name__})"
    else:
        message = str(error) or type(error).__name__
    print(f"{command.name}: {redact(message)}", file=sys.stderr)
    if not isinstance(error, UserError | KeyboardInterrupt) and (logs := _ray_logs()) is not None:
        print(f"{command.name}: Ray's log files: {logs}", file=sys.stderr)
    return code


def _ray_logs() -> str | None:
    """Folder of Ray's log files; None if this process has not started Ray."""
    ray_private = sys.modules.get("pipeline.cluster.ray_private")
    return ray_private.log_folder() if ray_private is not None else None


def end_process(main: Callable[[], int]) -> NoReturn:
    """Run a job's `main` as this process, and end the process with its exit code."""
    last_longer_than_the_terminal()
    signal.signal(signal.SIGTERM, _interrupt)
    code: int | str | None
    try:
        code = main()
    except SystemExit as end:  # after the help or a wrong command line
        code = end.code
    for asked in (signal.SIGINT, signal.SIGTERM):  # the work is done; only Ray still ends its processes
        signal.signal(asked, signal.SIG_IGN)
    with suppress(OSError):
        sys.stdout.flush()
    sys.exit(code)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    """Treat a request to end like Ctrl-C."""
    raise KeyboardInterrupt


class _Pipe(io.FileIO):
    """Output whose reader may be gone: what is written then is lost, and the job continues."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def last_longer_than_the_terminal() -> None:
    """Keep a closed pipe (`| head`), or an encoding that lacks a character, from ending a job."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):  # in a test or a notebook
            continue
        stream.flush()
        raw = io.BufferedWriter(_Pipe(stream.fileno(), "wb", closefd=False))
        lasting = io.TextIOWrapper(raw, stream.encoding, errors="replace", line_buffering=True)
        setattr(sys, name, lasting)
