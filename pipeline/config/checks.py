"""What every setting's range check uses."""

from __future__ import annotations


class ConfigError(ValueError):
    """A setting is out of its range; the message names the setting as an option, its value and what is allowed."""


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    """Check a setting.

    Raises:
        ConfigError: `ok` is false.
    """
    if not ok:
        raise ConfigError(f"--{name.replace('_', '-')} is {value}; {allowed}")
