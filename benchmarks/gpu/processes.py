"""A section in a process of its own: if it breaks the GPU's context, hangs or takes too long, the others still run."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from benchmarks.gpu.results import Section, Table
from benchmarks.gpu.sizes import Sizes


def run_limited(name: str, sizes: Sizes, limit: float) -> Section:
    """Run a section until it ends or its limit is reached; what it measured until then is kept.

    Args:
        name: of the section.
        sizes: of everything.
        limit: in seconds, the start of the process included.
    """
    # The fork server imports torch once and never touches the GPU: a process that has cannot be forked.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.gpu.sections"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, name, sizes), daemon=True)
    section, started = Section(name, limit), time.monotonic()
    process.start()
    sender.close()
    try:
        _receive(receiver, process, section, started + limit)
    finally:
        if process.is_alive():
            process.kill()
        process.join()
    section.seconds = time.monotonic() - started
    return section


def _receive(receiver: Connection, process: BaseProcess, section: Section, end: float) -> None:
    while receiver.poll(max(0.0, end - time.monotonic())):
        try:
            message = receiver.recv()
        except EOFError:
            process.join(10)
            section.status, section.error = "failed", f"its process ended with exit code {process.exitcode}"
            return
        if isinstance(message, Table):
            _add(section.tables, message)
        elif message is None:
            section.status = "done"
            return
        else:
            section.status, section.error = "failed", str(message)
            return
    section.status = "out of time"


def _add(tables: list[Table], new: Table) -> None:
    """Rows of a table that is there already are added to it."""
    for table in tables:
        if table.title == new.title:
            table.rows.extend(new.rows)
            return
    tables.append(new)


def _child(sender: Connection, name: str, sizes: Sizes) -> None:
    try:
        from benchmarks.gpu.sections import run_section

        tables: Iterable[Table] = run_section(name, sizes)
        for table in tables:
            sender.send(table)
    except Exception as error:  # whatever it is, the report names it and the other sections run
        sender.send(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
    else:
        sender.send(None)
