"""What a measurement leaves: tables of each section, and how the section ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

KERNEL_CHECKS = "kernel checks"
RIGHT = "right"


@dataclass(frozen=True)
class Table:
    """Rows of one kind."""

    title: str
    rows: list[dict[str, Any]]
    note: str = ""


@dataclass
class Section:
    """A part of the measurement, which ran in a process of its own."""

    name: str
    limit: float
    """Seconds that it had."""
    status: Literal["done", "out of time", "failed", "not started"] = "not started"
    seconds: float = 0.0
    error: str = ""
    tables: list[Table] = field(default_factory=list)


class MissingError(Exception):
    """A row that was not measured."""


@dataclass(frozen=True)
class Results:
    """Looks rows up by their table's title and the value in their first column."""

    sections: list[Section]

    def rows(self, title: str) -> list[dict[str, Any]]:
        """The rows of a table.

        Raises:
            MissingError: there is no such table.
        """
        for table in self.tables():
            if table.title == title and table.rows:
                return table.rows
        raise MissingError(title)

    def row(self, title: str, name: str) -> dict[str, Any]:
        """The row of a table with this value in its first column.

        Raises:
            MissingError: there is none.
        """
        for row in self.rows(title):
            if next(iter(row.values())) == name:
                return row
        raise MissingError(f"{name} in {title}")

    def tables(self) -> Iterable[Table]:
        """All tables, in order."""
        for section in self.sections:
            yield from section.tables


def kernels_wrong(sections: list[Section]) -> list[str]:
    """Names of the kernel checks that failed, and how their section ended if it did not end as it should."""
    wrong = []
    for section in sections:
        if section.name == KERNEL_CHECKS and section.status != "done":
            wrong.append(f"the checks did not end: {section.status} {section.error}".strip())
        for table in section.tables:
            if table.title == KERNEL_CHECKS:
                wrong += [f"{row['kernel']}: {row['result']}" for row in table.rows if row["result"] != RIGHT]
    return wrong
