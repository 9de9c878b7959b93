"""Parts of a report: classes, settings and commands as it shows them, and what turns its template into a page."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.checkpoints.bundled import BUNDLED, bundled_name
from pipeline.config.earlier import flat
from pipeline.imaging.classes import class_table

TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Label:
    """A class, by its name and its colour in the masks, as CSS has it (`#rrggbb`)."""

    name: str
    colour: str


@dataclass(frozen=True)
class Setting:
    """A setting; `usual` is its value in the recipe, None where the recipe is not known."""

    name: str
    value: str
    usual: str | None

    @property
    def changed(self) -> bool:
        """Whether the recipe has another value."""
        return self.usual is not None and self.usual != self.value


@dataclass(frozen=True)
class Step:
    """Something to do next: why, and the command for it."""

    why: str
    command: str


def labels_of(class_names: Sequence[str]) -> tuple[Label, ...]:
    """Names and colours of the classes, background first."""
    return tuple(Label(one["name"], "#{:02x}{:02x}{:02x}".format(*one["colour"])) for one in class_table(class_names))


def settings_of(recorded: Mapping[str, Any], usual: Mapping[str, Any], without: Collection[str]) -> Iterator[Setting]:
    """Settings by their names on the command line, beside the usual ones.

    Args:
        recorded: from a record, as JSON holds them; parts are mappings.
        usual: the same settings in the recipe; those that it lacks are not compared.
        without: names of settings that are left out.
    """
    expected = flat(json.loads(json.dumps(usual)))
    for name, value in flat(recorded).items():
        if name not in without:
            known = name in expected and not _found_out(expected[name], value)
            yield Setting(_option(name), _in_words(value), _in_words(expected[name]) if known else None)


def _found_out(usual: Any, value: Any) -> bool:
    """Whether a value is what the job made of the usual one: what `auto` means, where a bundled network lies."""
    if isinstance(usual, str) and usual in BUNDLED:
        return bundled_name(str(value)) == usual
    return bool(usual == "auto")


def _option(name: str) -> str:
    return "--" + name.rpartition(".")[2].replace("_", "-")


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_in_words, value))
    return json.dumps(value) if isinstance(value, bool) else str(value)


def page(folder: Path, kind: str, sections: Sequence[tuple[str, str]], **values: Any) -> str:
    """A page of HTML: no script, and nothing that is fetched.

    Args:
        folder: has the template, `page.html.j2`, which extends `base.html.j2`.
        kind: what the page is, in words.
        sections: id and title of each, for its list of them.
        values: what is filled in; all of it is escaped, since names are data.
    """
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return templates(folder).get_template(TEMPLATE).render(kind=kind, sections=sections, made=made, **values).lstrip()


@lru_cache
def templates(folder: Path) -> Environment:
    """The templates of a page, read and compiled.

    Args:
        folder: as for `page`.
    """
    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": number,
        "images": images,
        "percent": percent,
        "duration": duration,
        "seconds": seconds,
    }
    for name in environment.list_templates(extensions=["j2", "css"]):  # the environment keeps them
        environment.get_template(name)
    return environment


def number(value: int) -> str:
    """12,345."""
    return f"{value:,}"


def images(value: int) -> str:
    """12,345 images."""
    return f"{number(value)} image{'' if value == 1 else 's'}"


def percent(share: float) -> str:
    """A share of 0..1 in per cent."""
    if 0 < share < 0.0005:
        return "under 0.1 %"
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


def seconds(value: float) -> str:
    """Seconds, to three digits of those that count."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def duration(value: float) -> str:
    """Seconds as people say them."""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{value:.1f} s"
