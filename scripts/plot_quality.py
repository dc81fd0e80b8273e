#!/usr/bin/env python3
"""Print the tables of docs/quality.md and draw its picture, from the off-air recordings and synthetic signals.

    .venv/bin/python scripts/plot_quality.py [--recordings DIRECTORY] [--picture FILE] [--no-picture]

The picture shows spectra only, no samples: the licences of the recordings differ.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingestd.formats.measurement import Measurement
from ingestd.formats.quality import Figures, measure
from ingestd.formats.spectrum import Passband, Spectrum, estimate, find_passband, quantisation_step

PROJECT = Path(__file__).resolve().parent.parent

#: The synthetic buffer is that of the user's guide: 125,000 samples.
N_SAMPLES = 125_000
RATE_HZ = 2e6

#: Panels with a spectrum: what, and the file name without its suffix (None = synthetic).
PANELS = {
    "Carrier 30 dB over white noise (synthetic): full band": None,
    "DCF77 2017, HB9RYZ: filter detected": "dcf77_20171127T104156Z_HB9RYZ",
    "DCF77 2020, JO51xl: the signal fills its filter": "dcf77_20200813T065220Z_JO51xl",
    "Wireless M-Bus 868.95 MHz: bursts, full band": "wmbus_868_95_T1",
}
#: Columns of a picture panel; more is finer than its pixels.
N_COLUMNS = 512

Samples = npt.NDArray[np.complex64]


def main() -> int:
    """Print, then draw."""
    parser = argparse.ArgumentParser(description="tables and picture of docs/quality.md")
    parser.add_argument(
        "--recordings", type=Path, default=PROJECT.parent / "shared" / "iq", metavar="DIRECTORY"
    )
    parser.add_argument(
        "--picture", type=Path, default=PROJECT / "docs" / "images" / "quality.png", metavar="FILE"
    )
    parser.add_argument("--no-picture", action="store_true", help="print the tables only")
    arguments = parser.parse_args()
    if not arguments.recordings.is_dir():
        print(
            f"no recordings in {arguments.recordings}; name their directory with --recordings",
            file=sys.stderr,
        )
        return 1
    print_references(arguments.recordings)
    print_tones()
    print_widths()
    print_times()
    if not arguments.no_picture:
        draw(arguments.recordings, arguments.picture)
        print(f"\n{arguments.picture}: {arguments.picture.stat().st_size} bytes")
    return 0


def recording(path: Path) -> tuple[Samples, float]:
    """Samples and sample rate [Hz] of a SigMF recording."""
    meta = json.loads(path.with_suffix(".sigmf-meta").read_text(encoding="utf-8"))
    return np.fromfile(path, "<c8"), float(meta["global"]["core:sample_rate"])


def figures_of(samples: Samples, rate_hz: float = RATE_HZ, *, spectral: bool = True) -> Figures:
    """Quality figures of samples as a frame of them would get, with nothing said about the receiver."""
    measurement = Measurement("quality", 1, samples.tobytes(), sample_rate_hz=rate_hz)
    return measure(measurement, samples, None, spectral=spectral)


def noise(seed: int, n_samples: int = N_SAMPLES) -> npt.NDArray[np.complex128]:
    """White noise of -40 dBFS."""
    parts = np.random.default_rng(seed).standard_normal((2, n_samples)) * math.sqrt(1e-4 / 2)
    return parts[0] + 1j * parts[1]


def carrier(snr_db: float, offset_bins: float) -> npt.NDArray[np.complex128]:
    """Carrier that much over the noise, so many bins of 4096 from the centre."""
    phase = 2j * np.pi * offset_bins / 4096 * np.arange(N_SAMPLES)
    return 10 ** ((snr_db - 40.0) / 20) * np.exp(phase)


def wide(share: float, snr_db: float, seed: int) -> npt.NDArray[np.complex128]:
    """Signal that fills the centred share of the band evenly, that much over the noise of the full band."""
    spectrum = np.fft.fft(noise(seed))
    spectrum[np.abs(np.fft.fftfreq(N_SAMPLES)) > share / 2] = 0
    signal = np.fft.ifft(spectrum)
    return signal * (10 ** ((snr_db - 40.0) / 20) / np.sqrt(np.mean(np.abs(signal) ** 2)))


def shown(value: Any) -> str:
    """Table cell."""
    return "null" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def print_references(directory: Path) -> None:
    """Every recording as a whole."""
    print(
        "| recording | power_dbfs | peak_dbfs | clipped | W Hz | N0 dBFS/Hz | snr_db | burst_snr_db | offset Hz |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for path in sorted(directory.glob("*.cf32")):
        figures = figures_of(*recording(path))
        cells = [
            path.stem,
            shown(figures.power_dbfs),
            shown(figures.peak_dbfs),
            f"{figures.clipped_fraction:.3%}",
            f"{shown(figures.bandwidth_hz)} {figures.bandwidth_source}",
            *map(shown, (figures.noise_dbfs_hz, figures.snr_db, figures.burst_snr_db)),
            shown(figures.frequency_offset_hz),
        ]
        print(f"| {' | '.join(cells)} |")


def tone_errors() -> Iterator[tuple[float, float, float, int]]:
    """For each true SNR: worst SNR error [dB], worst offset error [bins], buffers without an SNR; of 40 buffers."""
    for snr_db in range(-15, 61, 5):
        made = np.random.default_rng(snr_db + 100)
        snr_errors, offset_errors, n_null = [0.0], [0.0], 0
        for seed in range(40):
            bins = made.uniform(-2000, 2000)
            figures = figures_of((noise(seed) + carrier(snr_db, bins)).astype("c8"))
            if figures.snr_db is None:
                n_null += 1
            else:
                snr_errors.append(figures.snr_db - snr_db)
            if figures.frequency_offset_hz is not None:
                offset_errors.append(figures.frequency_offset_hz / RATE_HZ * 4096 - bins)
        yield snr_db, max(snr_errors, key=abs), max(offset_errors, key=abs), n_null


def print_tones() -> None:
    """How far a carrier in white noise may read off."""
    print("\n| carrier, true SNR dB | worst snr_db error dB | worst offset error, bins | snr_db null |")
    print("|---|---|---|---|")
    for snr_db, snr_error, offset_error, n_null in tone_errors():
        worst = "none" if n_null == 40 else f"{snr_error:+.2f}"
        print(f"| {snr_db} | {worst} | {offset_error:+.3f} | {n_null} of 40 |")


def width_errors() -> Iterator[tuple[float, float]]:
    """For each share of the band that a 20 dB signal fills: mean SNR error [dB] of 10 buffers."""
    for share in (0.01, 0.02, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40):
        read = [
            figures_of((noise(seed) + wide(share, 20.0, seed + 50)).astype("c8")).snr_db for seed in range(10)
        ]
        yield share, float(np.mean([snr_db for snr_db in read if snr_db is not None])) - 20.0


def print_widths() -> None:
    """How a wide signal is taken for noise."""
    print("\n| share of the passband filled, 20 dB | mean snr_db error dB |")
    print("|---|---|")
    for share, error in width_errors():
        print(f"| {share:.0%} | {error:+.2f} |")


def print_times() -> None:
    """CPU time of one buffer on this machine."""
    samples = (noise(1) + carrier(20.0, 100.3)).astype("c8")
    print()
    for spectral in (True, False):
        times_s = []
        for _ in range(300):
            started_s = time.process_time()
            figures_of(samples, spectral=spectral)
            times_s.append(time.process_time() - started_s)
        what = "all figures" if spectral else "time-domain figures only"
        print(
            f"{what}, {N_SAMPLES} samples: median {np.median(times_s) * 1e3:.2f} ms CPU, best {min(times_s) * 1e3:.2f}"
        )


def spectrum_of(samples: Samples, rate_hz: float) -> tuple[Spectrum, Passband]:
    """Spectrum and passband as `measure` finds them."""
    spectrum = estimate(samples)
    return spectrum, find_passband(spectrum, quantisation_step(samples, "cf32_le"), rate_hz, None, None)


def draw(directory: Path, picture: Path) -> None:
    """Four spectra with their passband and noise floor, and the two error curves."""
    import matplotlib as mpl  # noqa: PLC0415 - the tables need no matplotlib

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - only after the backend is chosen
    from PIL import Image  # noqa: PLC0415 - comes with matplotlib

    plt.rcParams.update(
        {
            "font.size": 8,
            "axes.titlesize": 8.5,
            "axes.grid": True,
            "grid.alpha": 0.3,
        }
    )
    figure, axes = plt.subplots(3, 2, figsize=(10, 9.5), dpi=100, layout="constrained")
    for panel, (title, name) in zip(axes.flat, PANELS.items(), strict=False):
        if name is None:
            draw_spectrum(panel, title, (noise(1) + carrier(30.0, 700.3)).astype("c8"), RATE_HZ)
        else:
            draw_spectrum(panel, title, *recording(directory / f"{name}.cf32"))
    axes[0, 0].legend(loc="upper left", fontsize=7)
    draw_errors(axes[2, 0], axes[2, 1])
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.canvas.draw()
    # A palette: a third of the size, and the same to the eye.
    Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3]).quantize(64).save(
        picture, optimize=True
    )


def draw_spectrum(panel: Any, title: str, samples: Samples, rate_hz: float) -> None:
    """Mean and median spectrum, passband shaded, noise density as a line."""
    spectrum, passband = spectrum_of(samples, rate_hz)
    figures = figures_of(samples, rate_hz)
    unit, scale = ("MHz", 1e6) if rate_hz > 1e5 else ("kHz", 1e3)
    bin_hz = rate_hz / spectrum.n_bins
    centre = spectrum.n_bins // 2
    columns = (np.arange(N_COLUMNS) + 0.5) * (rate_hz / N_COLUMNS / scale) - rate_hz / 2 / scale
    folded = (N_COLUMNS, spectrum.n_bins // N_COLUMNS)
    # Of several bins in a column the strongest of A, so that carriers show, and the middle one of S.
    mean = spectrum.mean.reshape(folded).max(axis=1)
    floor = np.median(spectrum.floor.reshape(folded), axis=1)
    panel.axvspan(
        (passband.first - centre) * bin_hz / scale,
        (passband.stop - centre) * bin_hz / scale,
        color="tab:green",
        alpha=0.10,
        label=f"passband W ({passband.source})",
    )
    panel.plot(columns, 10 * np.log10(mean / bin_hz), lw=0.8, color="tab:blue", label="A, mean of segments")
    panel.plot(columns, 10 * np.log10(floor / bin_hz), lw=0.8, color="tab:orange", label="S, median / ln 2")
    panel.axhline(figures.noise_dbfs_hz, color="black", lw=0.9, ls="--", label="N0")
    text = f"N0 {shown(figures.noise_dbfs_hz)} dBFS/Hz\nsnr_db {shown(figures.snr_db)}\n"
    text += f"burst_snr_db {shown(figures.burst_snr_db)}\noffset {shown(figures.frequency_offset_hz)} Hz"
    box = {"boxstyle": "round", "facecolor": "white", "alpha": 0.8, "edgecolor": "0.7"}
    panel.text(0.985, 0.96, text, transform=panel.transAxes, ha="right", va="top", fontsize=7, bbox=box)
    panel.set(title=title, xlabel=f"frequency from centre [{unit}]", ylabel="dBFS/Hz")
    panel.margins(x=0)


def draw_errors(tones: Any, widths: Any) -> None:
    """Error of the SNR of a carrier over its SNR, and of a wide signal over the share of the band it fills."""
    rows = [row for row in tone_errors() if row[3] < 40]
    tones.plot([row[0] for row in rows], [row[1] for row in rows], "o-", ms=3, color="tab:blue")
    tones.axhspan(-0.15, 0.15, color="tab:green", alpha=0.10)
    tones.set(
        title="Carrier in white noise: worst error of 40 buffers",
        xlabel="true SNR [dB]",
        ylabel="snr_db error [dB]",
    )
    shares, errors = zip(*width_errors(), strict=True)
    widths.plot([100 * share for share in shares], errors, "o-", ms=3, color="tab:blue")
    widths.set(
        title="20 dB signal that fills part of the passband: mean error",
        xlabel="share of the passband filled [%]",
        ylabel="snr_db error [dB]",
    )


if __name__ == "__main__":
    sys.exit(main())
