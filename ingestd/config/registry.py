"""The registry of nodes: what is known of a receiver beyond what its frames say."""

from __future__ import annotations

import itertools
from typing import Any, Self

from pydantic import ConfigDict, Field, model_validator

from ingestd.config.types import Integer, Number, Section, SenderName
from ingestd.config.values import SettingError

__all__ = ["CalibrationSettings", "NodeSettings", "Position", "check_unique"]


class Position(Section):
    """Where a receiver's antenna is; a list `[lat, lon]` or `[lat, lon, alt]` means the same."""

    model_config = ConfigDict(json_schema_extra={"type": ["object", "array"], "minItems": 2, "maxItems": 3})

    lat: Number = Field(ge=-90, le=90, description="latitude, WGS 84 [degrees]")
    lon: Number = Field(ge=-180, le=180, description="longitude, WGS 84 [degrees]")
    alt: Number | None = Field(
        default=None, ge=-1000, le=100_000, description="height above the ellipsoid [m]"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, raw: Any) -> Any:
        if isinstance(raw, list | tuple):
            if not 2 <= len(raw) <= 3:
                raise SettingError("must be a map with lat, lon and perhaps alt, or a list in that order")
            return dict(zip(("lat", "lon", "alt"), raw, strict=False))
        return raw


class CalibrationSettings(Section):
    """Level calibration of one band: power_dbm = power_dbfs + offset_db."""

    min_hz: Number = Field(ge=0, le=1e12, description="lower edge of the band [Hz]")
    max_hz: Number = Field(gt=0, le=1e12, description="upper edge of the band [Hz]")
    offset_db: Number = Field(ge=-300, le=300, description="dBm of a full-scale tone [dB]")
    gain_db: Number | None = Field(
        default=None, ge=-300, le=300, description="only for frames with this gain_db; null = any [dB]"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_hz <= self.min_hz:
            raise SettingError("must be a frequency above min_hz", key="max_hz", shown=repr(self.max_hz))
        return self


class NodeSettings(Section):
    """One receiver; a frame belongs to it by `node`, else by `websdr_id`."""

    name: SenderName = Field(description="the frame's `node`; unique")
    websdr_id: Integer | None = Field(
        default=None, ge=0, le=2**31 - 1, description="the frame's `websdr_id`; unique"
    )
    position: Position | None = Field(default=None, description="of the antenna: lat, lon [degrees], alt [m]")
    calibration: tuple[CalibrationSettings, ...] = Field(
        default=(), max_length=1000, description="bands: min_hz, max_hz, offset_db and perhaps gain_db"
    )
    bandwidth_hz: Number | None = Field(
        default=None, gt=0, le=1e10, description="passband, where neither frame nor samples tell it [Hz]"
    )
    delay_ns: Integer | None = Field(
        default=None,
        ge=-(10**10),
        le=10**10,
        description="known delay from antenna to stamp, for whoever evaluates; stamps are never changed [ns]",
    )
    expect_every_s: Number | None = Field(
        default=None,
        gt=0,
        le=31_622_400,
        description="health says `node_silent` after this long without a frame [s]",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for (i, one), (j, other) in itertools.combinations(enumerate(self.calibration), 2):
            overlap = one.min_hz < other.max_hz and other.min_hz < one.max_hz
            if overlap and one.gain_db == other.gain_db:
                raise SettingError(
                    f"must be a band that does not overlap calibration[{i}], which has the same gain_db",
                    key=f"calibration[{j}].min_hz",
                    shown=repr(other.min_hz),
                )
        return self


def check_unique(nodes: tuple[NodeSettings, ...]) -> None:
    """Raise `SettingError` for the first name or websdr_id that is there twice."""
    for attribute in ("name", "websdr_id"):
        first: dict[Any, int] = {}
        for i, node in enumerate(nodes):
            value = getattr(node, attribute)
            if value is not None and first.setdefault(value, i) != i:
                raise SettingError(
                    f"must be a {attribute} that nodes[{first[value]}] does not have",
                    key=f"nodes[{i}].{attribute}",
                    shown=repr(value),
                )
