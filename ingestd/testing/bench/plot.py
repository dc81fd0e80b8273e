"""One picture of a benchmark."""

from __future__ import annotations

from typing import Any

from ingestd.testing.bench.results import Results
from ingestd.testing.bench.statistics import Spread

__all__ = ["plot"]

_OURS, _OTHERS = "#1b6ca8", "#9aa5b1"

Cases = dict[str, dict[str, Spread]]


def plot(results: Results, path: str) -> None:
    """Draw frames/s and CPU of the contenders, cost along the axes, and latencies; panels without values are left out."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - an extra

    groups = results.spreads()
    panels: list[tuple[str, str, str, Cases]] = [
        (
            "frames/s until both objects are stored, MinIO",
            "frames_per_s",
            "frames/s",
            groups.get("minio", {}),
        ),
        ("CPU of the whole process tree, null store", "cpu_ms", "ms a frame", groups.get("null", {})),
        ("CPU along the axes, MinIO", "cpu_ms", "ms a frame", groups.get("axes", {})),
        ("push to both objects stored, MinIO", "p50_ms", "ms, p50 and p99", groups.get("latency", {})),
    ]
    drawn = [panel for panel in panels if panel[3]]
    figure, axes = plt.subplots(1, max(1, len(drawn)), figsize=(4.6 * max(1, len(drawn)), 3.8), squeeze=False)
    for axis, (title, metric, label, cases) in zip(axes[0], drawn, strict=False):
        _bars(axis, {name: found for name, found in cases.items() if metric in found}, metric)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(label)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _bars(axis: Any, cases: Cases, metric: str) -> None:
    """Medians as bars, the range of the rounds as a line; the p99 of latencies as a point."""
    names = list(cases)[::-1]
    medians = [cases[name][metric].median for name in names]
    below = [cases[name][metric].median - cases[name][metric].low for name in names]
    above = [cases[name][metric].high - cases[name][metric].median for name in names]
    colors = [
        _OTHERS if name.split()[0] in {"naive", "ceiling", "floor", "guide", "redpanda-connect"} else _OURS
        for name in names
    ]
    axis.barh(names, medians, xerr=[below, above], color=colors, ecolor="#333333", capsize=2)
    if metric == "p50_ms":
        axis.plot([cases[name]["p99_ms"].median for name in names], names, "o", color="#c0392b", label="p99")
        axis.legend(fontsize=8, loc="lower right")
    if metric == "cpu_ms" and any(name.endswith("MB") for name in names):
        # A frame of 32 MB costs what three hundred small ones do.
        axis.set_xscale("log")
        axis.set_xlim(left=min(medians) / 2)
        # Labels of the steps in between would lie upon each other.
        axis.minorticks_off()
        axis.set_xticks([1, 3, 10, 30, 100], labels=["1", "3", "10", "30", "100"])
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
