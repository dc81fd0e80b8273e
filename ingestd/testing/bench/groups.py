"""What is measured: groups of cases that are set against each other, so that one can be run alone while tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ingestd.testing.bench import contenders, disk, runs, spool_forms
from ingestd.testing.bench.catalog import CatalogBench
from ingestd.testing.bench.contenders import Contender
from ingestd.testing.bench.frames import FramePlan
from ingestd.testing.bench.runs import Values, plan_of
from ingestd.testing.bench.targets import Target

__all__ = ["GROUPS", "SHORT_GROUPS", "Case", "Setting"]

#: Frames before it counts [count]: twenty of each node, more than any buffer or pool takes until it has grown.
_N_WARM = 140

#: Rate at which the cost of the quality figures is taken [frames/s]: twice what a MinIO on two cores stores.
_QUALITY_RATE = 200


@dataclass(frozen=True, slots=True)
class Case:
    """One line of a group: a name, and what makes a run of it in an empty directory."""

    name: str
    run: Callable[[str], Values]


@dataclass(slots=True)
class Setting:
    """What the groups share.

    Parameters
    ----------
    minio, null
        The stores.
    catalog
        A large one.
    cores
        Of this machine: the naive script has so many workers.
    short
        Whether the runs are short.
    compare
        Whether the slow rivals take part.
    level
        Processes and threads of the ceiling.
    """

    minio: Target
    null: Target
    catalog: CatalogBench
    cores: int
    short: bool = False
    compare: bool = False
    level: tuple[int, int] = (2, 4)

    @property
    def ceiling(self) -> Contender:
        """The ceiling at the level that was found to be the best."""
        return contenders.ceiling(*self.level)

    def frames(self, full: int) -> int:
        """Frames of a run [count]."""
        return full // 2 if self.short else full

    def throughput(
        self,
        contender: Contender,
        target: Target,
        n_frames: int = 400,
        *,
        figures: bool = True,
        rate: float | None = None,
    ) -> Callable[[str], Values]:
        """A run at the point at which everybody is measured: 1 MB, 7 nodes."""
        return lambda directory: runs.throughput(
            contender,
            target,
            plan_of(figures=figures),
            directory,
            n_warm=_N_WARM,
            n_frames=self.frames(n_frames),
            rate=rate,
        )


def _minio(setting: Setting) -> Iterator[Case]:
    yield Case("ours", setting.throughput(contenders.ours(), setting.minio))
    yield Case("naive", setting.throughput(contenders.naive(setting.cores), setting.minio))
    yield Case("ceiling", setting.throughput(setting.ceiling, setting.minio))
    if setting.compare:
        # A tenth of the frames: it takes a hundred times as long for each.
        yield Case(
            "guide",
            lambda directory: runs.throughput(
                contenders.guide(), setting.minio, plan_of(), directory, n_warm=7, n_frames=40
            ),
        )
        if contenders.redpanda_binary():
            yield Case("redpanda-connect", setting.throughput(contenders.redpanda(), setting.minio))


def _null(setting: Setting) -> Iterator[Case]:
    yield Case("ours", setting.throughput(contenders.ours(), setting.null, 800))
    yield Case("naive", setting.throughput(contenders.naive(setting.cores), setting.null, 600))
    yield Case("floor", setting.throughput(contenders.plain_floor(), setting.null, 1200))


def _durability(setting: Setting) -> Iterator[Case]:
    for durability in ("disk", "process"):
        contender = contenders.ours(durability, spool={"durability": durability})
        yield Case(durability, setting.throughput(contender, setting.null, 800))


def _quality(setting: Setting) -> Iterator[Case]:
    """The demand is on what they add at a rate that is kept up with, with and without.

    As fast as it goes, the daemon that computes falls behind its pusher and has a backlog on disk, whose files cost more
    than those that are written over; that is measured too, but it is not what the figures cost.
    """
    ours = contenders.ours()
    for name, figures in (("given", True), ("computed", False)):
        yield Case(
            f"{name}, {_QUALITY_RATE}/s",
            setting.throughput(ours, setting.null, 800, figures=figures, rate=_QUALITY_RATE),
        )
    for name, figures in () if setting.short else (("given", True), ("computed", False)):
        yield Case(name, setting.throughput(ours, setting.null, 800, figures=figures))


def _latency(setting: Setting) -> Iterator[Case]:
    for rate in (100,) if setting.short else (50, 100):
        yield Case(f"ours {rate}/s", _latency_run(setting, contenders.ours(), rate))
        yield Case(f"ceiling {rate}/s", _latency_run(setting, setting.ceiling, rate))
        if not setting.short:
            yield Case(f"naive {rate}/s", _latency_run(setting, contenders.naive(setting.cores), rate))


def _latency_run(setting: Setting, contender: Contender, rate: int) -> Callable[[str], Values]:
    n_frames = setting.frames(8 * rate)
    return lambda directory: runs.latency(
        contender, setting.minio, plan_of(), directory, rate=rate, n_frames=n_frames
    )


def _burst(setting: Setting) -> Iterator[Case]:
    for name, contender in (("ours", contenders.ours()), ("ceiling", setting.ceiling)):
        yield Case(name, _burst_run(setting, contender))


def _burst_run(setting: Setting, contender: Contender) -> Callable[[str], Values]:
    n_bursts = setting.frames(20)
    return lambda directory: runs.burst(
        contender, setting.minio, plan_of(), directory, n_bursts=n_bursts, gap_s=0.3
    )


def _down(setting: Setting) -> Iterator[Case]:
    n_frames = setting.frames(600)
    yield Case(
        "ours", lambda where: disk.ingest_with_store_down(contenders.ours(), plan_of(), n_frames, where)
    )
    yield Case("disk limit", lambda where: disk.sequential_limit(where, n_frames * 10**6))


def _axes(setting: Setting) -> Iterator[Case]:
    """One axis at a time from 1 MB, 7 nodes and two uploaders."""
    for label, n_samples, n_frames in (
        ("0.1 MB", 12_500, 800), ("1 MB", 125_000, 400), ("8 MB", 1_000_000, 84), ("32 MB", 4_000_000, 28),
    ):  # fmt: skip
        yield Case(label, _axis_run(setting, n_frames, n_samples=n_samples))
    for nodes in (1, 50, 200):
        yield Case(f"{nodes} nodes", _axis_run(setting, 400, nodes=nodes))
    for count in (1, 2, 4):
        yield Case(f"{count} uploaders", _axis_run(setting, 400, uploaders=count))


def _axis_run(
    setting: Setting, n_frames: int, *, n_samples: int = 125_000, nodes: int = 7, uploaders: int = 2
) -> Callable[[str], Values]:
    contender = contenders.ours(uploader={"count": uploaders})
    # Every node sends a few times before it counts.
    n_warm = max(2 * nodes, min(70, n_frames // 4))
    return lambda directory: runs.throughput(
        contender, setting.minio, plan_of(n_samples, nodes), directory, n_warm=n_warm, n_frames=n_frames
    )


def _start(setting: Setting) -> Iterator[Case]:  # noqa: ARG001 - all groups are called alike
    yield Case(
        "ours", lambda directory: disk.start_to_first_accepted(contenders.ours(), plan_of(nodes=1), directory)
    )


def _catalog(setting: Setting) -> Iterator[Case]:
    # It keeps its own directory: what is built once is asked in every round.
    yield Case("slowest", lambda _directory: setting.catalog.ask())


def _spool(setting: Setting) -> Iterator[Case]:
    """How much the form of the spool costs, in groups of one and of seven; without a gate."""
    n_frames = setting.frames(420)
    for group in (1, 7):
        for name, form in (("files", spool_forms.files), ("segment", spool_forms.segment)):
            yield Case(f"{name}, groups of {group}", _form_run(form, n_frames, group))


def _form_run(
    form: Callable[[str, FramePlan, int, int], Values], n_frames: int, group: int
) -> Callable[[str], Values]:
    return lambda directory: form(directory, plan_of(), n_frames, group)


#: By name, in the order in which they run.
GROUPS: dict[str, Callable[[Setting], Iterator[Case]]] = {
    "minio": _minio,
    "null": _null,
    "latency": _latency,
    "burst": _burst,
    "down": _down,
    "durability": _durability,
    "quality": _quality,
    "start": _start,
    "axes": _axes,
    "catalog": _catalog,
    "spool": _spool,
}

#: Those that have gates, but for the large catalog: what `--short` has the time for.
SHORT_GROUPS = ("minio", "null", "down", "durability", "quality", "start")
