"""All keys of the settings, read off the models, with their names in every source."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ingestd.config.model import Settings

__all__ = ["ENVIRONMENT_PREFIX", "GUIDE_VARIABLES", "KEYS", "SECTIONS", "Key", "nearest"]

ENVIRONMENT_PREFIX = "INGESTD_"

#: Variables of the user's guide; they stand below their INGESTD_ names.
GUIDE_VARIABLES = {
    "MINIO_URL": "minio.url",
    "MINIO_ACCESS_KEY": "minio.access_key",
    "MINIO_SECRET_KEY": "minio.secret_key",
    "MINIO_BUCKET_RAW_IQ": "minio.bucket_raw_iq",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the settings.

    Parameters
    ----------
    name
        Dotted, e.g. "minio.url".
    default
        As config.yaml writes it; None where it is null or depends on the machine.
    is_secret
        Whether its value must never be shown or stand on a command line.
    description
        For people.
    """

    name: str
    default: Any
    is_secret: bool
    description: str

    @property
    def path(self) -> tuple[str, ...]:
        """Section and key, or the key alone at the top."""
        return tuple(self.name.split("."))

    @property
    def is_nullable(self) -> bool:
        """Whether null is allowed: it is the default of every such key."""
        return self.default is None

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return ENVIRONMENT_PREFIX + self.name.replace(".", "__").upper()

    @property
    def credential(self) -> str:
        """Its file in the credentials directory."""
        return self.name.replace(".", "__")


#: Keys whose default depends on other keys or on the machine; null stands for it.
_DERIVED = frozenset({"state_directory", "storage.kind", "storage.directory", "uploader.count"})


def _key(name: str, field: FieldInfo) -> Key:
    default = None if name in _DERIVED or field.default is PydanticUndefined else field.default
    is_secret = any(SecretStr in get_args(part) or part is SecretStr for part in _parts(field.annotation))
    return Key(
        name, list(default) if isinstance(default, tuple) else default, is_secret, field.description or ""
    )


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _keys() -> Iterator[Key]:
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            for inner, inner_field in section.model_fields.items():
                yield _key(f"{name}.{inner}", inner_field)
        else:
            yield _key(name, field)


#: Every key by its dotted name, in the order of the models.
KEYS: dict[str, Key] = {key.name: key for key in _keys()}

#: Every section and its keys.
SECTIONS: dict[str, tuple[str, ...]] = {
    section: tuple(name for name in KEYS if name.startswith(f"{section}."))
    for section in dict.fromkeys(name.partition(".")[0] for name in KEYS if "." in name)
}


def nearest(wrong: str, names: Collection[str]) -> str | None:
    """Name that was probably meant; None where nothing is near."""
    folded = {name.lower(): name for name in names}
    found = difflib.get_close_matches(wrong.lower()[:200], folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None
