"""The metadata document: golden bytes, order, strictness, and what it keeps."""

import json
import struct
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.errors import StoreCorrupt
from ingestd.formats import frame as wire
from ingestd.formats import metadata, npy
from ingestd.formats.measurement import content_crc
from ingestd.storage.encoding import encode_pair
from ingestd.testing.frames import noise

ROOT = Path(__file__).resolve().parents[3]
FRAMES = {one["name"]: one for one in json.loads((ROOT / "tests/golden/frames.json").read_text())["frames"]}
GOLDEN = json.loads((ROOT / "tests/golden/metadata.json").read_text())["objects"]
QUERY = {one["name"]: one for one in json.loads((ROOT / "tests/golden/query.json").read_text())["cases"]}


def joined(hexadecimal, text):
    """Whether a page shows these bytes, in lines."""
    return hexadecimal in "".join(line.strip() for line in text.splitlines() if line.startswith("    "))


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda one: one["frame"])
def test_both_objects_are_the_golden_bytes(golden):
    pair, _ = encode_pair(wire.parse(bytes.fromhex(FRAMES[golden["frame"]]["hex"])))
    assert b"".join(map(bytes, pair.npy.parts)).hex() == golden["npy_hex"]
    assert b"".join(map(bytes, pair.metadata.parts)).decode() == golden["metadata"]


def test_the_pages_show_the_golden_bytes():
    golden = next(one for one in GOLDEN if one["frame"] == "every_key")
    page = (ROOT / "docs/metadata.md").read_text()
    assert golden["metadata"] in page
    assert joined(golden["npy_hex"], page)
    page = (ROOT / "docs/confirmation.md").read_text()
    assert joined(FRAMES["confirmed_chunk"]["hex"], page)
    assert QUERY["confirm"]["request"]["json"] in page
    assert QUERY["confirm"]["reply"]["json"] in page


def test_every_key_is_there_in_its_order_and_the_page_names_it():
    document = metadata.accepted_document(noise("t"))
    assert tuple(document) == metadata.KEYS
    page = (ROOT / "docs/metadata.md").read_text()
    shown = json.loads(page.split("```json\n")[1].split("```")[0])
    assert tuple(shown) == metadata.KEYS


def test_a_document_is_small_strict_json_that_reads_back_to_the_bit():
    one = noise("t", seed=3, sample_rate_hz=12001.132099999999)
    _, document = encode_pair(one)
    encoded = metadata.encode(document)
    assert len(encoded) < 2048
    assert encoded.endswith(b"}\n")
    assert metadata.decode(encoded) == document
    assert metadata.content(document) == (one.timestamp_ns, one.frequency_hz, one.sample_rate_hz)
    with pytest.raises(ValueError, match="JSON compliant"):
        metadata.encode(document | {"power_dbfs": float("nan")})


def test_what_the_node_measured_is_kept_and_the_rest_is_computed():
    one = noise("t", n_samples=20_000, metrics={"snr_db": None, "power_dbm": -73, "agc": True})
    _, document = encode_pair(one)
    assert document["metrics"]["power_dbm"] == -73
    assert document["metrics"]["agc"] is True
    assert document["metrics_source"] == {"snr_db": None, "frequency_offset_hz": None, "power_dbm": "node"}
    _, document = encode_pair(
        noise("t", n_samples=20_000, metrics={"snr_db": 1.0, "frequency_offset_hz": 2.0})
    )
    assert document["metrics_source"]["snr_db"] == "node"
    assert document["noise_dbfs_hz"] is None, "no spectrum is made where nothing is missing"
    assert document["power_dbfs"] == pytest.approx(-17, abs=0.1)
    _, document = encode_pair(noise("t"), figures="none")
    assert document["power_dbfs"] is None
    assert document["nonfinite_count"] is None


def test_the_nodes_passband_is_kept_where_no_spectrum_is_made():
    for one, figures in (
        (noise("t", n_samples=10, bandwidth_hz=6000.0), "missing"),
        (noise("t", bandwidth_hz=6000.0), "none"),
    ):
        _, document = encode_pair(one, figures=figures)
        assert (document["bandwidth_hz"], document["bandwidth_source"]) == (6000.0, "frame")


def test_sha256_is_added_on_request():
    import hashlib

    pair, document = encode_pair(noise("t"), sha256=True)
    assert document["sha256"] == hashlib.sha256(b"".join(map(bytes, pair.npy.parts))).hexdigest()
    assert list(document)[-1] == "sha256"


@pytest.mark.parametrize(
    "encoded",
    [b"", b"[]", b"null", b"{", b'{"timestamp_ns": 1.5}', b'{"timestamp_ns": true}', b'{"frequency_hz": "7"}', b'{"a": NaN}',
     b"\xff\xfe", b"[" * 100_000, b" " * (metadata.MAX_DOCUMENT_BYTES + 1), "{}".encode("utf-16"), b"\xef\xbb\xbf{}",
     b'{"frequency_hz": 1' + b"0" * 400 + b"}", b'{"sample_rate_hz": 1e400}', b'{"timestamp_ns": 9223372036854775808}'],
    ids=range(16),
)  # fmt: skip
def test_what_is_no_document_is_corrupt(encoded):
    with pytest.raises(StoreCorrupt):
        metadata.decode(encoded)


def test_content_crc_is_the_npys_checksum_continued_over_stamp_frequency_and_rate():
    one = noise("t")
    pair, _ = encode_pair(one)
    whole = b"".join(map(bytes, pair.npy.parts)) + struct.pack(
        "<qdd", one.timestamp_ns, one.frequency_hz, one.sample_rate_hz
    )
    assert pair.content_crc == google_crc32c.value(whole)
    other = noise("t", timestamp_ns=one.timestamp_ns + 1)
    assert encode_pair(other)[0].content_crc != pair.content_crc
    crc = npy.encode(one).crc32c
    assert content_crc(crc, None, None, None) != content_crc(crc, 0, 0.0, 0.0)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


@given(st.dictionaries(st.text(), VALUES, max_size=8))
def test_every_document_is_written_as_the_standard_encoder_indents_it(document):
    try:
        plain = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2).encode() + b"\n"
    except UnicodeEncodeError:
        return
    assert metadata.encode(document) == plain


@pytest.mark.parametrize("value", [float("nan"), {"deep": [float("inf")]}])
def test_what_is_not_json_is_no_document(value):
    with pytest.raises(ValueError, match="JSON compliant"):
        metadata.encode({"x": value})
