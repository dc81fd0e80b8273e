"""YAML of the config file, read so that every value knows its line and nothing is taken for something else.

YAML 1.1 reads 010 as 8 and 1:30 as 90, and PyYAML lets the last of two equal keys win; here these are errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from ingestd.errors import ConfigError, bounded

__all__ = ["Place", "read_value", "read_yaml"]

#: Path to a value: keys and list indices.
Place = tuple[str | int, ...]

#: Aliases can make a small file endless; a registry of 1000 nodes stays far below.
_MAX_NODES = 200_000
_MAX_DEPTH = 16

_MAP, _SEQUENCE = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_AMBIGUOUS = re.compile(r"[+-]?0[0-9_]+|.*[:_].*", re.ASCII)


def read_yaml(text: str, where: Callable[[int], str]) -> tuple[Any, dict[Place, int]]:
    """Read one YAML document.

    Parameters
    ----------
    text
        Of the document.
    where
        Renders a line number for an error message.

    Returns
    -------
    value and lines
        Maps, lists and scalars; and the line of each.

    Raises
    ------
    ConfigError
        It is no YAML, or not the plain kind that a config needs. Values are never shown: one may be a secret.
    """
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{where(line)}: not valid YAML: {_without_values(error.problem or '')}") from None
    except (yaml.YAMLError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else "it holds a control character"
        raise ConfigError(f"{where(1)}: not valid YAML: {reason}") from None
    reader = _Reader(where)
    return (None if root is None else reader.value(root, ())), reader.lines


def read_value(text: str, where: str) -> Any:
    """Read a value given as YAML or JSON in one text, e.g. the registry in an environment variable."""
    return read_yaml(text, lambda _line: where)[0]


def _without_values(problem: str) -> str:
    """Problem of a YAML parser without the words it quotes from the file."""

    def hide(quoted: re.Match[str]) -> str:
        return quoted[0] if len(quoted[1]) <= 1 or quoted[1].startswith("<") else "'...'"

    return re.sub(r"'([^']*)'", hide, problem)


class _Reader:
    """Builds values out of the parser's nodes."""

    def __init__(self, where: Callable[[int], str]) -> None:
        self.lines: dict[Place, int] = {}
        self._where = where
        self._left = _MAX_NODES
        self._scalars = yaml.SafeLoader("")

    def value(self, node: yaml.Node, place: Place) -> Any:
        self._left -= 1
        if self._left < 0 or len(place) > _MAX_DEPTH:
            raise self._error(node, "too large or nested too deep")
        self.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode) and node.tag == _SEQUENCE:
            return [self.value(child, (*place, i)) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        raise self._error(node, "YAML tags are not allowed here")

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, child in node.value:
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise self._error(key_node, "a key must be text")
            if key in mapping:
                first = self.lines[(*place, key)]
                raise self._error(key_node, f"{bounded(key)} is there twice, first in line {first}")
            self.lines[(*place, key)] = key_node.start_mark.line + 1
            mapping[key] = self.value(child, (*place, key))
        return mapping

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag in {_INT, _FLOAT} and _AMBIGUOUS.fullmatch(node.value):
            raise self._error(
                node, "YAML reads this number in its own way: write plain digits, or put quotes around it"
            )
        try:
            return self._scalars.construct_object(node)
        except yaml.MarkedYAMLError:
            raise self._error(node, "YAML tags are not allowed here") from None
        except (ValueError, OverflowError):
            raise self._error(node, "not a value that YAML can read") from None

    def _error(self, node: yaml.Node, reason: str) -> ConfigError:
        return ConfigError(f"{self._where(node.start_mark.line + 1)}: {reason}")
