"""The table of keys: its order, its words, and its limits to the last value on either side."""

import math
from dataclasses import fields as dataclass_fields

import pytest

from ingestd.formats.fields import FIELDS, FIELDS_BY_NAME, NAMED_FIGURES, PYTHON_TYPES
from ingestd.formats.frame import REASONS
from ingestd.formats.measurement import Measurement

ORDER = (
    "task_id websdr_id frequency_mhz frequency_hz sample_rate_khz sample_rate_hz iq_data timestamp_utc timestamp_ns "
    "samples_count metrics datatype node epoch seq chunk sample_index expected clock_source timestamp_sigma_ns "
    "clock_age_s gain_db bandwidth_hz geolocation extras v"
)


def after(value):
    return math.nextafter(value, math.inf)


#: Field, last values taken, first values refused.
EDGES = [
    ("task_id", ["a", "a" * 128], ["", "a" * 129, ".a", "a\n", "\na"]),
    ("websdr_id", [0, 2**31 - 1], [-1, 2**31]),
    ("frequency_mhz", [5e-324, 1e6], [0, -5e-324, after(1e6), math.nan, math.inf]),
    ("frequency_hz", [5e-324, 1e12], [0, -5e-324, after(1e12), math.nan, math.inf]),
    ("sample_rate_khz", [5e-324, 1e7], [0, -5e-324, after(1e7), math.nan, math.inf]),
    ("sample_rate_hz", [5e-324, 1e10], [0, -5e-324, after(1e10), math.nan, math.inf]),
    ("timestamp_ns", [315_964_800 * 10**9], [315_964_800 * 10**9 - 1, 2**63]),
    ("samples_count", [0, 2**63 - 1], [-1, 2**63]),
    ("datatype", ["cf32_le", "ci16_le", "ci8", "cu8"], ["", "ci16", "cf32_be", "CU8"]),
    ("node", ["a", "a" * 128], ["", "a" * 129, ".a", "a/b"]),
    ("epoch", [0, 2**53 - 1], [-1, 2**53]),
    ("seq", [0, 2**53 - 1], [-1, 2**53]),
    ("chunk", [0, 999_999], [-1, 10**6]),
    ("sample_index", [0, 2**63 - 1], [-1, 2**63]),
    ("expected", [1, 10_000], [0, 10_001]),
    ("clock_source", ["gnss", "ptp", "ntp", "host", "none"], ["", "None"]),
    ("timestamp_sigma_ns", [0, 1.7e308], [-5e-324, math.nan, math.inf]),
    ("clock_age_s", [0, 1.7e308], [-5e-324, math.nan, math.inf]),
    ("gain_db", [-1.7e308, 1.7e308], [math.nan, math.inf, -math.inf]),
    ("bandwidth_hz", [5e-324, 1e10], [0, after(1e10), math.nan]),
    ("v", [1], [0, 2, -1]),
]


def test_the_keys_are_those_of_the_format_in_its_order():
    assert [field.name for field in FIELDS] == ORDER.split()
    assert list(FIELDS_BY_NAME) == ORDER.split()


def test_every_key_but_four_is_an_attribute_of_a_measurement():
    attributes = {field.name for field in dataclass_fields(Measurement)}
    assert set(FIELDS_BY_NAME) - attributes == {"iq_data", "timestamp_utc", "samples_count", "v"}
    assert attributes - set(FIELDS_BY_NAME) == {"samples"}


def test_three_keys_are_required_by_themselves():
    assert [field.name for field in FIELDS if field.required] == ["task_id", "websdr_id", "iq_data"]


def test_every_key_has_a_rule_in_words_a_wire_type_and_a_reason():
    assert all(field.allowed and field.type in PYTHON_TYPES and field.reason in REASONS for field in FIELDS)


def test_a_bool_is_of_no_wire_type():
    assert not any(bool in types for types in PYTHON_TYPES.values())


@pytest.mark.parametrize(("name", "taken", "refused"), EDGES)
def test_the_limits_are_where_the_format_says(name, taken, refused):
    accepts = FIELDS_BY_NAME[name].accepts
    assert [value for value in taken if not accepts(value)] == []
    assert [value for value in refused if accepts(value)] == []


def test_the_fields_without_an_edge_are_checked_as_a_whole_frame():
    unchecked = set(FIELDS_BY_NAME) - {name for name, _, _ in EDGES}
    assert unchecked == {"iq_data", "timestamp_utc", "metrics", "geolocation", "extras"}


def test_the_named_figures_are_those_of_the_users_guide():
    assert NAMED_FIGURES == ("snr_db", "frequency_offset_hz", "power_dbm")


def test_no_name_is_a_way_out_of_a_directory_or_an_object_key():
    is_name = FIELDS_BY_NAME["task_id"].accepts
    taken = [chr(code) for code in range(0x11000) if not 0xD800 <= code < 0xE000 and is_name(chr(code))]
    assert "".join(taken) == "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
