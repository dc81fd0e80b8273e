"""The five sources of the settings, in order, with everything closed that would be ignored in silence."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from ingestd.config.document import Place, read_value, read_yaml
from ingestd.config.files import near_file, read_text, refuse_world_readable, shown_path
from ingestd.config.keys import ENVIRONMENT_PREFIX, GUIDE_VARIABLES, KEYS, SECTIONS, Key, nearest
from ingestd.config.model import Settings
from ingestd.config.problems import describe, unknown_key
from ingestd.errors import ConfigError, bounded

__all__ = ["DEFAULT_CONFIG_FILE", "RESERVED_VARIABLES", "read"]

#: Read where neither --config nor $INGESTD_CONFIG names another; there is never a silent one in the current directory.
DEFAULT_CONFIG_FILE = "/etc/ingestd/config.yaml"

#: Variables with our prefix that are no settings.
RESERVED_VARIABLES = frozenset({"INGESTD_CONFIG", "INGESTD_FAULT"})

#: Bounds of what is read [bytes]; a registry of 1000 calibrated nodes is below a tenth of it.
_MAX_CONFIG_BYTES = 4 * 2**20
_MAX_CREDENTIAL_BYTES = 64 * 2**10


@dataclass(frozen=True, slots=True)
class Layer:
    """What one source gives: nested values, and where each was written."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Place, str] = field(default_factory=dict)

    def put(self, key: Key, value: Any, origin: str) -> None:
        """Add one value under its dotted key."""
        *section, name = key.path
        target = self.values.setdefault(section[0], {}) if section else self.values
        target[name] = _secret(key, _null(key, value))
        self.origins[key.path] = origin


class _LayerSource(PydanticBaseSettingsSource):
    """A layer as pydantic-settings wants it."""

    def __init__(self, settings_cls: type[BaseSettings], layer: Layer) -> None:
        super().__init__(settings_cls)
        self._layer = layer

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - the base's signature
        return self._layer.values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._layer.values


class _SourcedSettings(Settings, BaseSettings):  # type: ignore[misc]  # both call their config model_config
    """Settings merged by pydantic-settings out of our layers alone."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - ignores unknown variables
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - never a silent file in the current directory
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - ignores unknown files
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the layers given to the constructor, the first wins."""
        layers: Sequence[Layer] = init_settings()["layers"]
        return tuple(_LayerSource(settings_cls, layer) for layer in layers)


def read(
    config_file: str | None, overrides: Mapping[str, Any] | None, environ: Mapping[str, str] | None
) -> Settings:
    """Read all sources; see `ingestd.config.load`."""
    environ = os.environ if environ is None else environ
    layers = [
        _overrides_layer(overrides or {}),
        _environment_layer(environ),
        _guide_layer(environ),
        _credentials_layer(environ),
        _file_layer(config_file, environ),
        _systemd_layer(environ),
    ]
    for layer in layers:
        _check_key_file(layer)
        _drop_null_state_directory(layer)
    origins: dict[Place, str] = {}
    for layer in reversed(layers):
        origins.update(layer.origins)
    try:
        sourced = _SourcedSettings(layers=layers)  # type: ignore[call-arg]  # taken by settings_customise_sources
    except ValidationError as error:
        raise ConfigError(describe(error.errors(include_url=False), origins)) from error
    merged = {name: getattr(sourced, name) for name in Settings.model_fields}
    return Settings.model_validate(merged).with_origins(_effective_origins(layers))


def _drop_null_state_directory(layer: Layer) -> None:
    """Take null as not given, because the default of this key is in the lowest source and not in the model."""
    key = KEYS["state_directory"]
    if key.path in layer.origins and layer.values[key.name] is None:
        del layer.values[key.name], layer.origins[key.path]


def _effective_origins(layers: Sequence[Layer]) -> dict[str, str]:
    """Origin of every key that the highest source giving it does not set to null (which stands for the default)."""
    effective: dict[str, str] = {}
    for name, key in KEYS.items():
        for layer in layers:
            if key.path in layer.origins:
                if _get(layer.values, key.path) is not None:
                    effective[name] = layer.origins[key.path]
                break
    return effective


def _get(nested: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = nested
    for step in path:
        value = value[step]
    return value


def _null(key: Key, value: Any) -> Any:
    return None if key.is_nullable and isinstance(value, str) and not value else value


def _secret(key: Key, value: Any) -> Any:
    return SecretStr(value) if key.is_secret and isinstance(value, str) else value


def _text_value(key: Key, text: str, origin: str) -> Any:
    """Value of a text (environment, credential, command line); numbers are read by the model."""
    if key.name == "nodes":
        return read_value(text, origin)
    return None if key.is_nullable and not key.is_secret and text == "null" else text


def _nested_layer(nested: Mapping[str, Any], origin: Callable[[Place], str]) -> Layer:
    """Layer of nested maps; raises for unknown keys and for a section that is no map."""
    layer = Layer()
    for name, value in nested.items():
        if name == "nodes" and value is None:
            continue  # all its lines commented out
        if name in KEYS:
            layer.put(KEYS[name], value, origin((name,)))
        elif name not in SECTIONS:
            raise ConfigError(unknown_key((name,), origin((name,))))
        elif value is not None:
            _put_section(layer, name, value, origin)
    return layer


def _put_section(layer: Layer, section: str, value: Any, origin: Callable[[Place], str]) -> None:
    if not isinstance(value, Mapping):
        allowed = ", ".join(name.partition(".")[2] for name in SECTIONS[section])
        raise ConfigError(f"{section} ({origin((section,))}): must be a map of its keys: {allowed}")
    for name, inner in value.items():
        key = KEYS.get(f"{section}.{name}")
        if key is None:
            raise ConfigError(unknown_key((section, name), origin((section, name))))
        layer.put(key, inner, origin((section, name)))


def _overrides_layer(overrides: Mapping[str, Any]) -> Layer:
    nested: dict[str, Any] = {}
    for name, value in overrides.items():
        key = KEYS.get(name)
        if key is not None and isinstance(value, str):
            value = _text_value(key, value, f"command line, {name}")  # noqa: PLW2901 - the same value, read
        section, dot, inner = name.partition(".")
        if dot:
            nested.setdefault(section, {})[inner] = value
        elif isinstance(value, Mapping):
            nested.setdefault(name, {}).update(value)
        else:
            nested[name] = value
    return _nested_layer(nested, lambda _place: "command line")


def _environment_layer(environ: Mapping[str, str]) -> Layer:
    layer = Layer()
    variables = {key.variable: key for key in KEYS.values()}
    for variable, text in environ.items():
        if not variable.upper().startswith(ENVIRONMENT_PREFIX) or variable in RESERVED_VARIABLES:
            continue
        key = variables.get(variable)
        if key is None:
            raise ConfigError(_unknown_variable(variable, variables))
        origin = f"environment {variable}"
        layer.put(key, _text_value(key, text, origin), origin)
    return layer


def _unknown_variable(variable: str, known: Collection[str]) -> str:
    # Without the prefix, which would make every name look near.
    cut = len(ENVIRONMENT_PREFIX)
    near = nearest(variable[cut:], [name[cut:] for name in known])
    hint = f"did you mean {ENVIRONMENT_PREFIX}{near}?" if near else "names are INGESTD_<SECTION>__<KEY>"
    return f"unknown environment variable {bounded(variable)[1:-1]}; {hint}"


def _guide_layer(environ: Mapping[str, str]) -> Layer:
    layer = Layer()
    for variable, name in GUIDE_VARIABLES.items():
        # Compose files pass variables on that are not set as empty ones.
        if environ.get(variable):
            layer.put(KEYS[name], environ[variable], f"environment {variable}")
    return layer


def _systemd_layer(environ: Mapping[str, str]) -> Layer:
    """Take the state directory that systemd made; of several the first."""
    layer = Layer()
    directory = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if directory:
        layer.put(KEYS["state_directory"], directory, "environment STATE_DIRECTORY")
    return layer


def _credentials_layer(environ: Mapping[str, str]) -> Layer:
    layer = Layer()
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return layer
    credentials = {key.credential: key for key in KEYS.values()}
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise ConfigError(f"credentials directory {shown_path(directory)}: {error.strerror}") from error
    for name in names:
        key = credentials.get(name)
        if key is not None:
            path = os.path.join(directory, name)
            refuse_world_readable(path, f"credential {name}")
            text = read_text(path, _MAX_CREDENTIAL_BYTES, "credential").removesuffix("\n").removesuffix("\r")
            layer.put(key, _text_value(key, text, f"credential {name}"), f"credential {name}")
        elif name.partition("__")[0] in SECTIONS and "__" in name:
            near = nearest(name, list(credentials))
            raise ConfigError(
                f"unknown credential {bounded(name)[1:-1]}" + (f"; did you mean {near}?" if near else "")
            )
    return layer


def _file_layer(config_file: str | None, environ: Mapping[str, str]) -> Layer:
    path, named_by = config_file, "--config"
    if path is None and environ.get("INGESTD_CONFIG"):
        path, named_by = environ["INGESTD_CONFIG"], "$INGESTD_CONFIG"
    if path is None:
        # lexists: a dangling link there is a mistake, not an absent file.
        if not _is_there(DEFAULT_CONFIG_FILE):
            return Layer()
        path, named_by = DEFAULT_CONFIG_FILE, "the default place"
    if not os.path.lexists(path):
        raise ConfigError(
            f"config file {shown_path(path)} (named by {named_by}) does not exist{near_file(path)}"
        )
    text = read_text(path, _MAX_CONFIG_BYTES, "config file")
    shown = shown_path(path)
    value, lines = read_yaml(text, lambda line: f"{shown}:{line}")
    if value is None:
        return Layer()
    if not isinstance(value, dict):
        raise ConfigError(
            f"{shown}:1: must be a map of sections ({', '.join(SECTIONS)}), not a {type(value).__name__}"
        )
    layer = _nested_layer(value, lambda place: f"{shown}:{_line(place, lines)}")
    # What is inside the registry; the key itself has its origin where it has a value.
    layer.origins.update(
        {place: f"{shown}:{line}" for place, line in lines.items() if place[0:1] == ("nodes",) and place[1:]}
    )
    return layer


def _is_there(path: str) -> bool:
    """Whether a file, or a link to one, is there; not being allowed to know is an error, not an absence."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(f"config file {shown_path(path)}: {error.strerror}") from error
    return True


def _line(place: Place, lines: Mapping[Place, int]) -> int:
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def _check_key_file(layer: Layer) -> None:
    """Refuse a secret key file that others may read, as ssh does."""
    key = KEYS["security.secret_key_file"]
    if key.path not in layer.origins:
        return
    path = _get(layer.values, key.path)
    if isinstance(path, str) and os.path.exists(path) and os.stat(path).st_mode & 0o007:
        raise ConfigError(
            f"{key.name} = {bounded(path)} ({layer.origins[key.path]}): others may read this file; chmod 0400 it"
        )
