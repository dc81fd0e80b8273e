"""What is written down about the settings agrees with the code: config.yaml, docs/settings.md, the JSON schema."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ingestd.config import load
from ingestd.config.keys import GUIDE_VARIABLES, KEYS, SECTIONS
from ingestd.config.model import Settings
from ingestd.config.registry import CalibrationSettings, NodeSettings, Position
from ingestd.config.report import json_schema
from ingestd.config.values import SettingError, byte_size

ROOT = Path(__file__).parents[3]
SCRIPT = str(ROOT / "scripts" / "settings_doc.py")
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
    keys = [i for i, line in enumerate(lines) if re.match(r" *[a-z0-9_]+:", line)]
    assert len(keys) == len(KEYS) + len(SECTIONS)
    assert [lines[i] for i in keys if not lines[i - 1].lstrip().startswith("#")] == []


def test_loading_config_yaml_changes_nothing():
    from_file, from_nothing = load(str(CONFIG), environ={}), load(environ={})
    assert from_file.public() == from_nothing.public()


def test_config_yaml_leaves_the_state_directory_to_systemd():
    assert (
        load(str(CONFIG), environ={"STATE_DIRECTORY": "/var/lib/ingestd"}).state_directory
        == "/var/lib/ingestd"
    )


def test_the_example_registry_in_config_yaml_is_valid(tmp_path):
    text = CONFIG.read_text()
    example = "\n".join(
        line[2:] for line in text[text.index("# nodes:") :].splitlines() if line.startswith("# ")
    )
    path = tmp_path / "config.yaml"
    path.write_text(example)
    (node,) = load(str(path), environ={}).nodes
    unset = [name for name, value in node.model_dump().items() if value in (None, ())]
    assert unset == [], "the example shows every key"


def _comments():
    """Comment above every key and section of config.yaml, as one line."""
    lines = CONFIG.read_text().splitlines()
    section = ""
    for i, line in enumerate(lines):
        match = re.match(r"( *)([a-z0-9_]+):(.*)", line)
        if match is None:
            continue
        start = i
        while lines[start - 1].lstrip().startswith("#"):
            start -= 1
        comment = " ".join(comment.strip(" #") for comment in lines[start:i])
        if match[1]:
            yield f"{section}.{match[2]}", comment
        else:
            section = match[2]
            yield section, comment


def _as_comment(description):
    """Meaning of a key as config.yaml writes it: a sentence in plain text."""
    text = description.replace("`", "")
    return (
        (text[0] if description[0] == "`" or "://" in text.split()[0] else text[0].upper()) + text[1:] + "."
    )


def test_every_comment_of_config_yaml_is_the_meaning_that_the_code_gives():
    comments = dict(_comments())
    comments["nodes"] = comments["nodes"].partition(". ")[0] + "."
    expected = {name: _as_comment(key.description) for name, key in KEYS.items()}
    for section in SECTIONS:
        expected[section] = Settings.model_fields[section].annotation.__doc__
    assert {name: comment.replace("`", "") for name, comment in comments.items()} == expected


def test_docs_settings_is_what_its_script_writes():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"run scripts/settings_doc.py:\n{done.stdout}{done.stderr}"


def test_docs_settings_has_a_row_for_every_key_with_variable_credential_and_meaning():
    rows = [line.strip("| ").split(" | ") for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    by_name = {row[0].strip("`"): row for row in rows if len(row) == 6}
    assert list(by_name) == list(KEYS)
    for name, key in KEYS.items():
        _, allowed, _, meaning, variables, credential = by_name[name]
        assert allowed
        assert meaning == key.description
        assert f"`{key.variable}`" in variables
        assert credential == f"`{key.credential}`"


def test_docs_settings_has_a_row_for_every_key_of_a_node():
    text = DOCS.read_text()
    for title, model in (
        ("One node", NodeSettings),
        ("`position`", Position),
        ("`calibration`", CalibrationSettings),
    ):
        section = text.partition(f"\n### {title}\n")[2].partition("\n### ")[0]
        assert re.findall(r"^\| `(\w+)`", section, re.MULTILINE) == list(model.model_fields)


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
        "exclusiveMaximum", "minItems", "maxItems", "format", "writeOnly",
    }  # fmt: skip
    assert set(words(json.loads(json_schema()))) <= known


@pytest.mark.parametrize(
    "text",
    ["64", "64 MiB", "64MIB", "64 kb", "1.5 GB", "0 B", "64 M", "64 Mi", "64 iB", "-1", "1.", " ", "x"],
)
def test_the_schema_takes_the_sizes_that_the_code_takes(text):
    size = json.loads(json_schema())["$defs"]["SpoolSettings"]["properties"]["min_free_bytes"]["anyOf"][1]
    try:
        byte_size(text)
    except SettingError:
        is_size = False
    else:
        is_size = True
    assert bool(re.search(size["pattern"], text)) is is_size
