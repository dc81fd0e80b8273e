"""Quality figures: reference values on real recordings, synthetic signals with known figures, every null rule."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestd.formats import quality, spectrum
from ingestd.formats.measurement import DATATYPES, Measurement
from ingestd.formats.npy import to_complex64
from ingestd.formats.quality import Calibration, Figures, Receiver, measure
from ingestd.formats.spectrum import MIN_SAMPLES, Spectrum, estimate, find_passband, quantisation_step

RATE_HZ = 2e6
N = 125_000
BIN_HZ = RATE_HZ / 4096

TEMPORAL = ("power_dbfs", "peak_dbfs", "dc_offset_dbfs", "clipped_fraction", "power_dbm")
SPECTRAL = (
    "noise_dbfs_hz",
    "bandwidth_hz",
    "bandwidth_source",
    "snr_db",
    "burst_snr_db",
    "frequency_offset_hz",
)


class Reference(NamedTuple):
    bandwidth_hz: float
    source: str
    noise_dbfs_hz: float
    snr_db: float
    burst_snr_db: float
    offset_hz: float | None
    power_dbfs: float
    peak_dbfs: float


#: Whole recordings; the last two columns are those of the recordings' own README.
REFERENCES = {
    "dcf77_20171127T104156Z_DF0KL": Reference(
        6000.57, "detected", -83.26, 12.26, 16.32, 0.01, -32.97, -17.02
    ),
    "dcf77_20171127T104156Z_F1JEK": Reference(6000.60, "detected", -70.29, 18.87, 25.13, 0.01, -13.58, 1.68),
    "dcf77_20171127T104156Z_HB9RYZ": Reference(
        6000.57, "detected", -83.75, 31.34, 32.34, 0.01, -14.63, -11.70
    ),
    "dcf77_20200813T065220Z_HB9ODP": Reference(
        1125.10, "detected", -53.37, 12.95, 14.58, -0.03, -9.69, -7.52
    ),
    "dcf77_20200813T065220Z_JO51xl": Reference(1125.10, "detected", -52.97, 12.65, 14.12, 0.01, -9.58, -7.35),
    "dcf77_20200813T065220Z_pa0rdt": Reference(
        1125.10, "detected", -51.18, 12.47, 14.10, -0.01, -7.96, -5.34
    ),
    "adsb_modes1": Reference(2.0e6, "full", -82.42, 3.67, 16.25, None, -14.19, 3.01),
    "adsb_test_1641427457780": Reference(2.4e6, "full", -89.37, -0.98, 22.46, None, -23.02, 1.51),
    "wmbus_868_625_S1": Reference(2.4e6, "full", -88.10, 11.53, 19.92, None, -12.47, 0.38),
    "wmbus_868_95_T1": Reference(1.6e6, "full", -82.11, 6.27, 21.97, None, -12.88, 3.01),
}


@pytest.fixture(scope="module")
def recordings() -> Path:
    """Directory of the off-air recordings; they are not shipped, so at home the tests go without them."""
    directory = Path(__file__).resolve().parents[4] / "shared" / "iq"
    if not directory.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"the off-air recordings are missing: {directory}")
        pytest.skip(f"the off-air recordings are missing: {directory}")
    return directory


def measurement_of(samples: np.ndarray, **fields) -> Measurement:
    return Measurement(
        "t",
        1,
        samples.astype("<c8").tobytes(),
        **({"sample_rate_hz": RATE_HZ, "frequency_hz": 100e6} | fields),
    )


def figures_of(
    samples: np.ndarray, receiver: Receiver | None = None, *, spectral: bool = True, **fields
) -> Figures:
    measurement = measurement_of(samples, **fields)
    return measure(measurement, np.frombuffer(measurement.samples, "<c8"), receiver, spectral=spectral)


def figures_of_codes(codes: np.ndarray, datatype: str, **fields) -> Figures:
    measurement = Measurement("t", 1, codes.tobytes(), datatype, sample_rate_hz=RATE_HZ, **fields)
    return measure(measurement, to_complex64(measurement.samples, datatype), None, spectral=True)


def noise(n: int = N, power_db: float = -40.0, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    amplitude = 10 ** (power_db / 20) / math.sqrt(2)
    return amplitude * (rng.standard_normal(n) + 1j * rng.standard_normal(n))


def tone(offset_bins: float = 100.3, power_db: float = 0.0, n: int = N) -> np.ndarray:
    return 10 ** (power_db / 20) * np.exp(2j * np.pi * offset_bins / 4096 * np.arange(n))


def narrow_noise(share: float, power_db: float, n: int = 4096 * 30) -> np.ndarray:
    """Noise that fills the centred `share` of the band evenly and nothing beside it."""
    spectrum = np.fft.fft(noise(n, 0.0, seed=7))
    spectrum[np.abs(np.fft.fftfreq(n)) > share / 2] = 0
    signal = np.fft.ifft(spectrum)
    return signal * (10 ** (power_db / 20) / math.sqrt(np.mean(np.abs(signal) ** 2)))


def rounded_to(samples: np.ndarray, step: float) -> np.ndarray:
    return (np.rint(samples.view("f8") / step) * step).view("c16")


class TestRecordings:
    """Real signals give the reference values."""

    @pytest.mark.recordings
    @pytest.mark.parametrize("name", REFERENCES)
    def test_whole_recording_gives_the_reference_values(self, recordings, name):
        expected = REFERENCES[name]
        meta = json.loads((recordings / f"{name}.sigmf-meta").read_text(encoding="utf-8"))
        samples = np.fromfile(recordings / f"{name}.cf32", "<c8")
        figures = figures_of(samples, sample_rate_hz=meta["global"]["core:sample_rate"])

        assert figures.bandwidth_source == expected.source
        assert figures.bandwidth_hz == pytest.approx(expected.bandwidth_hz, abs=0.011)
        assert figures.noise_dbfs_hz == pytest.approx(expected.noise_dbfs_hz, abs=0.05)
        assert figures.snr_db == pytest.approx(expected.snr_db, abs=0.05)
        assert figures.burst_snr_db == pytest.approx(expected.burst_snr_db, abs=0.05)
        assert figures.power_dbfs == pytest.approx(expected.power_dbfs, abs=0.011)
        assert figures.peak_dbfs == pytest.approx(expected.peak_dbfs, abs=0.011)
        if expected.offset_hz is None:
            assert figures.frequency_offset_hz is None
        else:
            assert figures.frequency_offset_hz == pytest.approx(expected.offset_hz, abs=0.011)


def plain(z: np.ndarray, fs: float, q: float, width_hz: float | None) -> dict[str, float | None]:
    """The definition once more, letter by letter, in double precision and without a thought of speed."""
    n, L = len(z), 4096
    while n < 7 * L:
        L //= 2
    M = min(n // L, 63)
    M -= M % 2 == 0
    w = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(L) / L)
    starts = [i * (n - L) // (M - 1) for i in range(M)]
    G = [np.abs(np.fft.fftshift(np.fft.fft(z[s : s + L] * w))) ** 2 / (fs * np.sum(w**2)) for s in starts]
    A, S = np.mean(G, axis=0), np.median(G, axis=0) / np.log(2)
    B = np.median(S.reshape(64, L // 64), axis=1)
    F, Q = np.sort(B)[6], q**2 / (6 * fs)
    inside = np.ones(L, bool)
    if width_hz is not None:
        inside = np.abs(np.arange(L) - L // 2) * fs / L <= width_hz / 2
    elif q > 0 and F <= 4 * Q and B.max() >= 100 * F:
        low = high = B.argmax()
        while low > 0 and B[low - 1] > np.sqrt(F * B.max()):
            low -= 1
        while high < 63 and B[high + 1] > np.sqrt(F * B.max()):
            high += 1
        inside = (np.arange(L) // (L // 64) >= low) & (np.arange(L) // (L // 64) <= high)
    W, N0 = inside.sum() * fs / L, np.median(S[inside])
    share, blocks = A[inside].sum() / A.sum(), np.abs(z[: n // 64 * 64].reshape(-1, 64)) ** 2
    N, Pin, Pburst = N0 * W, np.mean(np.abs(z) ** 2) * share, blocks.mean(axis=1).max() * share
    k = int(np.where(inside, A, -1).argmax())
    five, (a, b, c) = A[np.arange(k - 2, k + 3) % L], np.log(A[np.arange(k - 1, k + 2) % L])
    offset = None
    if A[k] >= 4 * N0 and (five.sum() - 5 * N0) * fs / L >= (Pin - N) / 2:
        offset = (k - L // 2 + np.clip((a - c) / (a - 2 * b + c) / 2, -0.5, 0.5)) * fs / L
    return {
        "bandwidth_hz": W,
        "noise_dbfs_hz": 10 * np.log10(N0),
        "snr_db": 10 * np.log10(Pin / N - 1) if Pin > 1.05 * N else None,
        "burst_snr_db": 10 * np.log10(Pburst / N - 1) if Pburst > 1.05 * N else None,
        "frequency_offset_hz": offset,
    }


class TestPlainDefinition:
    """The quick way in single precision gives what the definition gives in double precision."""

    @pytest.mark.recordings
    @pytest.mark.parametrize("width_share", [None, 0.3])
    @pytest.mark.parametrize("n", [448, 1000, 8191, 28_671, 65_537, 100_000])
    @pytest.mark.parametrize("name", REFERENCES)
    def test_every_length_of_every_recording_agrees(self, recordings, name, n, width_share):
        samples = np.fromfile(recordings / f"{name}.cf32", "<c8", n)
        width_hz = None if width_share is None else width_share * RATE_HZ
        figures = figures_of(samples, bandwidth_hz=width_hz)
        expected = plain(samples.astype("c16"), RATE_HZ, quantisation_step(samples, "cf32_le"), width_hz)
        tolerance = {"bandwidth_hz": 0.011, "frequency_offset_hz": 1e-3 * RATE_HZ / 64}
        for figure, value in expected.items():
            read = getattr(figures, figure)
            if value is None:
                assert read is None, figure
            else:
                assert read == pytest.approx(value, abs=tolerance.get(figure, 0.011)), figure


class TestToneInWhiteNoise:
    """A carrier in white noise reads what it is."""

    @pytest.mark.parametrize("snr_db", range(0, 61, 5))
    def test_snr_is_true_within_0_15_db(self, snr_db):
        figures = figures_of(noise() + tone(power_db=snr_db - 40.0))
        assert figures.snr_db == pytest.approx(snr_db, abs=0.15)
        assert figures.bandwidth_hz == RATE_HZ
        assert figures.bandwidth_source == "full"

    @pytest.mark.parametrize("snr_db", [-10, -5, 0, 20, 60])
    @pytest.mark.parametrize("offset_bins", [-2048.0, -2000.5, -7.1, 0.0, 0.25, 0.5, 900.77, 2047.0])
    def test_offset_is_true_within_0_03_bin(self, snr_db, offset_bins):
        figures = figures_of(noise(power_db=-70.0) + tone(offset_bins, snr_db - 70.0))
        assert figures.frequency_offset_hz == pytest.approx(offset_bins * BIN_HZ, abs=0.03 * BIN_HZ)

    @pytest.mark.parametrize("n", [N, 28_672, 5_000, 448])
    @pytest.mark.parametrize("seed", range(5))
    def test_noise_alone_has_neither_snr_nor_offset(self, n, seed):
        figures = figures_of(noise(n, seed=seed))
        assert figures.frequency_offset_hz is None
        if n >= 28_672:
            assert figures.snr_db is None

    def test_noise_density_is_noise_power_per_hertz(self):
        figures = figures_of(noise(power_db=-40.0))
        assert figures.noise_dbfs_hz == pytest.approx(-40.0 - 10 * math.log10(RATE_HZ), abs=0.05)

    @pytest.mark.parametrize("scale", [2.0**-100, 2.0**-40, 2.0**40, 2.0**100])
    def test_scale_moves_levels_and_leaves_ratios(self, scale):
        samples = (noise() + tone(power_db=-20.0)).astype("c8")
        figures = figures_of(samples)
        scaled = figures_of((samples.astype("c16") * scale).astype("c8"))
        moved = 20 * math.log10(scale)
        for name in ("power_dbfs", "peak_dbfs", "dc_offset_dbfs", "noise_dbfs_hz"):
            assert getattr(scaled, name) == pytest.approx(getattr(figures, name) + moved, abs=0.011), name
        for name in ("snr_db", "burst_snr_db", "frequency_offset_hz", "bandwidth_hz"):
            assert getattr(scaled, name) == pytest.approx(getattr(figures, name), abs=0.011), name

    def test_buffer_longer_than_63_segments_is_covered_to_its_end(self):
        # 100 segments' worth; the tone is only in the last tenth, so 7 of 63 segments hold it.
        samples = noise(409_600)
        samples[-40_960:] += tone(power_db=-20.0, n=40_960)
        assert estimate(samples.astype("c8")).mean.sum() == pytest.approx(
            np.mean(np.abs(samples) ** 2), rel=0.1
        )

    # Evenly spaced segments (125,000 samples, seven segments without a rest, 63 that overlap) go another way.
    @pytest.mark.parametrize("n", [125_000, 7 * 4096, 4096 * 63 + 62 * 5, 131_072, 448, 28_700])
    def test_a_whole_array_and_slices_of_it_have_the_same_spectrum_to_the_bit(self, n):
        class Slices:
            def __len__(self):
                return n

            def __getitem__(self, part):
                return samples[part].copy()

        samples = noise(n).astype("c8")
        whole, sliced = estimate(samples), estimate(Slices())
        assert (whole.mean == sliced.mean).all()
        assert (whole.floor == sliced.floor).all()


class TestPrecision:
    """Spectra are computed in single precision as long as that moves nothing."""

    @staticmethod
    def precisions(monkeypatch, samples: np.ndarray) -> tuple[Figures, list[type]]:
        used = []

        def noted(samples, precision):
            used.append(precision)
            return estimate(samples, precision)

        monkeypatch.setattr(quality, "estimate", noted)
        return figures_of(samples), used

    def test_single_precision_is_enough_for_55_db(self, monkeypatch):
        figures, used = self.precisions(monkeypatch, noise(power_db=-55.0) + tone())
        assert used == [np.float32]
        assert figures.snr_db == pytest.approx(55.0, abs=0.15)

    def test_noise_65_db_down_is_looked_for_in_double_precision(self, monkeypatch):
        figures, used = self.precisions(monkeypatch, noise(power_db=-65.0) + tone())
        assert used == [np.float32, np.float64]
        assert figures.snr_db == pytest.approx(65.0, abs=0.15)

    def test_transforms_out_of_place_as_before_numpy_2_give_the_same(self, monkeypatch):
        samples = noise() + tone(power_db=-20.0)
        in_place = figures_of(samples)
        monkeypatch.setattr(spectrum, "_TRANSFORMS_IN_PLACE", False)
        assert figures_of(samples) == in_place

    def test_silence_between_bursts_is_no_reason_to_go_on(self, monkeypatch):
        samples = np.zeros(N)
        samples[:100] = 0.5
        figures, used = self.precisions(monkeypatch, samples)
        assert used == [np.float32, np.float64]
        assert figures.noise_dbfs_hz is None

    @pytest.mark.parametrize("seed", range(20))
    @pytest.mark.parametrize("n", [448, 8191, N])
    def test_noise_density_far_below_a_carrier_agrees_with_the_definition(self, n, seed):
        samples = (noise(n, -100.0, seed) + tone(37.3 * seed, 0.0, n)).astype("c8")
        expected = plain(samples.astype("c16"), RATE_HZ, 0.0, None)["noise_dbfs_hz"]
        assert figures_of(samples).noise_dbfs_hz == pytest.approx(expected, abs=0.011)


class TestBursts:
    """What is not there all the time reads higher in burst_snr_db, and has no frequency offset."""

    def test_burst_reads_its_own_snr_in_burst_snr(self):
        samples = noise()
        samples[64_000:65_280] += narrow_noise(0.2, -20.0, 1280)
        figures = figures_of(samples)
        assert figures.snr_db < 1.0
        # The strongest of 20 aligned blocks of a signal that is noise itself: at and above the mean.
        assert 19.0 < figures.burst_snr_db < 25.0
        assert figures.frequency_offset_hz is None

    def test_burst_in_one_aligned_block_is_read_fully(self):
        samples = noise()
        samples[64 * 1000 : 64 * 1001] += tone(power_db=0.0, n=64)
        assert figures_of(samples).burst_snr_db == pytest.approx(40.0, abs=0.3)

    def test_fsk_has_no_frequency_offset(self):
        bits = np.repeat(np.random.default_rng(3).integers(0, 2, N // 50) * 2 - 1, 50)
        fsk = 0.1 * np.exp(1j * np.cumsum(bits * 2 * np.pi * 0.05))
        figures = figures_of(noise(len(fsk)) + fsk)
        assert figures.snr_db > 15
        assert figures.frequency_offset_hz is None

    def test_signal_over_a_tenth_of_the_band_reads_0_2_db_low(self):
        figures = figures_of(noise(4096 * 30, -40.0) + narrow_noise(0.1, -20.0))
        assert figures.snr_db == pytest.approx(20.0 - 0.2, abs=0.2)

    def test_signal_over_a_quarter_of_the_band_reads_up_to_1_db_low(self):
        figures = figures_of(noise(4096 * 30, -40.0) + narrow_noise(0.25, -20.0))
        assert 18.9 < figures.snr_db < 20.0


class TestLevels:
    """Time-domain figures on signals that can be worked out by hand."""

    def test_tone_of_magnitude_one_is_0_dbfs(self):
        figures = figures_of(tone())
        assert figures.power_dbfs == 0.0
        assert figures.peak_dbfs == 0.0

    def test_corner_of_the_square_reaches_3_01_dbfs(self):
        assert figures_of(np.full(10, 1 + 1j)).peak_dbfs == 3.01

    def test_constant_is_its_own_dc_offset(self):
        assert figures_of(np.full(1000, 0.06 + 0.08j)).dc_offset_dbfs == -20.0

    def test_mean_of_exactly_zero_has_no_dc_offset(self):
        figures = figures_of(np.tile([0.5, -0.5], 500))
        assert figures.dc_offset_dbfs is None
        assert figures.power_dbfs == -6.02

    @pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 447, 32_768, 32_769, 70_001])
    def test_power_peak_and_mean_agree_with_the_definition_at_every_length(self, n):
        samples = noise(n, seed=n).astype("c8")
        exact = samples.astype("c16")
        figures = figures_of(samples)
        assert figures.power_dbfs == pytest.approx(10 * np.log10(np.mean(np.abs(exact) ** 2)), abs=0.0051)
        assert figures.peak_dbfs == pytest.approx(20 * np.log10(np.abs(exact).max()), abs=0.0051)
        assert figures.dc_offset_dbfs == pytest.approx(20 * np.log10(np.abs(exact.mean())), abs=0.0051)

    def test_figures_are_rounded_to_a_hundredth_without_minus_zero(self):
        figures = figures_of(np.full(500, 1.0 - 2.0**-20))
        assert str(figures.power_dbfs) == "0.0"
        figures = figures_of(noise() + tone(power_db=-20.0))
        for name in (*TEMPORAL[:3], "noise_dbfs_hz", "snr_db", "burst_snr_db", "frequency_offset_hz"):
            assert getattr(figures, name) == round(getattr(figures, name), 2), name


class TestClipping:
    """Clipping is counted on the source integers, once for a sample with one or both on a rail."""

    @pytest.mark.parametrize(
        ("datatype", "codes", "clipped"),
        [
            ("cu8", [[0, 128], [255, 128], [1, 254], [128, 0], [255, 0]], 4),
            ("cu8", [[0, 128], [1, 254]], 1),
            ("cu8", [[128, 255], [1, 254]], 1),
            ("cu8", [[1, 254], [128, 127]], 0),
            ("ci8", [[-128, 0], [-127, 0], [127, 0], [0, -127], [-126, 126], [126, -126]], 4),
            ("ci8", [[-126, 126]], 0),
            ("ci16_le", [[-32768, 0], [-32767, 1], [0, 32767], [32766, -32766], [0, 0]], 3),
            ("ci16_le", [[32766, -32766]], 0),
        ],
    )
    def test_integer_codes_on_a_rail_are_clipped(self, datatype, codes, clipped):
        kind = {"cu8": "u1", "ci8": "i1", "ci16_le": "<i2"}[datatype]
        figures = figures_of_codes(np.array(codes, kind), datatype)
        assert figures.clipped_fraction == clipped / len(codes)

    @pytest.mark.parametrize(
        ("samples", "clipped"),
        [([0.995 + 0j, 0.5], 1), ([0.99, 0.99j], 0), ([-1, 1j, 0.1], 2), ([-2 - 2j], 1), ([-0.996j, 0.0], 1)],
    )
    def test_float_components_from_0_995_are_clipped(self, samples, clipped):
        assert figures_of(np.array(samples)).clipped_fraction == clipped / len(samples)

    def test_float_copy_of_an_8_bit_extreme_counts_like_the_integers(self):
        codes = np.random.default_rng(5).integers(0, 256, (4000, 2)).astype("u1")
        assert (
            figures_of(to_complex64(codes.tobytes(), "cu8")).clipped_fraction
            == figures_of_codes(codes, "cu8").clipped_fraction
        )


class TestCalibration:
    """power_dbm is power_dbfs plus the offset of the first entry that applies."""

    RECEIVER = Receiver(
        (
            Calibration(1e6, 30e6, -10.0),
            Calibration(30e6, 200e6, -40.0, gain_db=20.0),
            Calibration(30e6, 200e6, -60.0, gain_db=40.2),
            Calibration(100e6, 200e6, -70.0),
        ),
        None,
    )

    @pytest.mark.parametrize(
        ("frequency_hz", "gain_db", "power_dbm"),
        [
            (1e6, None, -10.0),
            (29_999_999.9, 20.0, -10.0),
            (30e6, 20.0, -40.0),
            (30e6, 20, -40.0),
            (30e6, 40.2, -60.0),
            (30e6, None, None),
            (30e6, 21.0, None),
            (150e6, None, -70.0),
            (150e6, 20.0, -40.0),
            (200e6, None, None),
            (0.9e6, None, None),
            (None, None, None),
        ],
    )
    def test_entry_is_picked_by_frequency_and_gain(self, frequency_hz, gain_db, power_dbm):
        figures = figures_of(tone(n=500), self.RECEIVER, frequency_hz=frequency_hz, gain_db=gain_db)
        assert figures.power_dbm == power_dbm

    def test_unregistered_receiver_has_no_power_dbm(self):
        assert figures_of(tone(n=500)).power_dbm is None


class TestStep:
    """The converter's step is that of the integer datatype, or found in the samples."""

    @pytest.mark.parametrize(
        ("datatype", "step"), [("ci16_le", 1 / 32768), ("ci8", 1 / 128), ("cu8", 1 / 127.5)]
    )
    def test_integer_datatype_tells_its_step(self, datatype, step):
        assert quantisation_step(noise(10).astype("c8"), datatype) == step

    @pytest.mark.parametrize(
        ("datatype", "step"), [("ci16_le", 1 / 32768), ("ci8", 1 / 128), ("cu8", 1 / 127.5)]
    )
    def test_float_copy_of_integers_tells_the_same_step(self, datatype, step):
        codes = np.random.default_rng(6).integers(0, 256, 2 * 5000 * DATATYPES[datatype].sample_bytes // 2)
        assert quantisation_step(to_complex64(codes.astype("u1").tobytes(), datatype), "cf32_le") == step

    @pytest.mark.parametrize(
        "convert",
        [
            lambda codes: (codes - np.float32(127.5)) * np.float32(1 / 127.5),
            lambda codes: codes / np.float32(127.5) - np.float32(1.0),
        ],
    )
    def test_sloppy_float32_conversion_of_cu8_is_still_recognised(self, convert):
        codes = np.random.default_rng(6).integers(0, 256, 10_000).astype("f4")
        assert quantisation_step(convert(codes).astype("f4").view("c8"), "cf32_le") == 1 / 127.5

    def test_samples_on_no_lattice_have_no_step(self):
        assert quantisation_step(noise(5000).astype("c8"), "cf32_le") == 0.0

    def test_only_the_first_4096_samples_are_looked_at(self):
        samples = rounded_to(noise(5000, -20.0), 1 / 128).astype("c8")
        samples[4096:] += np.float32(1e-5)
        assert quantisation_step(samples, "cf32_le") == 1 / 128
        samples[4095] += np.float32(1e-5)
        assert quantisation_step(samples, "cf32_le") == 0.0


@pytest.fixture(scope="module")
def filtered() -> np.ndarray:
    """Channel filter over half the band, its noise far above the rounding noise of 16 bits, and a carrier in it."""
    return rounded_to(narrow_noise(0.5, -20.0) + tone(20.0, -10.0, 4096 * 30), 1 / 32768)


class TestPassband:
    """The frame's width comes first, then a detected one, then the registry's, then the full band."""

    REGISTERED = Receiver((), 500e3)

    def test_width_of_the_frame_beats_everything(self, filtered):
        figures = figures_of(filtered, self.REGISTERED, bandwidth_hz=100e3)
        assert figures.bandwidth_source == "frame"
        assert figures.bandwidth_hz == pytest.approx(100e3, abs=BIN_HZ)

    def test_filter_in_quantised_samples_is_detected(self, filtered):
        figures = figures_of(filtered, self.REGISTERED)
        assert figures.bandwidth_source == "detected"
        assert figures.bandwidth_hz == pytest.approx(1e6, rel=0.04)
        assert figures.snr_db == pytest.approx(10.0, abs=0.15)

    def test_without_a_step_nothing_is_detected(self, filtered):
        figures = figures_of(filtered * 0.9, self.REGISTERED)
        assert figures.bandwidth_source == "registry"
        assert figures.bandwidth_hz == pytest.approx(500e3, abs=BIN_HZ)

    def test_without_any_width_the_full_band_counts(self, filtered):
        figures = figures_of(filtered * 0.9)
        assert (figures.bandwidth_source, figures.bandwidth_hz) == ("full", RATE_HZ)

    def test_floor_of_the_air_above_the_rounding_noise_is_not_taken_for_a_filter(self):
        samples = rounded_to(narrow_noise(0.5, -20.0) + noise(4096 * 30, -60.0), 1 / 32768)
        assert figures_of(samples).bandwidth_source == "full"

    def test_huge_floats_are_whole_numbers_but_not_the_steps_of_a_converter(self):
        assert figures_of(narrow_noise(0.5, -20.0) * 2.0**60).bandwidth_source == "full"

    def test_signal_less_than_20_db_over_rounding_noise_is_not_taken_for_a_filter(self):
        step = 1 / 128
        rounding_db = 10 * math.log10(step**2 / 6)
        assert figures_of(rounded_to(narrow_noise(0.5, rounding_db + 14.0), step)).bandwidth_source == "full"
        assert (
            figures_of(rounded_to(narrow_noise(0.5, rounding_db + 20.0), step)).bandwidth_source == "detected"
        )

    def test_noise_outside_the_passband_does_not_count(self):
        # Half the noise power and all of the second, stronger carrier are outside.
        samples = noise() + tone(100.3, -20.0) + tone(1500.0, -10.0)
        figures = figures_of(samples, bandwidth_hz=RATE_HZ / 2)
        assert figures.snr_db == pytest.approx(20.0 + 3.01, abs=0.15)
        assert figures.frequency_offset_hz == pytest.approx(100.3 * BIN_HZ, abs=0.03 * BIN_HZ)

    @pytest.mark.parametrize(
        ("bandwidth_hz", "n_bins"),
        [(1e-300, 1), (BIN_HZ, 1), (2 * BIN_HZ, 3), (RATE_HZ, 4096), (2 * RATE_HZ, 4096), (1e10, 4096)],
    )
    def test_centred_width_is_whole_bins_up_to_the_full_band(self, bandwidth_hz, n_bins):
        figures = figures_of(noise(), bandwidth_hz=bandwidth_hz)
        assert figures.bandwidth_hz == round(n_bins * BIN_HZ, 2)
        assert figures.bandwidth_source == "frame"


class TestDetection:
    """Limits of the detected passband, on spectra made by hand: 64 sub-bands of one bin, levels in rounding noise."""

    @staticmethod
    def detected(levels: list[float]) -> tuple[int, int] | None:
        rounding = (1 / 128) ** 2 / 6 / 64
        floor = np.array(levels) * rounding
        passband = find_passband(Spectrum(floor, floor), 1 / 128, RATE_HZ, None, None)
        return None if passband.source == "full" else (passband.first, passband.stop)

    @pytest.mark.parametrize(("n_low", "expected"), [(6, None), (7, (7, 64))])
    def test_floor_is_the_seventh_smallest_sub_band(self, n_low, expected):
        assert self.detected([1.0] * n_low + [1000.0] * (64 - n_low)) == expected

    @pytest.mark.parametrize(("floor", "expected"), [(3.99, (20, 40)), (4.01, None)])
    def test_floor_is_at_most_four_times_the_rounding_noise(self, floor, expected):
        assert self.detected([floor] * 20 + [1e4] * 20 + [floor] * 24) == expected

    @pytest.mark.parametrize(("level", "expected"), [(99.0, None), (101.0, (20, 40))])
    def test_passband_rises_a_hundredfold(self, level, expected):
        assert self.detected([1.0] * 20 + [level] * 20 + [1.0] * 24) == expected

    @pytest.mark.parametrize(("edge", "expected"), [(99.0, (20, 40)), (101.0, (19, 41))])
    def test_edge_lies_at_the_geometric_mean(self, edge, expected):
        assert self.detected([1.0] * 19 + [edge] + [1e4] * 20 + [edge] + [1.0] * 23) == expected

    def test_only_what_touches_the_strongest_sub_band_is_inside(self):
        assert self.detected([1.0] * 10 + [5e3] * 5 + [1.0] * 10 + [1e4] * 5 + [1.0] * 34) == (25, 30)

    @pytest.mark.parametrize(
        ("levels", "expected"), [([1e4] + [1.0] * 63, (0, 1)), ([1.0] * 63 + [1e4], (63, 64))]
    )
    def test_passband_may_end_at_the_edge_of_the_band(self, levels, expected):
        assert self.detected(levels) == expected

    def test_exact_zeros_have_no_passband(self):
        assert self.detected([0.0] * 64) is None


class TestUndefined:
    """What is undefined is None, and nothing raises or warns."""

    def test_silence_has_no_level(self):
        figures = figures_of(np.zeros(N))
        assert figures == Figures(nonfinite_count=0, clipped_fraction=0.0)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1j * np.inf, complex(np.nan, np.inf)])
    def test_one_nonfinite_sample_leaves_only_its_count(self, value):
        samples = noise()
        samples[77] = value
        assert figures_of(samples) == Figures(nonfinite_count=1)

    @pytest.mark.parametrize("n", [1, 5, 999])
    def test_signalling_nan_is_counted_without_a_warning(self, n):
        whole = np.full(2 * n, 0x7FA00001, "<u4").tobytes()
        figures = measure(Measurement("t", 1, whole), np.frombuffer(whole, "<c8"), None, spectral=True)
        assert figures == Figures(nonfinite_count=n)

    def test_nonfinite_samples_are_counted_once_for_both_components(self):
        samples = np.array([complex(np.nan, np.nan), complex(np.inf, -np.inf), 1.0, complex(0, np.nan)])
        assert figures_of(samples).nonfinite_count == 3

    def test_447_samples_have_levels_but_no_spectrum(self):
        samples = noise(MIN_SAMPLES) + tone(power_db=-20.0, n=MIN_SAMPLES)
        figures = figures_of(samples[:-1])
        assert figures.power_dbfs is not None
        assert all(getattr(figures, name) is None for name in SPECTRAL)
        assert figures_of(samples).snr_db is not None

    def test_single_sample_has_levels(self):
        figures = figures_of(np.array([0.3 + 0.4j]))
        assert (figures.power_dbfs, figures.peak_dbfs, figures.dc_offset_dbfs) == (-6.02, -6.02, -6.02)

    def test_no_samples_have_no_figures(self):
        assert figures_of(np.zeros(0)) == Figures(nonfinite_count=0)

    def test_spectral_figures_are_left_out_when_not_asked_for(self):
        samples = noise() + tone(power_db=-20.0)
        whole, temporal = figures_of(samples), figures_of(samples, spectral=False)
        assert all(getattr(temporal, name) is None for name in SPECTRAL)
        assert dataclasses.replace(whole, **dict.fromkeys(SPECTRAL)) == temporal

    def test_without_a_sample_rate_only_the_ratios_remain(self):
        samples = noise() + tone(power_db=-20.0)
        known, unknown = figures_of(samples), figures_of(samples, sample_rate_hz=None, bandwidth_hz=1e3)
        assert (unknown.noise_dbfs_hz, unknown.bandwidth_hz, unknown.frequency_offset_hz) == (
            None,
            None,
            None,
        )
        assert (unknown.snr_db, unknown.burst_snr_db) == (known.snr_db, known.burst_snr_db)
        assert unknown.bandwidth_source == "full"

    def test_noise_of_zero_has_no_snr_but_a_carrier_keeps_its_offset(self):
        # More than half of the segments hold nothing at all, so their median is exactly zero.
        samples = np.zeros(N)
        samples[:20_000] = 0.5
        figures = figures_of(samples)
        assert (figures.noise_dbfs_hz, figures.snr_db, figures.burst_snr_db) == (None, None, None)
        assert figures.frequency_offset_hz == 0.0

    def test_barely_more_power_than_noise_has_no_snr(self):
        # In the passband of the frame there is noise only; beside it a carrier.
        figures = figures_of(noise() + tone(1500.0, -20.0), bandwidth_hz=RATE_HZ / 2)
        assert figures.snr_db is None
        assert figures.frequency_offset_hz is None

    @pytest.mark.parametrize("value", [3e38, 1e38, 1e-38, 1e-45])
    def test_extreme_but_finite_levels_are_measured(self, value):
        level_db = 20 * math.log10(float(np.float32(value)))
        figures = figures_of(np.full(5000, value))
        assert figures.power_dbfs == pytest.approx(level_db, abs=0.011)
        assert figures.peak_dbfs == pytest.approx(level_db, abs=0.011)

    @pytest.mark.parametrize("rate_hz", [5e-324, 1e-300, 1e-3, 1e10])
    def test_extreme_rates_are_measured(self, rate_hz):
        figures = figures_of(noise() + tone(power_db=-20.0), sample_rate_hz=rate_hz, bandwidth_hz=1e10)
        assert figures.snr_db == pytest.approx(20.0, abs=0.15)

    def test_burst_between_the_segments_does_not_divide_by_nothing(self):
        # 63 segments over 10 million samples leave gaps; nothing but one gap holds a signal.
        samples = np.zeros(1_000_000, "c8")
        samples[8_000] = 0.5
        figures = figures_of(samples)
        assert figures.peak_dbfs == -6.02
        assert figures.snr_db is None


def assert_json_safe(figures: Figures) -> None:
    text = json.dumps(dataclasses.asdict(figures), allow_nan=False)
    assert json.loads(text) == dataclasses.asdict(figures)


class TestAnyBits:
    """Arbitrary payloads are measured, without a warning, and with figures that strict JSON can hold."""

    @settings(max_examples=150, deadline=None)
    @given(payload=st.binary(min_size=8, max_size=8 * 40), repeat=st.sampled_from([1, 1, 40, 200]))
    def test_any_float32_bits_are_measured(self, payload, repeat):
        whole = payload[: len(payload) // 8 * 8] * repeat
        samples = np.frombuffer(whole, "<c8")
        figures = measure(
            Measurement("t", 1, whole, sample_rate_hz=RATE_HZ), samples, Receiver((), 1e5), spectral=True
        )
        assert_json_safe(figures)
        assert figures.nonfinite_count == sum(
            not (math.isfinite(z.real) and math.isfinite(z.imag)) for z in samples.tolist()
        )

    @settings(max_examples=150, deadline=None)
    @given(
        values=st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=2, max_size=60),
        repeat=st.sampled_from([1, 30, 250]),
        rate_hz=st.none() | st.floats(min_value=5e-324, max_value=1e10),
        bandwidth_hz=st.none() | st.floats(min_value=5e-324, max_value=1e10),
    )
    def test_any_finite_floats_are_measured(self, values, repeat, rate_hz, bandwidth_hz):
        samples = np.array(values[: len(values) // 2 * 2] * repeat, "<f4").view("<c8")
        figures = figures_of(samples, sample_rate_hz=rate_hz, bandwidth_hz=bandwidth_hz)
        assert_json_safe(figures)
        assert figures.nonfinite_count == 0
        assert (figures.power_dbfs is None) == (not samples.any())

    @settings(max_examples=60, deadline=None)
    @given(
        datatype=st.sampled_from(["cu8", "ci8", "ci16_le"]),
        payload=st.binary(min_size=4, max_size=200),
        repeat=st.sampled_from([1, 40, 300]),
    )
    def test_any_integers_are_measured(self, datatype, payload, repeat):
        whole = payload[: len(payload) // 4 * 4] * repeat
        figures = figures_of_codes(np.frombuffer(whole, "u1"), datatype)
        assert_json_safe(figures)
        assert 0.0 <= figures.clipped_fraction <= 1.0
