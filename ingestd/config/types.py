"""Field types of the settings and the base of their sections."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr, WithJsonSchema

from ingestd.config import values
from ingestd.config.values import SettingError

__all__ = [
    "MASK",
    "Bucket",
    "Bytes",
    "Flag",
    "HttpEndpoint",
    "Integer",
    "Line",
    "Number",
    "Path",
    "Region",
    "Secret",
    "Section",
    "SenderName",
    "StoreUrl",
    "ZmqEndpoint",
]

#: Shown in place of a secret; refused as a value, so that a shown config is never taken for a real one.
MASK = "**********"

_SIZE_SCHEMA = {
    "anyOf": [
        {"type": "integer"},
        {"type": "string", "pattern": r"^[0-9]{1,20}(\.[0-9]{1,9})? *([bB]|[kKmMgGtT][iI]?[bB])?$"},
    ]
}


def _secret(secret: SecretStr) -> SecretStr:
    if secret.get_secret_value() == MASK:
        raise SettingError(
            "must be the secret itself; this is the mask that `ingestd config show` prints", hidden=True
        )
    values.one_line(secret.get_secret_value())
    return secret


Bytes = Annotated[int, BeforeValidator(values.byte_size), WithJsonSchema(_SIZE_SCHEMA)]
Integer = Annotated[int, BeforeValidator(values.integer)]
Number = Annotated[float, BeforeValidator(values.number)]
Flag = Annotated[bool, BeforeValidator(values.flag)]
Path = Annotated[str, AfterValidator(values.path)]
Line = Annotated[str, AfterValidator(values.one_line)]
Secret = Annotated[SecretStr, AfterValidator(_secret)]
SenderName = Annotated[str, AfterValidator(values.sender_name)]
Bucket = Annotated[str, AfterValidator(values.bucket_name)]
Region = Annotated[str, AfterValidator(values.region_name)]
StoreUrl = Annotated[str, AfterValidator(values.store_url)]
ZmqEndpoint = Annotated[str, AfterValidator(values.zmq_endpoint)]
HttpEndpoint = Annotated[str, AfterValidator(values.http_endpoint)]


class Section(BaseModel):
    """Base of all sections: frozen, nothing unknown, no NaN, and no value in the text of an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True, validate_default=False
    )
