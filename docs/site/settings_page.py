"""The page of all commands and their settings, made of the classes that the commands themselves read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from html import escape
from inspect import getdoc
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from tyro import MISSING
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from jobs import settings_file
from jobs.commands import COMMANDS, EXIT_CODES, FILE_OPTIONS, Command


def settings_page() -> str:
    """Markdown: a section for each command, with its settings, their kinds and defaults."""
    file_options = _text(FILE_OPTIONS).replace("\n--", "\n\n--")  # a paragraph each
    head = f"""\
# Commands and settings

`deconvnet COMMAND --help` shows the settings that people use first, `--help-all` all of them, as below. The defaults
are those without a recipe: `--recipe NAME --help-all` shows what a recipe sets.

{file_options}

{_text(EXIT_CODES)}
"""
    return "\n".join([head, *map(_section, COMMANDS)])


def _section(command: Command) -> str:
    settings = "\n".join(_setting(one, command) for one in _fields(command.config))
    return f"""\
## {command.name}

{_text(getdoc(command.config) or command.summary)}

```
deconvnet {command.name} {command.example}
```

{settings}
"""


def _fields(config: type[Any]) -> Iterator[StructFieldSpec]:
    """The settings as tyro reads them, those of groups among them."""
    start = settings_file.unchecked(config, {}, otherwise=MISSING)
    spec = ConstructorRegistry.get_struct_spec(StructTypeInfo.make(config, start, in_union_context=False))
    assert isinstance(spec, StructConstructorSpec)
    for one in spec.fields:
        if is_dataclass(one.type):
            yield from _fields(one.type)
        else:
            yield one


def _setting(one: StructFieldSpec, command: Command) -> str:
    """A term and its explanation."""
    option = f"--{settings_file.option_of(one.name)}"
    if one.name == command.subject:
        option = one.name.upper()
    elif one.type is bool:
        option = f"{option}, --no-{settings_file.option_of(one.name)}"
    kind = "" if one.type is bool else f" *{_text(_kind(one.type))}*"
    said = one.helptext() if callable(one.helptext) else one.helptext
    lines = "\n    ".join(line.strip() for line in _text(said or "").splitlines())
    return f"`{option}`{kind} · {_default(one.default)}\n:   {lines}\n"


def _kind(of: Any) -> str:
    """What kind of value a setting takes, in words."""
    inner = get_args(of)
    if get_origin(of) is Literal:
        return ", ".join(map(str, inner))
    if get_origin(of) in (Union, UnionType):
        return " or ".join(_kind(one) for one in inner if one is not NoneType)
    if get_origin(of) is tuple:
        return "several: " + _kind(inner[0]) if inner[-1] is Ellipsis else " ".join(map(_kind, inner))
    return {str: "text", int: "whole number", float: "number", bool: "True or False"}.get(of) or str(of)


def _default(value: Any) -> str:
    if value is MISSING or "MISSING" in type(value).__name__.upper():
        return "must be given"
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{shown}`" if shown else "empty"


def _text(plain: str) -> str:
    """Plain text as Markdown that shows it as it is; code in backticks stays code."""
    parts = re.split(r"(`[^`]+`)", plain)
    return "".join(
        part if part.startswith("`") else re.sub(r"([\\*_\[\]#|])", r"\\\1", escape(part, quote=False))
        for part in parts
    )
