"""Logs of code that is wrong on purpose: a check that finds nothing in these would find nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ingestd.testing.power_loss.operations import Mark, Name, Operation, SyncDirectory, SyncFile
from ingestd.testing.power_loss.workload import OBJECTS, STATE

__all__ = ["CONTROLS"]

_NEW = f"{STATE}/spool/new"


def _no_fdatasync(log: Sequence[Operation]) -> list[Operation]:
    return [one for one in log if not isinstance(one, SyncFile)]


def _no_fdatasync_below(log: Sequence[Operation], top: str) -> list[Operation]:
    inodes = {
        one.inode
        for one in log
        if isinstance(one, Name) and one.kind == "create" and one.path.startswith(top)
    }
    return [one for one in log if not (isinstance(one, SyncFile) and one.inode in inodes)]


def _no_fsync_below(log: Sequence[Operation], top: str) -> list[Operation]:
    return [one for one in log if not (isinstance(one, SyncDirectory) and one.path.startswith(top))]


def _no_fsync_of_spares(log: Sequence[Operation]) -> list[Operation]:
    """Files are written over although a loss of power may bring their old names back."""
    return _no_fsync_below(_no_fsync_below(log, f"{STATE}/spool/spare"), f"{STATE}/spool/claimed/")


def _rename_before_fdatasync(log: Sequence[Operation]) -> list[Operation]:
    late = {one.inode for one in log if _is_publishing(one) and isinstance(one, Name)}
    out: list[Operation] = []
    for one in log:
        if isinstance(one, SyncFile) and one.inode in late:
            continue
        out.append(one)
        if isinstance(one, Name) and _is_publishing(one):
            out.append(SyncFile(one.inode))
    return out


def _accept_before_fsync(log: Sequence[Operation]) -> list[Operation]:
    """The promise comes with the rename, as if the fsync of new/ went on in the background."""
    accepted = {one.subject for one in log if isinstance(one, Mark) and one.kind == "accepted"}
    out: list[Operation] = []
    for one in log:
        if isinstance(one, Mark) and one.kind == "accepted":
            continue
        out.append(one)
        if isinstance(one, Name) and _is_publishing(one):
            name = one.path.rpartition("/")[2]
            out.extend([Mark("accepted", name)] * (name in accepted))
    return out


def _is_publishing(one: Operation) -> bool:
    """Whether it is the rename from tmp/ into new/."""
    return (
        isinstance(one, Name)
        and one.kind == "rename"
        and one.path.startswith(f"{_NEW}/")
        and one.source.startswith(f"{STATE}/spool/tmp/")
    )


#: What is left out or comes too late, and the log of code that does so.
CONTROLS: Mapping[str, Callable[[Sequence[Operation]], list[Operation]]] = {
    "no-fdatasync": _no_fdatasync,
    "no-fdatasync-spool": lambda log: _no_fdatasync_below(log, f"{STATE}/spool/tmp/"),
    "no-fdatasync-store": lambda log: _no_fdatasync_below(log, OBJECTS),
    "no-fsync-new": lambda log: _no_fsync_below(log, _NEW),
    "no-fsync-spare": _no_fsync_of_spares,
    "no-fsync-failed": lambda log: _no_fsync_below(log, f"{STATE}/spool/failed"),
    "no-fsync-store": lambda log: _no_fsync_below(log, OBJECTS),
    "rename-before-fdatasync": _rename_before_fdatasync,
    "accept-before-fsync": _accept_before_fsync,
}
