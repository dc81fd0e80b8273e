"""Reading recordings: the bytes that are read are those of the file."""

import io
import json
from contextlib import suppress

import numpy as np
import pytest

from ingestd.cli.recording import open_recording
from ingestd.errors import UsageError
from ingestd.formats.recording import RAW_SUFFIXES, Segment, parse_sigmf, wire_datatype

SAMPLES = (np.arange(12, dtype="<f4") / 16).view("<c8")
RAW = {
    "cf32_le": SAMPLES.tobytes(),
    "ci16_le": bytes(range(48)),
    "ci8": bytes(range(24)),
    "cu8": bytes(range(24)),
}


def write(path, content):
    path.write_bytes(content)
    return str(path)


def sigmf(tmp_path, about=None, captures=None, stem="rec", dataset="rec.sigmf-data"):
    document = {
        "global": {"core:datatype": "cf32_le", "core:sample_rate": 12001.145, "core:version": "1.2.5"}
        | (about or {}),
        "captures": [{"core:sample_start": 0, "core:frequency": 77500.0}] if captures is None else captures,
        "annotations": [],
    }
    write(tmp_path / dataset, SAMPLES.tobytes())
    return write(tmp_path / f"{stem}.sigmf-meta", json.dumps(document).encode())


def content(name, datatype=None, stdin=None):
    with open_recording(name, datatype, stdin) as recording:
        return recording.datatype, recording.n_samples, recording.read(1_000)


class TestRawFiles:
    @pytest.mark.parametrize("suffix", RAW_SUFFIXES)
    def test_the_suffix_says_the_datatype_and_the_bytes_are_those_of_the_file(self, tmp_path, suffix):
        datatype = RAW_SUFFIXES[suffix]
        n = 12 if datatype in ("cu8", "ci8", "ci16_le") else 6
        assert content(write(tmp_path / f"x{suffix}", RAW[datatype])) == (datatype, n, RAW[datatype])

    def test_suffixes_are_taken_in_capitals_too(self, tmp_path):
        assert content(write(tmp_path / "X.CU8", RAW["cu8"]))[0] == "cu8"

    @pytest.mark.parametrize("suffix", [".cfile", ".iq"])
    def test_cfile_and_iq_are_floats_unless_the_user_says_otherwise(self, tmp_path, suffix):
        path = write(tmp_path / f"x{suffix}", RAW["cf32_le"])
        assert content(path) == ("cf32_le", 6, RAW["cf32_le"])
        assert content(path, "ci16_le") == ("ci16_le", 12, RAW["cf32_le"])

    @pytest.mark.parametrize("dtype", ["u1", "i1", "<i2"])
    def test_integers_named_iq_are_not_taken_for_floats(self, tmp_path, dtype):
        rng = np.random.default_rng(1)
        noise = rng.normal(127.5 if dtype == "u1" else 0, 20, 4096).astype(dtype)
        with pytest.raises(UsageError, match="--datatype is missing"):
            content(write(tmp_path / "x.iq", noise.tobytes()))

    def test_an_unknown_name_needs_a_datatype(self, tmp_path):
        path = write(tmp_path / "x.bin", RAW["cu8"])
        with pytest.raises(UsageError, match=r"allowed: \.npy, \.sigmf-meta"):
            content(path)
        assert content(path, "cu8") == ("cu8", 12, RAW["cu8"])

    def test_a_datatype_that_contradicts_the_name_is_refused(self, tmp_path):
        with pytest.raises(UsageError, match="says cu8"):
            content(write(tmp_path / "x.cu8", RAW["cu8"]), "ci8")

    def test_a_torn_sample_is_refused(self, tmp_path):
        with pytest.raises(UsageError, match="47 bytes are no whole number of ci16_le samples"):
            content(write(tmp_path / "x.cs16", RAW["ci16_le"][:-1]))

    def test_an_empty_file_is_refused(self, tmp_path):
        with pytest.raises(UsageError, match="holds no samples"):
            content(write(tmp_path / "x.cs16", b""))

    def test_a_missing_file_a_directory_and_a_nul_are_usage_errors(self, tmp_path):
        for path in (str(tmp_path / "none.cu8"), str(tmp_path), "a\0.cu8"):
            with pytest.raises(UsageError, match="cannot be opened"):
                content(path, "cu8")


class TestDatatypes:
    @pytest.mark.parametrize(
        "name", ["ci16_be", "cf32_be", "cf64_le", "rf32_le", "cu16_le", "ci32_le", "<c16", "O"]
    )
    def test_what_is_not_on_the_wire_is_refused_by_name_with_what_is(self, name):
        with pytest.raises(UsageError, match="allowed: cf32_le, ci16_le, ci8, cu8") as caught:
            wire_datatype(name)
        assert name in str(caught.value)

    def test_short_names_are_those_of_the_suffixes(self):
        assert [wire_datatype(name) for name in ("cs16", "cf32", "cs8", "cu8")] == [
            "ci16_le",
            "cf32_le",
            "ci8",
            "cu8",
        ]


class TestStandardInput:
    def test_is_read_to_its_end(self):
        stdin = io.BufferedReader(io.BytesIO(RAW["cu8"]))
        assert content("-", "cu8", stdin) == ("cu8", None, RAW["cu8"])

    def test_needs_a_datatype(self):
        with pytest.raises(UsageError, match="--datatype is missing"):
            content("-", None, io.BufferedReader(io.BytesIO()))

    def test_a_torn_sample_at_the_end_is_left_out_and_counted(self):
        stdin = io.BufferedReader(io.BytesIO(RAW["cu8"][:-1]))
        with open_recording("-", "cu8", stdin) as recording:
            assert recording.read(100) == RAW["cu8"][:-2]
            assert recording.torn_bytes == 1


class TestNpy:
    def test_complex64_is_read_to_the_bit(self, tmp_path):
        np.save(tmp_path / "x.npy", SAMPLES)
        assert content(str(tmp_path / "x.npy")) == ("cf32_le", 6, SAMPLES.tobytes())

    @pytest.mark.parametrize(
        "array",
        [
            SAMPLES.astype("<c16"),
            SAMPLES.astype(">c8"),
            SAMPLES.reshape(2, 3),
            SAMPLES.view("<f4"),
            np.array(["a"]),
        ],
        ids=["complex128", "big-endian", "2-D", "float32", "text"],
    )
    def test_any_other_array_is_refused(self, tmp_path, array):
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(UsageError, match="allowed: complex64"):
            content(str(tmp_path / "x.npy"))

    def test_an_array_of_objects_is_never_unpickled(self, tmp_path):
        np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
        with pytest.raises(UsageError):
            content(str(tmp_path / "x.npy"))

    def test_every_truncation_is_refused(self, tmp_path):
        np.save(tmp_path / "x.npy", SAMPLES)
        whole = (tmp_path / "x.npy").read_bytes()
        for n in range(len(whole)):
            with pytest.raises(UsageError):
                content(write(tmp_path / "cut.npy", whole[:n]))

    def test_every_flipped_byte_of_the_header_is_read_or_refused(self, tmp_path):
        np.save(tmp_path / "x.npy", SAMPLES)
        whole = bytearray((tmp_path / "x.npy").read_bytes())
        for i in range(128):
            flipped = bytes(whole[:i] + bytes([whole[i] ^ 0x15]) + whole[i + 1 :])
            with suppress(UsageError):
                assert content(write(tmp_path / "flip.npy", flipped))[2] == SAMPLES.tobytes()


class TestSigMF:
    def test_samples_lie_beside_the_metadata(self, tmp_path):
        with open_recording(sigmf(tmp_path), None) as recording:
            assert recording.sample_rate_hz == 12001.145
            assert recording.segments == (Segment(frequency_hz=77500.0),)
            assert recording.read(100) == SAMPLES.tobytes()

    def test_core_dataset_names_another_file(self, tmp_path):
        path = sigmf(tmp_path, {"core:dataset": "other.cf32"}, dataset="other.cf32")
        assert content(path) == ("cf32_le", 6, SAMPLES.tobytes())

    def test_the_name_of_the_samples_finds_the_metadata(self, tmp_path):
        sigmf(tmp_path)
        assert content(str(tmp_path / "rec.sigmf-data"))[1] == 6

    @pytest.mark.parametrize("name", ["../rec.cf32", "/etc/passwd", "a/b", "..", "", "a\0b"])
    def test_core_dataset_cannot_leave_the_directory(self, tmp_path, name):
        with pytest.raises(UsageError, match="core:dataset"):
            content(sigmf(tmp_path, {"core:dataset": name}))

    def test_headers_and_trailers_are_not_samples(self, tmp_path):
        path = sigmf(
            tmp_path, {"core:trailing_bytes": 8}, [{"core:sample_start": 0, "core:header_bytes": 16}]
        )
        assert content(path) == ("cf32_le", 3, SAMPLES.tobytes()[16:-8])

    def test_captures_become_segments(self, tmp_path):
        captures = [
            {
                "core:sample_start": 100,
                "core:frequency": 1e6,
                "core:datetime": "2017-11-27T10:41:56.123456789Z",
            },
            {"core:sample_start": 102, "core:frequency": 2e6, "core:global_index": 55},
        ]
        with open_recording(sigmf(tmp_path, {"core:offset": 100}, captures), None) as recording:
            assert recording.segments == (
                Segment(0, 2, 1e6, 1511779316123456789),
                Segment(2, None, 2e6, sample_index=55),
            )

    def test_no_captures_are_one_segment_of_which_nothing_is_known(self, tmp_path):
        with open_recording(sigmf(tmp_path, captures=[]), None) as recording:
            assert recording.segments == (Segment(),)

    @pytest.mark.parametrize(
        ("about", "captures", "named"),
        [
            ({"core:datatype": "ci16_be"}, None, "core:datatype='ci16_be'"),
            ({"core:datatype": 5}, None, "core:datatype=5"),
            ({"core:num_channels": 2}, None, "core:num_channels=2"),
            ({"core:metadata_only": True}, None, "core:metadata_only"),
            ({"core:sample_rate": "fast"}, None, "core:sample_rate='fast'"),
            ({"core:sample_rate": 10**400}, None, "core:sample_rate"),
            ({}, [{"core:sample_start": 3}], r"captures\[0\].core:sample_start=3"),
            ({}, [{}, {"core:sample_start": 0}], r"captures\[1\].core:sample_start=0"),
            ({}, [{}, {"core:sample_start": 6}], "core:sample_start=6"),
            ({}, [{"core:datetime": "2017-11-27T10:41:56+01:00"}], "core:datetime="),
            ({}, [{"core:frequency": -1}], "core:frequency=-1"),
            ({}, [7], r"captures\[0\]=7"),
            ({}, 7, "captures=7"),
            ({"core:trailing_bytes": 48}, None, "holds no samples"),
        ],
    )
    def test_what_cannot_be_sent_is_named(self, tmp_path, about, captures, named):
        with pytest.raises(UsageError, match=named):
            content(sigmf(tmp_path, about, captures))

    @pytest.mark.parametrize("encoded", [b"", b"{", b"[]", b"{}", b"[" * 100_000, b"\xff", b'{"global": []}'])
    def test_what_is_no_metadata_is_a_usage_error(self, encoded):
        with pytest.raises(UsageError):
            parse_sigmf(encoded)

    def test_members_beside_the_point_are_left_out(self, tmp_path):
        point = {"type": "Point", "coordinates": [7.2, 53.6]}
        path = sigmf(tmp_path, captures=[{"core:geolocation": point | {"bbox": [1, 2, 3, 4]}}])
        with open_recording(path, None) as recording:
            assert recording.segments[0].geolocation == point
