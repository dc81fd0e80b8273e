"""Directories of the spool, who may use it, and how it is put in order at a start."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ingestd import faults
from ingestd.disk import make_directory, sync_directory
from ingestd.errors import NotFound, SpoolBroken, SpoolLocked, UsageError, bounded
from ingestd.spool.names import EntryName

__all__ = [
    "RecoveryReport",
    "SpoolLayout",
    "SpoolLock",
    "entry_files",
    "requeue",
    "spool_errors",
]

#: Mode of everything below the state directory: recordings are nobody else's business.
_DIRECTORY_MODE = 0o750

#: An entry that was alone with its uploader when that died is one rung further up; on the last it goes to failed/.
MAX_DEATHS_ALONE = 3

#: Reason of an entry that was alone with its uploader at so many deaths.
POISON = "poison"

#: How long a new supervisor waits for the roles of a killed one to be gone [s]; PDEATHSIG takes milliseconds.
_ROLES_GONE_TIMEOUT_S = 5.0

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE})


def is_full(error: OSError) -> bool:
    """Whether waiting may help: no room, no inodes, no descriptors."""
    return error.errno in _FULL


@contextlib.contextmanager
def spool_errors(doing: str) -> Iterator[None]:
    """Translate operating system errors of the spool into one `SpoolBroken` that says what was being done."""
    try:
        yield
    except OSError as error:
        raise SpoolBroken(
            f"{doing}: {error.strerror or error} ({errno.errorcode.get(error.errno or 0, '?')})"
        ) from error


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What a start found and put in order."""

    discarded: int = 0
    returned: int = 0
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SpoolLayout:
    """Paths of a spool.

    Parameters
    ----------
    state_directory
        The daemon's; the spool is its subdirectory `spool`.
    """

    state_directory: str
    root: str = field(init=False)
    tmp: str = field(init=False)
    new: str = field(init=False)
    claimed: str = field(init=False)
    failed: str = field(init=False)
    rejected: str = field(init=False)
    retained: str = field(init=False)
    spare: str = field(init=False)

    def __post_init__(self) -> None:
        root = os.path.join(os.path.abspath(self.state_directory), "spool")
        object.__setattr__(self, "root", root)
        for name in ("tmp", "new", "claimed", "failed", "rejected", "retained", "spare"):
            object.__setattr__(self, name, os.path.join(root, name))

    def uploader(self, name: str) -> str:
        """Directory of the entries that an uploader holds."""
        return os.path.join(self.claimed, name)

    def alone(self, name: str, deaths: int) -> str:
        """Directory of the one suspect that an uploader holds while it holds nothing else."""
        return os.path.join(self.claimed, f"{name}.alone-{deaths}")

    def suspects(self, deaths: int) -> str:
        """Directory of entries that were in the hands of a dying uploader; `deaths` of them alone with it."""
        return os.path.join(self.claimed, f"suspect-{deaths}")

    def make(self) -> None:
        """Create what is missing and make the new names durable, parents first."""
        with spool_errors(f"making the spool in {self.root}"):
            make_directory(self.root, _DIRECTORY_MODE)
            for path in (
                self.tmp, self.new, self.claimed, self.failed, self.rejected, self.retained, self.spare,
            ):  # fmt: skip
                os.makedirs(path, _DIRECTORY_MODE, exist_ok=True)
            for deaths in range(MAX_DEATHS_ALONE):
                os.makedirs(self.suspects(deaths), _DIRECTORY_MODE, exist_ok=True)
            sync_directory(self.claimed)
            sync_directory(self.root)

    def recover(self, tell: Callable[[], None] = lambda: None) -> RecoveryReport:
        """Put the spool in order before any role starts: discard tmp/ and spare/, give every claim back.

        Only the owner of the lock may call this. Suspects keep their count. Foreign files stay where they are.

        Parameters
        ----------
        tell
            Called after each file: a backlog of a hundred thousand takes its time on a slow disk.
        """
        discarded = self.discard_unfinished(tell)
        # After a loss of power a file may be known here that has become an entry since: it must not be written over.
        with spool_errors(f"emptying {self.spare}"):
            _remove_all(_files(self.spare), tell)
        with spool_errors(f"recovering the spool in {self.root}"):
            faults.point("recover.discarded")
            returned = sum(self._give_back(name, tell) for name in sorted(os.listdir(self.claimed)))
            faults.point("recover.returned")
            sync_directory(self.new)
            faults.point("recover.synced")
            return RecoveryReport(discarded, returned, tuple(self._foreign()))

    def discard_unfinished(self, tell: Callable[[], None] = lambda: None) -> int:
        """Remove what a dead receiver left in tmp/, which was never accepted; returns how many.

        Only where no receiver lives: the owner of the lock, or the receiver itself before it begins.
        """
        with spool_errors(f"emptying {self.tmp}"):
            return _remove_all(_files(self.tmp), tell)

    def _give_back(self, name: str, tell: Callable[[], None]) -> int:
        """Empty one directory under claimed/ into new/ (or, for a suspect that was taken alone, its rung)."""
        directory = os.path.join(self.claimed, name)
        if name.startswith("suspect-") or not os.path.isdir(directory) or os.path.islink(directory):
            return 0
        _, alone, rung = name.rpartition(".alone-")
        target = (
            self.suspects(min(int(rung), MAX_DEATHS_ALONE - 1)) if alone and rung.isdecimal() else self.new
        )
        count = 0
        for entry in entry_files(directory):
            os.rename(entry.path, os.path.join(target, entry.name))
            count += 1
            tell()
        # A foreign file keeps its directory; that is shown by `foreign`, not an error.
        with contextlib.suppress(OSError):
            os.rmdir(directory)
        return count

    def _foreign(self) -> Iterator[str]:
        for directory in (self.new, self.claimed):
            for entry in os.scandir(directory):
                if directory == self.claimed and entry.is_dir(follow_symlinks=False):
                    continue
                if not entry.is_file(follow_symlinks=False) or EntryName.parse(entry.name) is None:
                    yield os.path.relpath(entry.path, self.root)

    def return_claims(self, uploader: str, *, counts: bool) -> tuple[int, list[str]]:
        """Give back what a dead uploader held.

        Parameters
        ----------
        uploader
            Its name.
        counts
            Whether this death speaks against an entry that was alone with it (a crash of its own, not a SIGKILL
            from outside while it waited for the store).

        Returns
        -------
        tuple of int and list of str
            How many entries were returned as suspects, and the names of those that have reached failed/.
        """
        returned, poisoned = 0, []
        with spool_errors(f"returning the claims of {uploader}"):
            for entry in entry_files(self.uploader(uploader)):
                os.rename(entry.path, os.path.join(self.suspects(0), entry.name))
                faults.point("return.renamed")
                returned += 1
            for deaths in range(MAX_DEATHS_ALONE):
                for entry in entry_files(self.alone(uploader, deaths)):
                    after = deaths + counts
                    if after >= MAX_DEATHS_ALONE:
                        fail_entry(self, entry.path, POISON, f"its uploader died {after} times alone with it")
                        poisoned.append(entry.name)
                    else:
                        os.rename(entry.path, os.path.join(self.suspects(after), entry.name))
                        returned += 1
        return returned, poisoned


def fail_entry(layout: SpoolLayout, path: str, reason: str, error: str, at_ns: int | None = None) -> None:
    """Move an entry to failed/ with a reason document beside it (the document first: no entry is there without)."""
    name = os.path.basename(path)
    document: dict[str, Any] = {
        "reason": reason,
        "error": bounded(error, 400).strip("'\""),
        "at_ns": time.time_ns() if at_ns is None else at_ns,
    }
    target = os.path.join(layout.failed, name)
    scratch = os.path.join(layout.failed, f".{name}.json")
    with open(scratch, "w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fdatasync(file.fileno())
    os.rename(scratch, f"{target}.json")
    faults.point("fail.documented")
    os.rename(path, target)
    faults.point("fail.renamed")
    sync_directory(layout.failed)


def _files(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return [entry for entry in entries if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _remove_all(files: list[os.DirEntry[str]], tell: Callable[[], None]) -> int:
    for entry in files:
        os.unlink(entry.path)
        tell()
    return len(files)


def entry_files(directory: str) -> list[os.DirEntry[str]]:
    """Regular files of a directory that are named as entries; none where it does not exist."""
    return [entry for entry in _files(directory) if EntryName.parse(entry.name) is not None]


class SpoolLock:
    """Ownership of a spool, as a `with` block.

    Two files: the supervisor holds `lock` alone; every role shares `roles.lock`. A new supervisor that got the first
    still waits for the second, so that it never recovers under the hands of a role of its killed predecessor.
    """

    def __init__(self, layout: SpoolLayout) -> None:
        self._layout = layout
        self._fd = -1

    def __enter__(self) -> Self:
        path = os.path.join(self._layout.root, "lock")
        with spool_errors(f"opening {path}"):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise SpoolLocked(
                f"the spool in {self._layout.root} is in use by another ingestd (pid {bounded(owner)[1:-1] or 'unknown'}); "
                "stop it, or give this one its own state_directory"
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        try:
            self._wait_for_roles()
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._fd)

    def _wait_for_roles(self) -> None:
        deadline = time.monotonic() + _ROLES_GONE_TIMEOUT_S
        fd = self._open_roles()
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise SpoolLocked(
                            f"roles of an earlier ingestd still use the spool in {self._layout.root}; end them first"
                        ) from error
                    time.sleep(0.02)
        finally:
            os.close(fd)

    def _open_roles(self) -> int:
        path = os.path.join(self._layout.root, "roles.lock")
        with spool_errors(f"opening {path}"):
            try:
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
                # A role that starts again on a disk that became read-only says why nothing is accepted, and goes on
                # when it can be written; flock itself writes nothing.
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def share(self) -> int:
        """Take the roles' shared lock for the life of this process; returns the descriptor that holds it."""
        fd = self._open_roles()
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise SpoolLocked(
                f"another supervisor is taking over the spool in {self._layout.root}"
            ) from error
        return fd

    def held_elsewhere(self) -> bool:
        """Whether a daemon owns this spool right now."""
        path = os.path.join(self._layout.root, "lock")
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise SpoolBroken(f"opening {path}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False


def requeue(state_directory: str, names: Sequence[str] | None) -> list[str]:
    """Bring failed entries back to new/, with a daemon running or not.

    Parameters
    ----------
    state_directory
        Of the daemon.
    names
        Entry names, or None for all.

    Returns
    -------
    list of str
        What was brought back.

    Raises
    ------
    UsageError
        A name is not that of an entry.
    NotFound
        A named entry is not in failed/.
    """
    layout = SpoolLayout(state_directory)
    if names is None:
        names = sorted(entry.name for entry in entry_files(layout.failed))
    for name in names:
        if EntryName.parse(name) is None:
            raise UsageError(f"not the name of an entry: {bounded(name)} (see `ingestctl failed`)")
    brought: list[str] = []
    with spool_errors("requeueing"):
        for name in names:
            try:
                os.rename(os.path.join(layout.failed, name), os.path.join(layout.new, name))
                faults.point("requeue.renamed")
            except FileNotFoundError as error:
                raise NotFound(
                    f"no failed entry {name}" + (f" ({len(brought)} requeued before it)" if brought else "")
                ) from error
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(layout.failed, f"{name}.json"))
            brought.append(name)
        if brought:
            sync_directory(layout.new)
            sync_directory(layout.failed)
    return brought
