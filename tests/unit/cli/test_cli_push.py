"""From a recording to frames, and what `push` says of them."""

import io
import json
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.cli import plan as planning
from ingestd.cli.plan import Description, plan, read_time
from ingestd.cli.push import Sent, settle
from ingestd.cli.recording import Recording, open_recording
from ingestd.errors import UsageError
from ingestd.formats import frame, timestamps
from ingestd.formats.measurement import Measurement
from ingestd.formats.recording import Segment, chunk_timestamp_ns

T0_NS = 1511779316123456789
UNKNOWN = (Segment(),)
COMPLETE = Description(
    task_id="t", websdr_id=5, frequency_hz=77500.0, sample_rate_hz=12001.1321, time=str(T0_NS)
)
ARGUMENTS = ("--task-id", "t", "--websdr-id", 5, "--frequency-hz", 77500, "--sample-rate-hz", 12001.1321)


def recorded(n_samples, datatype="cu8", *, known=True, segments=UNKNOWN, rate_hz=None):
    content = bytes(i % 251 for i in range(2 * n_samples))
    stream = io.BufferedReader(io.BytesIO(content))
    return Recording("it", datatype, stream, n_samples if known else None, rate_hz, segments)


def measurements(recording, description=COMPLETE, max_frame_bytes=64 * 2**20, now_ns=lambda: 0):
    return list(plan(recording, description, lambda: max_frame_bytes, now_ns).measurements())


def with_time(**changes):
    return Description(**{name: getattr(COMPLETE, name) for name in ("task_id", "websdr_id")}, **changes)


@pytest.fixture
def cu8(tmp_path):
    path = tmp_path / "x.cu8"
    path.write_bytes(bytes(range(200)))
    return str(path)


class TestStamps:
    @given(
        t0_ns=st.integers(timestamps.EARLIEST_NS, timestamps.LATEST_NS // 2),
        offset=st.integers(0, 10**13),
        rate_hz=st.floats(1e-3, 1e10),
    )
    def test_are_within_half_a_nanosecond_of_the_exact_time(self, t0_ns, offset, rate_hz):
        exact = t0_ns + Fraction(offset) * 10**9 / Fraction(rate_hz)
        assert abs(chunk_timestamp_ns(t0_ns, offset, rate_hz) - exact) <= Fraction(1, 2)

    def test_keep_nanoseconds_where_floats_lose_them(self):
        # 1e7 samples at 12001.1321 Hz after T0: in float64 the sum is off by tens of nanoseconds.
        offset = 10**7
        exact = round(Fraction(offset * 10**9) / Fraction(12001.1321))
        assert chunk_timestamp_ns(T0_NS, offset, 12001.1321) - T0_NS == exact
        assert int(float(T0_NS) + offset * 1e9 / 12001.1321) - T0_NS != exact

    @given(block=st.integers(1, 50), n_samples=st.integers(1, 100), rate_hz=st.floats(1.0, 1e9))
    def test_of_chunks_are_counted_from_the_first_sample_and_never_summed_up(self, block, n_samples, rate_hz):
        described = with_time(frequency_hz=1e6, sample_rate_hz=rate_hz, time=str(T0_NS), chunk_samples=block)
        for i, one in enumerate(measurements(recorded(n_samples), described)):
            assert one.chunk == i
            assert one.timestamp_ns == T0_NS + round(Fraction(i * block * 10**9) / Fraction(rate_hz))

    @pytest.mark.parametrize("text", [str(T0_NS), "2017-11-27T10:41:56.123456789Z"])
    def test_are_read_as_text_or_nanoseconds(self, text):
        assert read_time(text) == T0_NS

    @pytest.mark.parametrize("text", ["", "yesterday", "1511779316", "-5", "2017-11-27", "9" * 30, "١٢"])
    def test_that_are_neither_are_usage_errors(self, text):
        with pytest.raises(UsageError, match="--time"):
            read_time(text)

    def test_now_is_the_clock_when_the_first_byte_is_there(self):
        (one,) = measurements(
            recorded(4), with_time(frequency_hz=1.0, sample_rate_hz=1.0, time="now"), now_ns=lambda: T0_NS
        )
        assert (one.timestamp_ns, one.clock_source) == (T0_NS, "host")


class TestChunks:
    @given(n_samples=st.integers(1, 400), block=st.integers(1, 120))
    def test_hold_every_byte_once_and_in_order(self, n_samples, block):
        recording = recorded(n_samples)
        described = with_time(frequency_hz=1.0, sample_rate_hz=1.0, time=str(T0_NS), chunk_samples=block)
        joined = b"".join(bytes(one.samples) for one in measurements(recording, described))
        assert joined == bytes(i % 251 for i in range(2 * n_samples))

    @pytest.mark.parametrize("known", [True, False], ids=["file", "stream"])
    @pytest.mark.parametrize(
        ("n_samples", "chunks"), [(1000, [None]), (1001, [0, 1]), (2000, [0, 1]), (2001, [0, 1, 2])]
    )
    def test_are_made_only_of_what_is_longer_than_a_frame_may_be(self, known, n_samples, chunks):
        limit = 16 * 1024 + 2000
        made = measurements(recorded(n_samples, known=known), max_frame_bytes=limit)
        assert [one.chunk for one in made] == chunks
        assert all(len(frame.encode(one)) <= limit for one in made)

    def test_asked_for_are_numbered_even_if_there_is_one(self):
        described = with_time(frequency_hz=1.0, sample_rate_hz=1.0, time=str(T0_NS), chunk_samples=10)
        assert [one.chunk for one in measurements(recorded(3), described)] == [0]

    @pytest.mark.parametrize("n", [0, -1, 10**9])
    def test_of_no_length_or_too_long_for_a_frame_are_refused(self, n):
        described = with_time(frequency_hz=1.0, sample_rate_hz=1.0, time=str(T0_NS), chunk_samples=n)
        with pytest.raises(UsageError, match="--chunk-samples"):
            measurements(recorded(3), described)

    def test_beyond_six_digits_are_refused(self):
        described = with_time(frequency_hz=1.0, sample_rate_hz=1.0, time=str(T0_NS), chunk_samples=1)
        with pytest.raises(UsageError, match="1000001 chunks"):
            plan(Recording("it", "cu8", io.BufferedReader(io.BytesIO()), 1_000_001), described)

    def test_of_a_file_that_shrank_are_an_error_and_not_less(self):
        recording = Recording("it", "cu8", io.BufferedReader(io.BytesIO(b"ab")), 5)
        with pytest.raises(UsageError, match="ended early"):
            measurements(recording)


class TestSegments:
    SEGMENTS = (
        Segment(0, 10, 1e6, T0_NS, 500),
        Segment(10, 5, 2e6),
        Segment(15, None, 3e6, T0_NS + 10**9, 999),
    )

    def test_keep_their_own_frequency_stamp_and_sample_index(self):
        made = measurements(recorded(20, segments=self.SEGMENTS, rate_hz=1000.0), with_time())
        assert [
            (one.chunk, one.frequency_hz, one.timestamp_ns, one.sample_index, one.n_samples) for one in made
        ] == [
            (0, 1e6, T0_NS, 500, 10),
            (1, 2e6, T0_NS + 10**7, None, 5),
            (2, 3e6, T0_NS + 10**9, 999, 5),
        ]

    def test_are_all_counted_from_the_time_that_the_user_gives(self):
        made = measurements(
            recorded(20, segments=self.SEGMENTS, rate_hz=1000.0), with_time(time=str(T0_NS + 7))
        )
        assert [one.timestamp_ns - T0_NS - 7 for one in made] == [0, 10**7, 15 * 10**6]

    def test_are_cut_where_they_are_too_long(self):
        described = with_time(chunk_samples=4)
        made = measurements(recorded(20, segments=self.SEGMENTS, rate_hz=1000.0), described)
        assert [one.n_samples for one in made] == [4, 4, 2, 4, 1, 4, 1]
        assert [one.sample_index for one in made] == [500, 504, 508, None, None, 999, 1003]
        assert [one.chunk for one in made] == list(range(7))


class TestWhatIsMissing:
    def test_is_named_all_at_once(self):
        with pytest.raises(UsageError) as caught:
            plan(recorded(3), Description())
        for name in ("--task-id", "--websdr-id", "--frequency-hz", "--sample-rate-hz", "--time"):
            assert name in str(caught.value)

    @pytest.mark.parametrize("name", ["frequency_hz", "sample_rate_hz", "time"])
    def test_is_a_usage_error_before_the_daemon_is_asked(self, ingestctl, daemon, cu8, name):
        given = {"frequency_hz": 1, "sample_rate_hz": 1, "time": T0_NS}
        del given[name]
        options = [text for k, v in given.items() for text in (f"--{k.replace('_', '-')}", v)]
        code, out, err = ingestctl("push", cu8, "--task-id", "t", "--websdr-id", 1, *options)
        assert (code, out, daemon.asked) == (2, "", [])
        assert f"missing: --{name.replace('_', '-')}" in err

    @pytest.mark.parametrize(
        "options",
        [
            ("--frequency-hz", -1),
            ("--frequency-hz", "nan"),
            ("--sample-rate-hz", 1e11),
            ("--task-id", "../../etc"),
            ("--task-id", "\x1b[31m"),
            ("--websdr-id", -1),
            ("--bandwidth-hz", 0),
            ("--gain-db", "inf"),
            ("--frequency-mhz", 1),
            ("--datatype", "ci16_be"),
            ("--datatype", "ci8"),
            ("--time", "noon"),
            ("--chunk-samples", 0),
            ("--websdr-id", "five"),
            ("--nonsense",),
        ],
    )
    def test_and_what_is_wrong_is_a_usage_error_too(self, ingestctl, daemon, cu8, options):
        code, out, err = ingestctl("push", cu8, *ARGUMENTS, "--time", T0_NS, *options)
        assert (code, out, daemon.frames) == (2, "", [])
        assert "\x1b" not in err

    def test_big_endian_is_refused_by_name_with_what_is_allowed(self, ingestctl, cu8):
        _, _, err = ingestctl("push", cu8, *ARGUMENTS, "--time", T0_NS, "--datatype", "ci16_be")
        assert "'ci16_be' (allowed: cf32_le, ci16_le, ci8, cu8" in " ".join(err.split()).replace("=", " ")

    @pytest.mark.parametrize("argv", [("push",), ("push", "x.cu8", "--test-tone")])
    def test_one_file_or_a_test_tone(self, ingestctl, argv):
        code, _, err = ingestctl(*argv)
        assert code == 2
        assert "--test-tone" in err


class TestPush:
    def test_sends_the_file_and_says_where_it_is_stored(self, ingestctl, daemon, cu8):
        code, out, err = ingestctl(
            "push", cu8, *ARGUMENTS, "--time", T0_NS, "--gain-db", 30, "--bandwidth-hz", 1e4
        )
        assert (code, out) == (0, "stored as s3://heimdall-raw-iq/sessions/t/websdr_5.npy\n")
        assert err == "ingestctl: sent 1 frame, 200 B of 200 B\n"
        (one,) = daemon.frames
        assert (bytes(one.samples), one.datatype, one.timestamp_ns) == (bytes(range(200)), "cu8", T0_NS)
        assert (one.sample_rate_hz, one.frequency_hz, one.gain_db, one.bandwidth_hz) == (
            12001.1321,
            77500.0,
            30,
            1e4,
        )
        assert (one.node, one.chunk, one.clock_source) == ("ingestctl", None, None)
        assert daemon.nodes == [("tcp://127.0.0.1:5555", 5, "ingestctl", "tcp://127.0.0.1:5556")]

    def test_keeps_the_unit_that_was_given_to_the_bit(self, ingestctl, daemon, cu8):
        ingestctl(
            *("push", cu8, "--task-id", "t", "--websdr-id", 5, "--time", T0_NS),
            *("--frequency-mhz", 145.5125, "--sample-rate-khz", 12.0011321),
        )
        (one,) = daemon.frames
        assert (one.frequency_mhz, one.sample_rate_khz) == (145.5125, 12.0011321)
        assert (one.frequency_hz, one.sample_rate_hz) == (145.5125 * 1e6, 12.0011321 * 1000.0)

    def test_cuts_what_is_longer_than_the_daemon_takes(self, ingestctl, daemon, cu8):
        daemon.max_frame_bytes = 16 * 1024 + 80
        code, out, _ = ingestctl("push", cu8, *ARGUMENTS, "--time", T0_NS)
        assert code == 0
        assert out.splitlines() == [
            f"stored as s3://heimdall-raw-iq/sessions/t/websdr_5_{n:06d}.npy" for n in range(3)
        ]
        assert [one.n_samples for one in daemon.frames] == [40, 40, 20]

    def test_reads_standard_input(self, ingestctl, daemon, monkeypatch):
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(bytes(range(100)))))
        monkeypatch.setattr(sys, "stdin", stdin)
        code, out, err = ingestctl(
            "push", "-", "--datatype", "cu8", *ARGUMENTS, "--time", "now", "--chunk-samples", 20
        )
        assert (code, len(out.splitlines())) == (0, 3)
        assert b"".join(bytes(one.samples) for one in daemon.frames) == bytes(range(100))
        assert daemon.frames[0].clock_source == "host"
        assert "sent 3 frames, 100 B\n" in err

    def test_says_what_was_left_out_of_a_torn_stream(self, ingestctl, daemon, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"abc"))))
        code, _, err = ingestctl("push", "-", "--datatype", "cu8", *ARGUMENTS, "--time", T0_NS)
        assert (code, bytes(daemon.frames[0].samples)) == (0, b"ab")
        assert "1 bytes at the end" in err

    def test_of_nothing_on_standard_input_is_a_usage_error(self, ingestctl, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO())))
        code, _, err = ingestctl("push", "-", "--datatype", "cu8", *ARGUMENTS, "--time", T0_NS)
        assert (code, "holds no samples" in err) == (2, True)

    def test_takes_everything_out_of_sigmf(self, ingestctl, daemon, tmp_path):
        samples = (np.arange(8, dtype="<f4")).tobytes()
        (tmp_path / "r.cf32").write_bytes(samples)
        meta = tmp_path / "r.sigmf-meta"
        capture = {
            "core:sample_start": 0,
            "core:frequency": 77500.0,
            "core:datetime": "2017-11-27T10:41:56.123456789Z",
        }
        about = {"core:datatype": "cf32_le", "core:sample_rate": 12001.145, "core:dataset": "r.cf32"}
        meta.write_text(json.dumps({"global": about, "captures": [capture]}))
        code, _, _ = ingestctl("push", meta, "--task-id", "t", "--websdr-id", 1)
        (one,) = daemon.frames
        assert (code, bytes(one.samples), one.timestamp_ns) == (0, samples, T0_NS)
        assert (one.sample_rate_hz, one.frequency_hz) == (12001.145, 77500.0)

    def test_sends_an_entry_of_the_spool_again(self, ingestctl, daemon, tmp_path):
        entry = tmp_path / "00000000000000000001-00000001-00000000.v1"
        sent = Measurement(
            "t",
            5,
            b"abcd",
            "cu8",
            T0_NS,
            1e6,
            1.0,
            1e3,
            1.0,
            {"snr_db": 3.0},
            node="kiwi",
            epoch=1,
            seq=2,
            chunk=4,
        )
        entry.write_bytes(frame.encode(sent))
        code, _, _ = ingestctl("push", entry)
        (one,) = daemon.frames
        assert (code, one.metrics, one.node, one.identity) == (0, {"snr_db": 3.0}, "kiwi", ("t", 5, 4))

    def test_of_an_entry_takes_no_description(self, ingestctl, daemon, tmp_path):
        (tmp_path / "x.v1").write_bytes(b"\xc1")
        assert ingestctl("push", tmp_path / "x.v1")[0] == 2
        assert ingestctl("push", tmp_path / "x.v1", "--gain-db", 3)[0] == 2

    def test_prints_json(self, ingestctl, cu8):
        code, out, _ = ingestctl("--json", "push", cu8, *ARGUMENTS, "--time", T0_NS, "--chunk-samples", 60)
        rows = json.loads(out)["measurements"]
        assert code == 0
        assert [(row["chunk"], row["state"], row["samples_count"]) for row in rows] == [
            (0, "stored", 60),
            (1, "stored", 40),
        ]
        assert rows[0]["timestamp_ns"] == T0_NS

    def test_without_waiting_asks_nobody(self, ingestctl, daemon, cu8):
        daemon.answers_queries = False
        code, out, _ = ingestctl("push", cu8, *ARGUMENTS, "--time", T0_NS, "--no-wait")
        assert (code, out) == (0, "sent t receiver 5: not confirmed, not stored yet\n")
        assert (daemon.asked, daemon.nodes[0][3]) == ([], None)

    def test_says_who_does_not_answer_before_anything_is_sent(self, ingestctl, daemon, cu8):
        daemon.answers_queries = False
        code, out, err = ingestctl("--endpoint", "tcp://h:1", "push", cu8, *ARGUMENTS, "--time", T0_NS)
        assert (code, out, daemon.frames) == (69, "", [])
        assert err.startswith("ingestctl: no answer from tcp://h:1")

    def test_that_nobody_confirms_is_69(self, ingestctl, daemon, cu8):
        daemon.takes_frames = False
        code, _, err = ingestctl("push", cu8, *ARGUMENTS, "--time", T0_NS, "--ingest", "tcp://h:2")
        assert code == 69
        assert "ingestctl: 1 frames are not confirmed\n" in err
        assert daemon.nodes[0][0] == "tcp://h:2"

    def test_waits_until_it_is_stored(self, ingestctl, daemon, cu8):
        daemon.looks_until_stored = 2
        code, out, _ = ingestctl("push", cu8, *ARGUMENTS, "--time", T0_NS)
        assert (code, out) == (0, "stored as s3://heimdall-raw-iq/sessions/t/websdr_5.npy\n")

    def test_that_is_not_stored_in_time_is_temporary(self, ingestctl, daemon, cu8):
        daemon.state = "accepted"
        code, out, err = ingestctl("--timeout", 0.2, "push", cu8, *ARGUMENTS, "--time", T0_NS)
        assert (code, out) == (75, "")
        assert "t receiver 5: accepted, not stored yet" in err

    def test_that_failed_is_a_failure(self, ingestctl, daemon, cu8):
        daemon.state = "failed"
        code, out, err = ingestctl("push", cu8, *ARGUMENTS, "--time", T0_NS)
        assert (code, out) == (1, "")
        assert "t receiver 5: failed" in err

    def test_of_other_content_says_where_the_copy_is(self, ingestctl, daemon, cu8):
        ingestctl("push", cu8, *ARGUMENTS, "--time", T0_NS)
        code, out, err = ingestctl("push", cu8, *ARGUMENTS, "--time", T0_NS + 1)
        (copy,) = daemon.rows["t", 5, None, None]["copies"]
        assert (code, out) == (0, f"stored as s3://heimdall-raw-iq/sessions/t/websdr_5.{copy}.npy\n")
        assert "both are kept" in err

    def test_twice_of_the_same_is_stored_once(self, ingestctl, daemon, cu8):
        outputs = [ingestctl("push", cu8, *ARGUMENTS, "--time", T0_NS)[:2] for _ in range(2)]
        assert outputs[0] == outputs[1]
        assert len(daemon.rows) == 1


class TestTestTone:
    def test_needs_nothing_and_ends_in_stored_as(self, ingestctl, daemon):
        code, out, _ = ingestctl("push", "--test-tone")
        (one,) = daemon.frames
        assert code == 0
        assert out == f"stored as s3://heimdall-raw-iq/sessions/{one.task_id}/websdr_0.npy\n"
        assert (one.n_samples, one.clock_source) == (12_000, "host")

    def test_or_in_no_answer(self, ingestctl, daemon):
        daemon.answers_queries = False
        code, out, err = ingestctl("push", "--test-tone")
        assert (code, out) == (69, "")
        assert "no answer from tcp://127.0.0.1:5556" in err

    def test_is_one_line_in_the_spectrum(self):
        recording, described = planning.test_tone(Description(), T0_NS)
        (one,) = measurements(recording, described, now_ns=lambda: T0_NS)
        power = np.abs(np.fft.fft(np.frombuffer(one.samples, "<c8"))) ** 2
        assert int(np.argmax(power)) == 1_000
        assert power[1_000] / power.sum() > 0.999999
        assert one.task_id == "test-tone-20171127T104156.123456789Z"

    def test_is_described_by_the_options_that_are_given(self, ingestctl, daemon):
        ingestctl(
            "push", "--test-tone", "--task-id", "x", "--websdr-id", 9, "--frequency-mhz", 7, "--time", T0_NS
        )
        (one,) = daemon.frames
        assert (one.task_id, one.websdr_id, one.frequency_mhz, one.timestamp_ns) == ("x", 9, 7.0, T0_NS)


class TestSettle:
    SENT = Sent.of(Measurement("t", 5, b"abcd", "cu8", T0_NS, 1e6, 1.0, 1e3, 1.0))

    def test_ends_at_the_deadline(self, daemon):
        now = [0.0]
        pauses = []

        def pause(s):
            pauses.append(s)
            now[0] += s

        (outcome,) = settle([self.SENT], daemon, 10.0, lambda: now[0], pause)
        assert outcome.state == "sent"
        assert 10.0 <= now[0] <= 11.0
        assert max(pauses) == 1.0

    def test_finds_what_the_store_refused_for_a_conflict(self, daemon):
        daemon.accept(Measurement("t", 5, b"other!", "cu8", T0_NS, 1e6, 1.0, 1e3, 1.0))
        daemon.failed = [
            {"task_id": "t", "websdr_id": 5, "chunk": None, "timestamp_ns": T0_NS, "frequency_hz": 1e6}
            | {"sample_rate_hz": 1e3, "crc32c": None, "error": "conflict", "state": "failed"}
        ]
        (outcome,) = settle([self.SENT], daemon, 0.0)
        assert (outcome.state, outcome.error) == ("failed", "conflict")


def test_a_recording_on_disk_goes_through_unchanged(tmp_path):
    samples = np.random.default_rng(3).normal(size=2000).astype("<f4").view("<c8")
    np.save(tmp_path / "x.npy", samples)
    with open_recording(str(tmp_path / "x.npy"), None) as recording:
        (one,) = measurements(recording)
    assert one.samples == samples.tobytes()
