"""What must hold after every fault: nothing told is lost or torn, nothing was told too early, nobody hangs or dies.

`judge` recovers the spool as a start of the daemon does and reads what is there; the rest are functions of what was
seen.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ingestd.config import load
from ingestd.errors import IngestdError
from ingestd.formats import frame as wire
from ingestd.formats.checksum import crc32c
from ingestd.formats.measurement import object_keys
from ingestd.spool import EntryName, SpoolLayout, SpoolLock
from ingestd.storage.encoding import encode_pair
from ingestd.testing.syscalls.plan import KILL, Case
from ingestd.testing.syscalls.subjects import BUCKET, frame
from ingestd.testing.syscalls.trace import Call, place_of

__all__ = [
    "Outcome",
    "Remains",
    "Verdict",
    "accept_order",
    "judge",
    "judge_life",
    "judge_receiver",
    "judge_uploader",
    "overwrite_order",
    "release_order",
    "second_syncs",
]

#: Status of a process that SIGKILL ended.
_KILLED = -9

#: Where the directory store writes before an object gets its name; remains of a killed process may lie there.
_SCRATCH = ".tmp"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a subject ended: names it told, exit status, whether it had to be killed for hanging, and its calls."""

    told: tuple[str, ...]
    status: int
    hung: bool
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong after a case; `injected` says whether its fault struck at all, `told` how many entries were told."""

    case: Case
    violations: tuple[str, ...]
    injected: bool
    told: int


@dataclass(frozen=True, slots=True)
class Remains:
    """What is on the disk after recovery: files of the spool by path below it, objects by key."""

    spool: Mapping[str, bytes]
    objects: Mapping[str, bytes]

    def named(self, name: str) -> list[str]:
        """Paths below the spool of the files with a name."""
        return [path for path in self.spool if os.path.basename(path) == name]


def judge(case: Case, outcome: Outcome, state_directory: str) -> Verdict:
    """Recover the spool of a case and hold what is there, and what was done before, to the promise.

    Parameters
    ----------
    case
        What was run.
    outcome
        How it ended.
    state_directory
        Of the subject.
    """
    violations = [*judge_life(case, outcome), *second_syncs(outcome.calls, state_directory)]
    total = sum(case.scenario.groups)
    try:
        remains = _recovered(state_directory)
    except IngestdError as error:
        return Verdict(
            case, (*violations, f"recovery fails: {error}"), _struck(case, outcome, state_directory), 0
        )
    if case.scenario.subject.startswith("receiver"):
        violations += accept_order(outcome, state_directory)
        violations += overwrite_order(outcome, state_directory)
        violations += judge_receiver(outcome.told, remains, total)
    else:
        violations += release_order(outcome, state_directory, total)
        violations += judge_uploader(outcome.told, remains, total)
    return Verdict(case, tuple(violations), _struck(case, outcome, state_directory), len(outcome.told))


def judge_life(case: Case, outcome: Outcome) -> Iterator[str]:
    """A fault that can be survived must be, without a hang; one that passes leaves nothing undone."""
    if outcome.hung:
        yield "the subject hangs"
        return
    if any(fault.action == KILL for fault in case.faults):
        if outcome.status not in (0, _KILLED):
            yield f"the subject ends with status {outcome.status}"
        return
    if outcome.status:
        yield f"the subject dies of it: status {outcome.status}"
    missing = sum(case.scenario.groups) - len(outcome.told)
    if missing and not any(fault.lasting == "forever" for fault in case.faults):
        yield f"the fault is over, but {missing} entries were never told"


def _struck(case: Case, outcome: Outcome, state_directory: str) -> bool:
    fault = case.fault
    if fault is None:
        return False
    if fault.action == KILL:
        return outcome.status == _KILLED and not outcome.hung
    if fault.is_short:
        places = [place_of(call, state_directory) for call in outcome.calls if call.name == "write"]
        return sum(place in ("tmp", "objects") for place in places) >= fault.at
    return any(
        call.injected and call.name == fault.name and call.ordinal >= fault.at for call in outcome.calls
    )


def _recovered(state_directory: str) -> Remains:
    layout = SpoolLayout(state_directory)
    layout.make()
    with SpoolLock(layout):
        layout.recover()
    spool = {path: content for path, content in _files(layout.root) if os.sep in path}
    objects = {
        path: content
        for path, content in _files(os.path.join(state_directory, "objects", BUCKET))
        if not path.startswith(_SCRATCH + os.sep)
    }
    return Remains(spool, objects)


def _files(root: str) -> Iterator[tuple[str, bytes]]:
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                yield os.path.relpath(path, root), file.read()


@functools.cache
def _script(total: int) -> dict[int, bytes]:
    """Frames of a script by their checksum."""
    return {crc32c(one): one for one in map(frame, range(total))}


@functools.cache
def _pair(total: int, crc: int) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    """Key and bytes of both objects of a frame, .npy first."""
    measurement = wire.parse(_script(total)[crc])
    settings = load(environ={})
    pair, _ = encode_pair(measurement, figures=settings.uploader.quality, sha256=settings.storage.sha256)
    keys = object_keys(measurement.identity)
    return (keys.npy, b"".join(map(bytes, pair.npy.blocks()))), (
        keys.metadata,
        b"".join(map(bytes, pair.metadata.blocks())),
    )


def _crc_of(name: str, total: int) -> int | None:
    """Checksum in the name of an entry of the script; None where it is not one."""
    parsed = EntryName.parse(name)
    return parsed.crc32c if parsed is not None and parsed.crc32c in _script(total) else None


def _spool_faults(remains: Remains, total: int) -> Iterator[str]:
    """Whatever lies in the spool after recovery is a whole frame of the script, and none is given up."""
    for path, content in remains.spool.items():
        place, name = path.split(os.sep)[0], os.path.basename(path)
        crc = _crc_of(name, total)
        if place in ("tmp", "failed", "rejected"):
            yield f"after recovery, {path} is there"
        elif crc is None or content != _script(total)[crc]:
            yield f"torn: {path} has {len(content)} bytes that are not its frame"


def judge_receiver(told: Sequence[str], remains: Remains, total: int) -> Iterator[str]:
    """Every entry told is there once and whole; every file that is there is whole.

    A frame may be there a second time under a name that nobody was told: a rollback that could not remove it.
    """
    yield from _spool_faults(remains, total)
    for name in told:
        paths = remains.named(name)
        if [os.path.dirname(path) for path in paths] != ["new"]:
            yield f"lost: {name} was told, and is in {paths or 'no place'}"
    crcs = Counter(_crc_of(name, total) for name in told)
    yield from (f"a frame was told {n} times" for crc, n in crcs.items() if n > 1 or crc is None)


def judge_uploader(told: Sequence[str], remains: Remains, total: int) -> Iterator[str]:
    """Every frame is in the spool or stored, every one told is stored, and the bucket holds nothing else."""
    yield from _spool_faults(remains, total)
    told_crcs = [_crc_of(name, total) for name in told]
    yield from (
        f"{name} was told and is no entry of the script" for name in told if _crc_of(name, total) is None
    )
    kept = {_crc_of(os.path.basename(path), total) for path in remains.spool}
    expected: dict[str, bytes] = {}
    for crc in _script(total):
        pair = _pair(total, crc)
        expected.update(pair)
        npy_there, metadata_there = (remains.objects.get(key) is not None for key, _ in pair)
        is_stored = all(remains.objects.get(key) == content for key, content in pair)
        if metadata_there and not npy_there:
            yield f"{pair[1][0]} is there without its .npy"
        if not is_stored and (crc in told_crcs or crc not in kept):
            yield f"lost: {pair[0][0]} is not stored, {'and was told' if crc in told_crcs else 'and not in the spool'}"
        if crc in told_crcs and crc in kept:
            yield f"{pair[0][0]} was told as released, and is in the spool"
    for key, content in remains.objects.items():
        if expected.get(key) != content:
            yield f"torn: {key} has {len(content)} bytes that are not its content"


def _tellings(outcome: Outcome) -> Iterator[tuple[str, int]]:
    """Each name with the place of its telling in the calls; -1 where no call tells it."""
    at = {call.text: i for i, call in enumerate(outcome.calls) if call.name == "sendto" and call.done}
    for name in outcome.told:
        yield name, at.get(name, -1)


def _last(calls: Sequence[Call], before: int, name: str, path: str) -> int:
    """Last call of a name that took effect and ended up at a path; -1 where there is none."""
    for i in range(before - 1, -1, -1):
        call = calls[i]
        if call.done and call.name.startswith(name) and call.paths[-1:] == (path,):
            return i
    return -1


def _synced(calls: Sequence[Call], begin: int, end: int, path: str) -> bool:
    """Whether the first sync of a path in a stretch of calls worked; a later one proves nothing.

    One that a signal interrupted was none.
    """
    for call in calls[begin:end]:
        if call.name in ("fsync", "fdatasync") and call.paths[-1:] == (path,) and call.error != "EINTR":
            return call.done
    return False


def _content_synced(calls: Sequence[Call], before: int, path: str) -> bool:
    """Whether a file was synced after its last write, and before a call."""
    last = max(_last(calls, before, name, path) for name in ("openat", "write"))
    return last >= 0 and _synced(calls, last + 1, before, path)


def accept_order(outcome: Outcome, state_directory: str) -> Iterator[str]:
    """Written, synced, named, the name synced, told: in this order for each entry told."""
    layout, calls = SpoolLayout(state_directory), outcome.calls
    for name, told_at in _tellings(outcome):
        renamed_at = _last(calls, told_at, "rename", os.path.join(layout.new, name))
        if told_at < 0:
            yield f"{name} was told by no call that was seen"
        elif renamed_at < 0:
            yield f"{name} was told before it was renamed into new/"
        else:
            if not _content_synced(calls, renamed_at, os.path.join(layout.tmp, name)):
                yield f"{name} was renamed into new/ before its bytes were synced"
            if not _synced(calls, renamed_at, told_at, layout.new):
                yield f"{name} was told before its name was synced"


def release_order(outcome: Outcome, state_directory: str, total: int) -> Iterator[str]:
    """Both objects written, synced, linked, their names synced, and only then the entry removed and told."""
    calls = outcome.calls
    claimed = os.path.join(SpoolLayout(state_directory).claimed, "")
    base = os.path.join(state_directory, "objects", BUCKET)
    for name, told_at in _tellings(outcome):
        removals = [
            i
            for i, call in enumerate(calls[: max(0, told_at)])
            if call.done and _takes_away(call, claimed) and os.path.basename(call.paths[-1]) == name
        ]  # fmt: skip
        if not removals:
            yield f"{name} was told before it was removed"
            continue
        crc = _crc_of(name, total)
        for key, _ in () if crc is None else _pair(total, crc):
            yield from _object_order(calls, removals[-1], os.path.join(base, key))


def _takes_away(call: Call, claimed: str) -> bool:
    """Whether an entry leaves claimed/ for good: removed, or moved to where its file may be written over."""
    if call.name.startswith("rename"):
        return call.paths[0].startswith(claimed) and "/spare/" in call.paths[-1]
    return call.name.startswith("unlink") and call.paths[-1].startswith(claimed)


def overwrite_order(outcome: Outcome, state_directory: str) -> Iterator[str]:
    """A released file is moved to tmp/ only after the names in spare/ and claimed/ were synced since it was released."""
    layout, calls = SpoolLayout(state_directory), outcome.calls
    spare, claimed = os.path.join(layout.spare, ""), os.path.join(layout.claimed, "")
    synced: set[str] = set()
    for call in calls:
        if call.name == "fsync" and call.done and call.paths[-1] == layout.spare:
            synced.add(spare)
        elif call.name == "fsync" and call.done and call.paths[-1].startswith(claimed):
            synced.add(claimed)
        elif call.name.startswith("rename") and call.done and call.paths[0].startswith(spare):
            yield from (
                f"{os.path.basename(call.paths[-1])} is written over a file whose old name in {os.path.dirname(where)} "
                "was not synced"
                for where in sorted({spare, claimed} - synced)
            )


def _object_order(calls: Sequence[Call], removed_at: int, path: str) -> Iterator[str]:
    key = os.path.basename(os.path.dirname(path)) + "/" + os.path.basename(path)
    linked_at = _last(calls, removed_at, "link", path)
    if linked_at < 0:
        yield f"{key} was not linked before its entry was removed"
        return
    if not _content_synced(calls, linked_at, calls[linked_at].paths[-2]):
        yield f"{key} was linked before its bytes were synced"
    # Unlike a file's, a directory's sync may be tried again: its blocks are in the journal, not in dropped pages.
    if not any(
        call.done and call.name == "fsync" and call.paths[-1:] == (os.path.dirname(path),)
        for call in calls[linked_at:removed_at]
    ):
        yield f"the entry was removed before the name of {key} was synced"


def second_syncs(calls: Sequence[Call], state_directory: str) -> Iterator[str]:
    """No file whose sync failed is synced again: the kernel has dropped what was dirty and would say that all is well.

    A file of the same name that was made after the first one was removed is another file. Directories are exempt.
    """
    spoiled: set[str] = set()
    directories = {call.paths[-1] for call in calls if call.paths and "O_DIRECTORY" in call.flags}
    for call in calls:
        path = call.paths[-1] if call.paths else ""
        if (
            call.name in ("fsync", "fdatasync")
            and path not in directories
            and place_of(call, state_directory)
        ):
            if path in spoiled:
                yield f"{os.path.basename(path)} was synced again after its sync had failed"
            if call.error and call.error != "EINTR":
                spoiled.add(path)
        elif call.done and call.name.startswith("rename"):
            # The file has another name now, and whatever takes the old one is another file.
            if call.paths[0] in spoiled:
                spoiled.add(call.paths[-1])
            spoiled.discard(call.paths[0])
        elif call.done and call.name.startswith("unlink"):
            spoiled.discard(path)
