"""What is written down about the settings agrees with the code: config.yaml, docs/settings.md, the JSON schema."""

import json
import re
from pathlib import Path

import pytest
import yaml

from ingestd.config import load
from ingestd.config.keys import GUIDE_VARIABLES, KEYS, SECTIONS
from ingestd.config.report import json_schema
from ingestd.config.values import byte_size

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config.yaml"
DOCS = ROOT / "docs" / "settings.md"


def _flat(nested):
    for name, value in nested.items():
        if name in SECTIONS:
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield name, value


def _size(key, value):
    return byte_size(value) if key.endswith("_bytes") and value is not None else value


def test_config_yaml_has_every_key_with_its_default_and_no_other():
    written = {key: _size(key, value) for key, value in _flat(yaml.safe_load(CONFIG.read_text()))}
    assert written == {name: key.default for name, key in KEYS.items()}


def test_config_yaml_keeps_the_order_of_the_models():
    assert [key for key, _ in _flat(yaml.safe_load(CONFIG.read_text()))] == list(KEYS)


def test_every_key_of_config_yaml_has_a_comment_above_it():
    lines = CONFIG.read_text().splitlines()
    keys = [i for i, line in enumerate(lines) if re.match(r" *[a-z_]+:", line)]
    assert len(keys) == len(KEYS) + len(SECTIONS)
    assert [lines[i] for i in keys if not lines[i - 1].lstrip().startswith("#")] == []


def test_loading_config_yaml_changes_nothing():
    from_file, from_nothing = load(str(CONFIG), environ={}), load(environ={})
    assert from_file.public() == from_nothing.public()


def test_config_yaml_leaves_the_state_directory_to_systemd():
    assert load(str(CONFIG), environ={"STATE_DIRECTORY": "/var/lib/ingestd"}).state_directory == "/var/lib/ingestd"


def test_the_example_registry_in_config_yaml_is_valid(tmp_path):
    text = CONFIG.read_text()
    example = "\n".join(line[2:] for line in text[text.index("# nodes:") :].splitlines() if line.startswith("# "))
    path = tmp_path / "config.yaml"
    path.write_text(example)
    (node,) = load(str(path), environ={}).nodes
    unset = [name for name, value in node.model_dump().items() if value in (None, ())]
    assert unset == [], "the example shows every key"


def _allowed(schema):
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"] if choice is not None)
    parts = schema.get("anyOf", [schema])
    types = {t for part in parts for t in ([part["type"]] if isinstance(part["type"], str) else part["type"])}
    low, high = (next((p[k] for p in parts if k in p), schema.get(k)) for k in ("minimum", "maximum"))
    above = next((p["exclusiveMinimum"] for p in parts if "exclusiveMinimum" in p), None)
    if types >= {"integer", "string"}:
        return "size"
    kind = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "array": "list"}
    name = next((kind[t] for t in sorted(types) if t in kind), "text")
    start = f"over {above:,g}" if above is not None else f"{low:,g}" if low is not None else ""
    return f"{name}, {start} to {high:,g}" if high is not None else name


def _default(key):
    default = load(environ={}).public() if key.default is None else None
    if default is not None:
        return "null"
    if key.name.endswith("_bytes"):
        unit, name = (2**30, "GiB") if key.default >= 2**30 else (2**20, "MiB")
        return f"{key.default // unit} {name}"
    return json.dumps(key.default).strip('"').removesuffix(".0")


def _table(names, properties, label):
    rows = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for name, default, description in names:
        allowed = _allowed(properties[name.rpartition(".")[2]])
        rows.append(f"| `{label}{name}` | {default} | {allowed} | {description} |")
    return "\n".join(rows)


def _tables():
    """Every table of docs/settings.md, by its heading."""
    schema = json.loads(json_schema())
    models = schema["$defs"]
    top = [KEYS[name] for name in KEYS if "." not in name]
    yield "Top level", _table([(k.name, f"`{_default(k)}`", k.description) for k in top], schema["properties"], "")
    for section, names in SECTIONS.items():
        properties = models[f"{section.capitalize()}Settings"]["properties"]
        keys = [KEYS[name] for name in names]
        yield section, _table([(k.name, f"`{_default(k)}`", k.description) for k in keys], properties, "")
    for title, model in (("nodes", "NodeSettings"), ("nodes: position", "Position")):
        yield title, _model_table(models[model])
    yield "nodes: calibration", _model_table(models["CalibrationSettings"])


def _model_table(model):
    resolved = {}
    for name, field in model["properties"].items():
        is_map = "$ref" in str(field) and field.get("type") != "array"
        resolved[name] = {"enum": ["map"]} if is_map else field
    names = [
        (name, "required" if name in model["required"] else f"`{json.dumps(field.get('default'))}`", field["description"])
        for name, field in model["properties"].items()
    ]
    return _table(names, resolved, "")


@pytest.mark.parametrize(("heading", "table"), list(_tables()), ids=lambda part: part.split("\n")[0][:20])
def test_docs_settings_has_the_table_of_the_code(heading, table):
    section = DOCS.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert table in section, f"the table under '## {heading}' must be:\n\n{table}\n"


def test_docs_settings_names_the_variables_of_the_guide():
    assert [name for name in GUIDE_VARIABLES if f"`{name}`" not in DOCS.read_text()] == []


def test_the_schema_names_every_key_and_forbids_others():
    schema = json.loads(json_schema())
    assert set(schema["properties"]) == {name.partition(".")[0] for name in KEYS}
    assert schema["additionalProperties"] is False
    assert all(model["additionalProperties"] is False for model in schema["$defs"].values())


def test_the_schema_uses_only_words_of_json_schema():
    def words(part):
        if isinstance(part, dict):
            yield from part
            for key, value in part.items():
                if key not in {"properties", "$defs", "default"}:
                    yield from words(value)
                elif key != "default":
                    for inner in value.values():
                        yield from words(inner)
        elif isinstance(part, list):
            for value in part:
                yield from words(value)

    known = {
        "$schema", "$defs", "$ref", "title", "description", "type", "properties", "required", "default", "enum",
        "additionalProperties", "anyOf", "items", "pattern", "minimum", "maximum", "exclusiveMinimum",
        "exclusiveMaximum", "minItems", "maxItems",
    }  # fmt: skip
    assert set(words(json.loads(json_schema()))) <= known
