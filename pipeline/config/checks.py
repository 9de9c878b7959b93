"""What every setting's range check uses."""

from __future__ import annotations

from functools import cache
from numbers import Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipeline.errors import ConfigError


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    """Check a setting.

    Args:
        ok: whether the value is allowed.
        name: the setting's field name; the message shows it as an option.
        value: what was given.
        allowed: the end of the message, such as `must be above 0`.

    Raises:
        ConfigError: `ok` is false.
    """
    if not ok:
        raise ConfigError(f"--{name.replace('_', '-')} is {value}; {allowed}")


def require_positive(config: object, *names: str) -> None:
    """Check that settings are above 0; None passes.

    Raises:
        ConfigError: one of them is not.
    """
    for name in names:
        value = getattr(config, name)
        require(value is None or value > 0, name, value, "must be above 0")


def require_val_share(share: float | None) -> None:
    """Check a share of images for validation; None, the default's, passes.

    Raises:
        ConfigError: it is not in 0..1, or would leave nothing to train on.
    """
    require(share is None or 0 <= share < 1, "val_share", share, "must be at least 0 and below 1")


def require_kinds(config: Any) -> None:
    """Check that each setting with a fixed list of values has one of them, and that each number is one.

    The command line's parser sees to both; settings made in Python pass none.

    Raises:
        ConfigError: one of them has another value, such as a number as text.
    """
    for name, kind in _hints(config.__class__).items():
        value = getattr(config, name)
        if get_origin(kind) is Literal:
            require(value in get_args(kind), name, value, f"there is {', '.join(map(str, get_args(kind)))}")
        elif _is_numeric(kind) and not (value is None and type(None) in get_args(kind)):
            numbers = value if isinstance(value, tuple | list) else (value,)
            require(all(isinstance(one, Real) for one in numbers), name, repr(value), "must be a number")


def _is_numeric(kind: Any) -> bool:
    """Whether a setting is a number, several, or one that may be left out."""
    return kind in (int, float) or any(map(_is_numeric, get_args(kind)))


@cache
def _hints(config: type[Any]) -> dict[str, Any]:
    return get_type_hints(config)


def require_local(name: str, path: str) -> None:
    """Check that a setting is a path on this machine: an address would become a folder called `s3:`.

    Raises:
        ConfigError: it is an address with a scheme.
    """
    require("://" not in path, name, path, "must be a path on this machine")


def require_home_for_checkpoints(output: str) -> None:
    """Check that Ray Train can keep a training's checkpoints in its output: it can in a folder and on S3.

    Raises:
        ConfigError: the output lies in another store.
    """
    scheme, separator, _ = str(output).partition("://")  # while a command line is read, it is a mark for a missing one
    advice = (
        "a training keeps its checkpoints in a local or shared folder or on s3://: name one, and copy it afterwards"
    )
    require(not separator or scheme in {"file", "s3"}, "output", output, advice)
