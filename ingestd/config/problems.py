"""Words for what is wrong with the settings: key, value, where it came from, what is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from ingestd.config.document import Place
from ingestd.config.keys import KEYS, SECTIONS, nearest
from ingestd.config.registry import CalibrationSettings, NodeSettings, Position
from ingestd.config.types import Section
from ingestd.config.values import SettingError
from ingestd.errors import bounded

__all__ = ["describe", "dotted", "unknown_key"]

#: Problems told at once; the rest are counted.
_MAX_TOLD = 5

_ALLOWED = {
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:.15g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:.15g}",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "missing": "missing",
    "string_type": "must be text (put quotes around it)",
    "tuple_type": "must be a list",
    "too_long": "must be at most {max_length} of them",
    "model_type": "must be a map",
    "model_attributes_type": "must be a map",
}


def dotted(place: Place) -> str:
    """Path of a value for people: `nodes[0].name`; foreign keys are escaped."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + (
                step if step.isidentifier() and len(step) < 80 else bounded(step)
            )
    return text


def unknown_key(place: Place, origin: str) -> str:
    """Say that a key is unknown and which one was probably meant."""
    parent, wrong = place[:-1], str(place[-1])
    siblings = _siblings(parent)
    near = nearest(wrong, siblings)
    # `minio_url`, as the user's guide writes it, is nearer to a key than to its section.
    flat = wrong.replace("_", ".", 1)
    meant = flat if not parent and flat in KEYS else dotted((*parent, near)) if near else _elsewhere(wrong)
    hint = f"did you mean {meant}?" if meant else "allowed here: " + ", ".join(siblings)
    return f"{dotted(place)} ({origin}): unknown key; {hint}"


def _elsewhere(wrong: str) -> str | None:
    """Key of another section whose last part was probably meant."""
    last = {name.rpartition(".")[2]: name for name in reversed(KEYS)}
    near = nearest(wrong, last)
    return last[near] if near else None


def _siblings(parent: Place) -> Sequence[str]:
    names = [step for step in parent if isinstance(step, str)]
    if not names:
        return [*dict.fromkeys(name.partition(".")[0] for name in KEYS)]
    if names[0] != "nodes":
        return [name.partition(".")[2] for name in SECTIONS.get(names[0], ())]
    inner: dict[str, type[Section]] = {"calibration": CalibrationSettings, "position": Position}
    return list(inner.get(names[-1], NodeSettings).model_fields)


def describe(errors: Sequence[ErrorDetails], origins: Mapping[Place, str]) -> str:
    """Say what is wrong, in one line.

    Parameters
    ----------
    errors
        As pydantic lists them.
    origins
        Where each value came from.
    """
    told = [_describe_one(error, origins) for error in errors[:_MAX_TOLD]]
    more = [f"and {len(errors) - _MAX_TOLD} more"] if len(errors) > _MAX_TOLD else []
    return "; ".join([*told, *more])


def _describe_one(error: ErrorDetails, origins: Mapping[Place, str]) -> str:
    context: dict[str, Any] = error.get("ctx", {})
    cause = context.get("error")
    wrong = cause if isinstance(cause, SettingError) else SettingError(_reason(error, context))
    place: Place = error["loc"]
    if error["type"] == "extra_forbidden":
        return unknown_key(place, _origin(place, origins))
    key = dotted(place)
    if wrong.key:
        key = f"{key}.{wrong.key}" if key else wrong.key
    origin = _origin(_place(key), origins)
    value = "" if error["type"] == "missing" else _shown(key, error["input"], wrong)
    because = (
        f" (because of {wrong.because}: {_origin(_place(wrong.because), origins)})" if wrong.because else ""
    )
    return f"{key}{value}" + (f" ({origin})" if origin else "") + f": {wrong.reason}{because}"


def _reason(error: ErrorDetails, context: Mapping[str, Any]) -> str:
    if error["input"] is None and error["type"] != "missing":
        return "null is not allowed; leave the key out for its default"
    template = _ALLOWED.get(error["type"])
    if template is None:
        return error["msg"]
    near = None
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        near = nearest(
            error["input"],
            [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")],
        )
    return template.format(**context) + (f"; did you mean {near!r}?" if near else "")


def _shown(key: str, value: object, wrong: SettingError) -> str:
    known = KEYS.get(key)
    if wrong.hidden or (known is not None and known.is_secret):
        return ""
    return f" = {wrong.shown if wrong.shown is not None else bounded(value)}"


def _place(key: str) -> Place:
    steps: list[str | int] = []
    for part in key.split("."):
        name, *indices = part.replace("]", "").split("[")
        steps += [name, *(int(index) for index in indices)]
    return tuple(steps)


def _origin(place: Place, origins: Mapping[Place, str]) -> str:
    """Origin of a value or of the nearest thing around it that has one; "" for a default."""
    while place:
        if place in origins:
            return origins[place]
        place = place[:-1]
    return ""
