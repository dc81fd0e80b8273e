#!/usr/bin/env python3
"""Write docs/settings.md out of the code: `scripts/settings_doc.py`, or `--check` to only compare (exit 1 if stale)."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic import AfterValidator, BaseModel, SecretStr
from pydantic.fields import FieldInfo

from ingestd.config import values
from ingestd.config.files import shown_path
from ingestd.config.keys import GUIDE_VARIABLES, KEYS, SECTIONS, Key
from ingestd.config.model import Settings
from ingestd.config.registry import CalibrationSettings, NodeSettings, Position
from ingestd.config.sources import DEFAULT_CONFIG_FILE

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "settings.md"

_HEAD = """\
# Settings

<!-- Written by scripts/settings_doc.py out of ingestd/config; change it there and run that. -->

`ingestd check-config` checks the settings, shows what is in force and where each value comes from and how much memory
they may take, and warns of what should be known. `ingestd config show` prints the same as a config file, `ingestd config schema` the JSON schema of one.
[config.yaml](../config.yaml) is a config file with every key at its default, so as it is it changes nothing.

## Where settings come from

The first source that gives a key wins, key by key:

1. the command line: `ingestd run --set log.level=debug`, once for each key; never a secret,
2. the environment: `INGESTD_` + section + `__` + key, `INGESTD_LOG__LEVEL=debug`; below them the variables of the
   user's guide: {guide},
3. the systemd credentials directory (`$CREDENTIALS_DIRECTORY`, set by `LoadCredential=`): one file for a key, named as
   the environment in lower case without the prefix, `minio__secret_key`; one line break at its end is taken off; a file
   that every user of the machine can read is refused; files with other names belong to others, unless they look like
   one of ours (`minio__...`),
4. the config file: `--config FILE`, else `$INGESTD_CONFIG`, else {default} if it is there; never silently one in the
   current directory; `$STATE_DIRECTORY`, which systemd sets, counts below it,
5. the defaults.

A config file that was named and is missing, an unknown key at any depth, an unknown `INGESTD_` variable and an unknown
credential are errors that name the nearest right one (exit 78), and so is every value that is not allowed: key, value,
where it came from, and what is allowed. Only `INGESTD_CONFIG` and `INGESTD_FAULT` (fault injection of the tests) are
`INGESTD_` variables that are no keys.

`null`, or an empty text where null is allowed, stands for the default. A variable of the guide that is empty counts as
not set.

## Values

| type | is written as |
|---|---|
| size | bytes, or a text with a unit: `64 MiB`, `1.5 GB` (B kB MB GB TB KiB MiB GiB TiB) |
| flag | `true` or `false`; in the environment also `yes no on off 1 0` |
| whole number, number | plain digits; what YAML would read in its own way (`010`, `1:30`) is an error |
| text | one line, without control characters or white space around it |
| path | written out: neither `~` nor variables are expanded |
| endpoint | `tcp://ADDRESS:PORT` or `ipc://PATH` |
| bucket name | 3 to 63 of a-z 0-9 . -, by the rules of S3 |
| secret | text that is never printed: not by `config show` or `check-config`, not in errors, not in logs |
"""

_NODES = """\
A list of maps. In the environment (`INGESTD_NODES`) and as a credential (`nodes`) it is one YAML or JSON text. A frame
belongs to the node that has its `node` as its name, else to the one that has its `websdr_id`.
"""

_KINDS: dict[Any, str] = {
    values.path: "path",
    values.one_line: "text",
    values.sender_name: "name (as the frame's `node`)",
    values.bucket_name: "bucket name",
    values.region_name: "text of A-Z a-z 0-9 -",
    values.store_url: "URL",
    values.zmq_endpoint: "endpoint",
    values.http_endpoint: "`ADDRESS:PORT`",
}


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _number(value: float, name: str) -> str:
    if value == 2**63 - 1:
        return "2^63 - 1"
    if name.endswith("_bytes"):
        for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if value and value % size == 0:
                return f"{value // size} {unit}"
    return str(value) if isinstance(value, int) else f"{value:g}"


def _range(name: str, metadata: list[Any]) -> str:
    low = high = ""
    for bound in metadata:
        if isinstance(bound, annotated_types.Ge):
            low = f"from {_number(bound.ge, name)}"
        elif isinstance(bound, annotated_types.Gt):
            low = f"over {_number(bound.gt, name)}"
        elif isinstance(bound, annotated_types.Le):
            high = f"to {_number(bound.le, name)}"
        elif isinstance(bound, annotated_types.MaxLen):
            high = f"at most {bound.max_length} of them"
    return " ".join(part for part in (low, high) if part)


def allowed(name: str, field: FieldInfo) -> str:
    """Type and range of one key, for people."""
    parts = list(_parts(field.annotation))
    metadata = [*field.metadata, *(part for part in parts if not isinstance(part, type))]
    kind = ""
    for part in parts:
        if get_origin(part) is Literal:
            kind = ", ".join(f"`{choice}`" for choice in get_args(part))
        elif part is SecretStr:
            kind = "secret"
        elif isinstance(part, type) and issubclass(part, BaseModel):
            kind = kind or "map"
    if any(get_origin(part) is tuple for part in parts):
        kind = "list of maps"
    for validator in metadata:
        if not kind and isinstance(validator, AfterValidator):
            kind = _KINDS[validator.func]
    if not kind:
        size = "size" if name.endswith("_bytes") else "whole number"
        kind = next(
            word for type_, word in ((bool, "flag"), (int, size), (float, "number")) if type_ in parts
        )
    bounds = _range(name, metadata)
    return f"{kind}, {bounds}" if bounds else kind


def _default(key: Key) -> str:
    if key.name.endswith("_bytes") and key.default is not None:
        return _number(key.default, key.name)
    return json.dumps(key.default).removesuffix(".0")


def _rows(keys: list[Key], fields: dict[str, FieldInfo]) -> Iterator[str]:
    yield "| key | type and range | default | meaning | environment | credential |"
    yield "|---|---|---|---|---|---|"
    for key in keys:
        name = key.path[-1]
        variables = [key.variable, *(guide for guide, name in GUIDE_VARIABLES.items() if name == key.name)]
        shown = ", ".join(f"`{variable}`" for variable in variables)
        yield (
            f"| `{key.name}` | {allowed(name, fields[name])} | `{_default(key)}` | {key.description} "
            f"| {shown} | `{key.credential}` |"
        )


def _model_rows(model: type[BaseModel]) -> Iterator[str]:
    yield "| key | type and range | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else f"`{json.dumps(field.default)}`"
        yield f"| `{name}` | {allowed(name, field)} | {default} | {field.description} |"


def _sentence(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip()


def render() -> str:
    """Text of docs/settings.md."""
    guide = ", ".join(f"`{name}`" for name in GUIDE_VARIABLES)
    lines = [_HEAD.format(guide=guide, default=shown_path(DEFAULT_CONFIG_FILE))]
    top = [key for name, key in KEYS.items() if "." not in name and name != "nodes"]
    lines += ["## Top level", "", *_rows(top, Settings.model_fields), ""]
    for section, names in SECTIONS.items():
        model = Settings.model_fields[section].annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        keys = [KEYS[name] for name in names]
        lines += [f"## {section}", "", _sentence(model), "", *_rows(keys, model.model_fields), ""]
    lines += ["## nodes", "", _NODES, *_rows([KEYS["nodes"]], Settings.model_fields), ""]
    for title, nested in (
        ("One node", NodeSettings),
        ("`position`", Position),
        ("`calibration`", CalibrationSettings),
    ):
        lines += [f"### {title}", "", _sentence(nested), "", *_model_rows(nested), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def main(arguments: list[str]) -> int:
    """Write the document, or compare it."""
    text = render()
    if arguments == ["--check"]:
        written = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else ""
        diff = difflib.unified_diff(
            written.splitlines(), text.splitlines(), "docs/settings.md", "code", lineterm=""
        )
        print("\n".join(diff))
        return int(written != text)
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    DOCUMENT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
