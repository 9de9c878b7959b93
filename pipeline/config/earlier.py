"""Settings that outputs of earlier versions do not record; such an output is continued with the values of its time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

Config = TypeVar("Config")

RUNS: dict[str, Any] = {
    "save_probabilities": False,
    "filter.min_pixels": 0,
    "propose.window_shape": "box",
    "propose.min_side_of": "shorter",
    "predict.tile": 0,
    "predict.skip_certain": 1.0,
    "refine.crf_normalization": "symmetric",
    "refine.mask_format": "palette",
}
"""Settings of the main job by name, and what it did before it had them."""
TRAINING_SETS: dict[str, Any] = {
    "windows_from": None,
    "stage1_keeps": "class",
    "propose.window_shape": "box",
    "propose.min_side_of": "shorter",
}
"""The same of training sets."""

LEFT_OPEN = {"predict.precision": "auto"}
"""Settings of the main job by name, and the value that leaves them open. An output keeps what it was begun with."""


def as_begun(
    config: Config,
    recorded: Mapping[str, Any],
    earlier: Mapping[str, Any],
    default: Config,
    log: Callable[[str], None],
) -> Config:
    """The settings to continue an output with, which may be older than some of them.

    A setting that the record lacks takes the value of its time, unless it was given, that is, differs from its default.

    Args:
        config: what this call asks for.
        recorded: settings of the output by name, those of a part as `part.name`; empty for a new output.
        earlier: one of the tables above.
        default: what `config` would be if nothing had been given.
        log: prints a line for each setting that is changed.
    """
    for name, value in earlier.items():
        now = _get(config, name)
        if recorded and name not in recorded and now == _get(default, name) and now != value:
            log(
                f"the output was begun before there was --{name.rpartition('.')[2].replace('_', '-')}: it stays {value}"
            )
            config = _set(config, name, value)
    return config


def as_chosen(config: Config, recorded: Mapping[str, Any], log: Callable[[str], None]) -> Config:
    """The settings to continue an output with that was begun with a value for what they leave open.

    Args:
        config: what this call asks for.
        recorded: settings of the output by name; empty for a new output.
        log: prints a line for each setting that is changed.
    """
    for name, leaves_open in LEFT_OPEN.items():
        before = recorded.get(name, leaves_open)
        if _get(config, name) == leaves_open != before:
            log(f"the output was begun with --{name.rpartition('.')[2]} {before}: it stays so")
            config = _set(config, name, before)
    return config


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, those of a part as `part.name`."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= {f"{name}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {name: value}
    return found


def _get(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _set(config: Any, name: str, value: Any) -> Any:
    part, dot, inner = name.partition(".")
    return replace(config, **{part: _set(getattr(config, part), inner, value) if dot else value})
