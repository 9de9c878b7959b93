"""The console command `deconvnet`: lists the commands and calls them. It imports nothing heavy, to start fast."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import version

from jobs.commands import COMMANDS, EXIT_CODES
from jobs.common import EXIT_ARGUMENTS, EXIT_DONE, call, end_process


def overview() -> str:
    """The commands on one screen."""
    width = max(len(one.name) for one in COMMANDS) + 2
    lines = "\n".join(f"  {one.name:<{width}}{one.summary}" for one in COMMANDS)
    return f"""\
usage: deconvnet COMMAND ...

Semantic segmentation with DeconvNet and a dense CRF, on this machine or on a Ray cluster.

{lines}

First steps:
  deconvnet segment photos --output runs/photos    masks of VOC's 20 classes, by the bundled networks
  deconvnet evaluate runs/photos --panels 20       photographs and masks side by side

`deconvnet COMMAND --help` explains a command, `--help-all` each of its settings.
{EXIT_CODES}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Find the command and run it."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given[0] if given else "--help"
    if name in ("-h", "--help", "--help-all"):
        print(overview())
        return EXIT_DONE
    if name == "--version":
        print(f"deconvnet {version('deconvnet-ray')}")
        return EXIT_DONE
    by_name = {one.name: one for one in COMMANDS}
    if name in by_name:
        return call(by_name[name], given[1:], console=True)
    near = get_close_matches(name, by_name, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(by_name)}"
    print(f"deconvnet: there is no command {name}; {hint}", file=sys.stderr)
    return EXIT_ARGUMENTS


def script() -> None:
    """The entry point of the installed `deconvnet`."""
    end_process(main)


if __name__ == "__main__":
    script()
