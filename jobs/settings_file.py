"""Settings from a YAML or JSON file.

`--config FILE` sets the values in the file, over the recipe; the command line wins over both. The keys are the
settings' names, without groups or in groups as in a run's own `run/config.json`, which works unchanged; so does the
`train.json` of a training.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, get_type_hints

from pipeline.checkpoints.bundled import bundled_name
from pipeline.config.segmenting import ONCE
from pipeline.errors import ConfigError


def read_settings(uri: str) -> dict[str, Any]:
    """The values in a file by the settings' names.

    Args:
        uri: a YAML or JSON file in any store. From a run's record, only the part `settings` is used, without options
            for a single call such as `--overwrite`, which would delete the run's results; from that of a training, only
            `config`.

    Raises:
        ConfigError: it is not such a file, or names a setting twice.
        OSError: it cannot be read.
    """
    import yaml  # type: ignore[import-untyped]

    from pipeline import storage
    from pipeline.inputs.named import check_named

    check_named("config", uri)
    if storage.is_folder(uri):
        raise ConfigError(f"--config {uri} is a folder; name a file of settings")
    try:
        content = yaml.safe_load(storage.read_bytes(uri))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {uri} is neither YAML nor JSON: {' '.join(str(error).split())}") from error
    if isinstance(content, Mapping) and {"config", "history"} <= set(content):
        content = content["config"]
    elif isinstance(content, Mapping) and {"identity", "settings"} <= set(content):
        content = {name: value for name, value in dict(content["settings"]).items() if name not in ONCE}
    if not isinstance(content, Mapping):
        raise ConfigError(f"--config {uri} holds no settings; it should have lines such as `proposals: 50`")
    found = _without_groups(content, uri)
    networks = {name: bundled_name(found[name]) for name in ("weights", "fcn") if isinstance(found.get(name), str)}
    return found | networks  # earlier versions recorded where the package lay


def _without_groups(content: Mapping[Any, Any], uri: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        inner = _without_groups(value, uri) if isinstance(value, Mapping) else {str(key).replace("-", "_"): value}
        if twice := found.keys() & inner.keys():
            raise ConfigError(f"--config {uri} has {option_of(min(twice))} twice")
        found |= inner
    return found


def unchecked(config: type[Any], values: Mapping[str, Any], otherwise: Any = None) -> Any:
    """Settings that are not checked yet, because the command line may still complete them.

    Args:
        config: the class of the settings.
        values: values by name.
        otherwise: the value of settings that have neither a given value nor a default.
    """
    made = object.__new__(config)
    for one in fields(config):
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        value = values.get(one.name, otherwise if default is MISSING else default)
        object.__setattr__(made, one.name, value)
    return made


def with_settings(config: Any, values: Mapping[str, Any], uri: str) -> Any:
    """The settings with the values of a file; rules that involve several settings are not checked yet.

    Args:
        config: an instance of a command's class of settings, whose parts may be such classes.
        values: as `read_settings` returns them.
        uri: the file's name, for messages.

    Raises:
        ConfigError: a name is not a setting, or a value has the wrong type.
    """
    known = names_of(type(config))
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {option_of(near[0])}?" if near else ""
            raise ConfigError(f"--config {uri}: there is no setting {option_of(name)}{hint}")
    return _filled(config, values, uri)


def _filled(config: Any, values: Mapping[str, Any], uri: str) -> Any:
    changes: dict[str, Any] = {}
    for name, kind in get_type_hints(type(config)).items():
        if is_dataclass(kind):
            changes[name] = _filled(getattr(config, name), values, uri)
        elif name in values:
            changes[name] = _typed(kind, values[name], f"--config {uri}: {option_of(name)}")
    return unchecked(type(config), vars(config) | changes)


def out_of_range(config: type[Any], values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with each value by itself, where all other settings have their defaults.

    Args:
        config: the class of the settings.
        values: by name, of the right types.
    """
    others = vars(unchecked(config, {}, otherwise="anything"))
    for name, kind in get_type_hints(config).items():
        if is_dataclass(kind) and isinstance(kind, type):
            yield from out_of_range(kind, values)
        elif name in values:
            try:
                config(**others | {name: _typed(kind, values[name], option_of(name))})
            except ConfigError as error:
                yield str(error)


def _typed(kind: Any, value: Any, where: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    if kind is bool and not isinstance(value, bool):
        raise ConfigError(f"{where} is {value!r}: write true or false")
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"{where} is {value!r}: {error.errors()[0]['msg']}") from error


def names_of(config: type[Any]) -> list[str]:
    """Names of all settings of a class, including those of its parts, in order."""
    names: list[str] = []
    for name, kind in get_type_hints(config).items():
        names += names_of(kind) if is_dataclass(kind) and isinstance(kind, type) else [name]
    return names


def as_yaml(config: Any) -> str:
    """All settings, in the form that `--config` reads."""
    import yaml

    return str(yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True))


def option_of(name: str) -> str:
    """A setting's name as the command line has it, without the dashes before it."""
    return name.replace("_", "-")
