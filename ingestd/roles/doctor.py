"""What an operator should know before frames are lost for want of it: `ingestd doctor`.

Every check looks at one thing that the daemon needs, on this machine and as the daemon's user, and gives findings: what is
so, and where it is not well, what to do. Nothing stays behind that a check has made.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import secrets
import socket
import stat
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from ingestd.config import Settings
from ingestd.config.report import advice
from ingestd.config.values import HostPort, host_port, zmq_address
from ingestd.disk import sync_directory
from ingestd.errors import SpoolError, StoreError
from ingestd.formats.checksum import crc32c
from ingestd.spool import SpoolLayout, SpoolLock
from ingestd.storage.factory import open_store
from ingestd.storage.port import Body, ObjectStore

__all__ = ["CHECKS", "Finding", "Level", "examine"]

#: A group commit of a healthy disk takes less [s]; beyond this health says `fsync_slow`.
_FLUSH_GOOD_S, _FLUSH_BAD_S = 0.1, 1.0

#: What one group commit writes [bytes], and how often it is tried [count].
_FLUSH_BYTES, _FLUSH_TIMES = 2**20, 5

#: Descriptors of a role beside those of its connections [count]: libraries, store connections, files in flight.
_OTHER_DESCRIPTORS = 256

#: Fewer than these are worth a word [frames/s]: fifty nodes with a buffer each second are the largest network meant.
_FEW_FRAMES_PER_S = 50.0

#: adjtimex(2): the clock is not synchronised.
_STA_UNSYNC = 0x40

#: 2024-01-01: a clock before this was never set [s since 1970].
_NEVER_SET_S = 1_704_067_200

#: File systems that a loss of power empties.
_VOLATILE = frozenset({"tmpfs", "ramfs"})


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    #: It works; look at it.
    WARNING = "warning"
    #: The daemon does not start, does not accept, or does not store.
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and what to do about it."""

    check: str
    level: Level
    text: str
    advice: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Run every check; files are looked at and made with the rights of the user that the state directory belongs to.

    Parameters
    ----------
    settings
        Of the daemon.
    """
    with _as_owner(settings.state_directory) as note:
        if note:
            yield Finding("user", Level.OK, note)
        for name, check in CHECKS.items():
            yield from _run(name, check, settings)


def _run(name: str, check: Check, settings: Settings) -> Iterator[Finding]:
    try:
        for level, text, what_to_do in check(settings):
            yield Finding(name, level, text, what_to_do)
    except SpoolError as error:
        yield Finding(name, Level.PROBLEM, str(error), "run it as root or as the daemon's user")
    except OSError as error:
        # One thing that cannot be looked at must not hide the others.
        text = f"{error.filename or 'this'} cannot be looked at: {error.strerror or error}"
        yield Finding(name, Level.PROBLEM, text, "run it as root or as the daemon's user")


#: Level, what is so, what to do.
_Found = tuple[Level, str, str]

#: Looks at one thing.
Check = Callable[[Settings], Iterator[_Found]]


def _ok(text: str) -> _Found:
    return Level.OK, text, ""


@contextlib.contextmanager
def _as_owner(directory: str) -> Iterator[str]:
    """As root, be the owner of a directory for a while: what root may do says nothing of the daemon."""
    if os.geteuid() != 0 or not os.path.isdir(directory) or os.stat(directory).st_uid == 0:
        yield ""
        return
    owner = os.stat(directory)
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield f"checked as user {owner.st_uid}, who owns {directory}"
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _settings(settings: Settings) -> Iterator[_Found]:
    known = advice(settings)
    for text in known:
        yield Level.WARNING, text, "see docs/settings.md"
    if not known:
        yield _ok("nothing to say")


def _keys(settings: Settings) -> Iterator[_Found]:
    files = {
        name: getattr(settings.security, name) for name in ("secret_key_file", "nodes_file", "clients_file")
    }
    if not any(files.values()):
        yield _ok("no CURVE keys are set")
    for name, path in files.items():
        if path:
            yield key_file(f"security.{name}", path, is_secret=name == "secret_key_file")


def key_file(key: str, path: str, *, is_secret: bool) -> _Found:
    """Whether a file of keys is there, can be read by the daemon, and by nobody else where it is secret."""
    try:
        status = os.stat(path)
        with open(path, "rb"):
            pass
    except OSError as error:
        return (
            Level.PROBLEM,
            f"{key}: {path}: {error.strerror}",
            "give the daemon's user a file that it can read",
        )
    if not stat.S_ISREG(status.st_mode):
        return Level.PROBLEM, f"{key}: {path} is no regular file", "name a file"
    if is_secret and status.st_mode & 0o037:
        mode = f"{status.st_mode & 0o777:o}"
        return (
            Level.PROBLEM,
            f"{key}: {path} has mode {mode}",
            f"chmod 0400 {path}, and make a new key if it was read",
        )
    return _ok(f"{key}: {path} can be read")


def _daemon_runs(settings: Settings) -> bool:
    return SpoolLock(SpoolLayout(settings.state_directory)).held_elsewhere()


def _sockets(settings: Settings) -> Iterator[_Found]:
    is_running = _daemon_runs(settings)
    for key, endpoint in (
        ("ingest.endpoint", settings.ingest.endpoint),
        ("query.endpoint", settings.query.endpoint),
        ("http.endpoint", settings.http.endpoint),
    ):
        if not endpoint:
            yield _ok(f"{key}: off")
        elif endpoint.startswith("ipc://"):
            yield _ipc(key, endpoint.removeprefix("ipc://"))
        else:
            address = host_port(endpoint) if key.startswith("http") else zmq_address(endpoint)
            yield _answers(key, endpoint, address) if is_running else _is_free(key, endpoint, address)


def _ipc(key: str, path: str) -> _Found:
    directory = os.path.dirname(path) or "."
    if os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        return _ok(f"{key}: {directory} takes the socket")
    return (
        Level.PROBLEM,
        f"{key}: the daemon's user cannot write to {directory}",
        "under systemd use /run/ingestd",
    )


def _answers(key: str, endpoint: str, address: HostPort | None) -> _Found:
    """Whether the running daemon takes connections."""
    host = address.host if address is not None else ""
    if address is None or _is_interface(host):
        return _ok(f"{key}: {endpoint} names an interface and was not tried")
    local = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - asked, not bound
    try:
        socket.create_connection((local, address.port), timeout=2.0).close()
    except OSError as error:
        text = f"{key}: the daemon runs, but {endpoint} does not answer: {error.strerror or error}"
        return Level.PROBLEM, text, "the daemon may run with other settings; see its log"
    return _ok(f"{key}: {endpoint} answers")


def _is_interface(host: str) -> bool:
    return host in {name for _, name in socket.if_nameindex()}


def _is_free(key: str, endpoint: str, address: HostPort | None) -> _Found:
    """Whether the daemon, which does not run, could bind."""
    if address is None or _is_interface(address.host):
        return _ok(f"{key}: {endpoint} names an interface and was not tried")
    host = "" if address.host == "*" else address.host
    try:
        family, kind, _, _, where = socket.getaddrinfo(
            host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        what = {
            errno.EADDRINUSE: f"another program has it (ss -ltnp 'sport = :{address.port}')",
            errno.EADDRNOTAVAIL: "it is no address of this machine",
            errno.EACCES: "ports below 1024 are for root; take another",
        }.get(error.errno or 0, "see `ip address`")
        return Level.PROBLEM, f"{key}: {endpoint} cannot be bound: {error.strerror or error}", what
    return _ok(f"{key}: {endpoint} is free")


def _disk(settings: Settings) -> Iterator[_Found]:
    directory = settings.state_directory
    if not os.path.isdir(directory):
        yield Level.WARNING, f"{directory} is not there", "the daemon makes it at its first start, if it may"
        return
    yield from _room(directory, settings.spool.min_free_bytes)
    kind = _file_system(directory)
    if kind in _VOLATILE:
        text = f"{directory} is on {kind}: what is accepted does not survive a loss of power"
        yield Level.WARNING, text, "put state_directory on a disk"
    try:
        flush_s = _flush_s(directory)
    except OSError as error:
        text = f"{directory} cannot be written to: {error.strerror}"
        yield Level.PROBLEM, text, "give it to the daemon's user; see the kernel's log for errors of the disk"
        return
    text = f"1 MiB is durable in {flush_s * 1000:.1f} ms (median of {_FLUSH_TIMES})"
    if flush_s > _FLUSH_BAD_S:
        yield Level.PROBLEM, text, "every group of frames waits for this; take another disk for the spool"
    elif flush_s > _FLUSH_GOOD_S:
        yield Level.WARNING, text, "nodes wait for this; see what else writes to the disk"
    else:
        yield _ok(text)


def _room(directory: str, min_free_bytes: int) -> Iterator[_Found]:
    found = os.statvfs(directory)
    free_bytes = found.f_bavail * found.f_frsize
    text = f"{free_bytes / 2**30:.1f} GiB are free in {directory}"
    if free_bytes < min_free_bytes:
        limit = f"spool.min_free_bytes ({min_free_bytes / 2**30:.1f} GiB)"
        yield (
            Level.PROBLEM,
            f"{text}, less than {limit}: nothing is accepted",
            "make room, or lower the limit",
        )
    elif free_bytes < 2 * min_free_bytes:
        yield (
            Level.WARNING,
            f"{text}, not much above spool.min_free_bytes",
            "an outage of the store fills it soon",
        )
    else:
        yield _ok(text)
    # Some file systems make inodes as they go and say 0 of 0.
    if found.f_files and found.f_favail < 10_000:
        yield Level.WARNING, f"{found.f_favail} inodes are free", "each waiting frame takes one"


def _flush_s(directory: str) -> float:
    """Median time of what a group commit does: write, fdatasync, rename, fsync of the directory [s]."""
    name = os.path.join(directory, f".doctor-{os.getpid()}")
    data = os.urandom(_FLUSH_BYTES)
    times_s = []
    try:
        for _ in range(_FLUSH_TIMES):
            fd = os.open(f"{name}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, data)
                began_s = time.monotonic()
                os.fdatasync(fd)
            finally:
                os.close(fd)
            os.rename(f"{name}.new", name)
            sync_directory(directory)
            times_s.append(time.monotonic() - began_s)
    finally:
        for left in (name, f"{name}.new"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(left)
    return statistics.median(times_s)


def _file_system(directory: str) -> str:
    """Kind of the file system that a directory is on; "" where the kernel does not say."""
    device = os.stat(directory).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if before.split()[2] == wanted:
                return after.split()[0]
    return ""


class _Timex(ctypes.Structure):
    """`struct timex` of adjtimex(2) on 64 bits; only what is read has a name, and the tail is room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror_us", ctypes.c_long),
        ("esterror_us", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def clock_state() -> tuple[bool, float]:
    """Whether the kernel's clock is synchronised, and its largest error as the kernel knows it [s]."""
    timex = _Timex()
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return not timex.status & _STA_UNSYNC, timex.maxerror_us / 1e6


def _clock(_settings: Settings) -> Iterator[_Found]:
    synchronise = "run chrony or systemd-timesyncd; `timedatectl` shows the state"
    if time.time() < _NEVER_SET_S:
        yield Level.PROBLEM, f"the clock says {time.strftime('%Y-%m-%d', time.gmtime())}", synchronise
        return
    try:
        is_synchronised, error_s = clock_state()
    except OSError as error:
        yield Level.WARNING, f"the kernel does not tell the state of the clock: {error.strerror}", synchronise
        return
    if is_synchronised:
        yield _ok(f"synchronised to within {error_s * 1000:.0f} ms")
    else:
        text = "not synchronised: lag of nodes and implausible stamps are judged by a clock that drifts"
        yield Level.WARNING, text, synchronise


def _limits(settings: Settings) -> Iterator[_Found]:
    wanted = 2 * settings.ingest.max_connections + _OTHER_DESCRIPTORS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft} descriptors are allowed here, {wanted} may be wanted"
    if soft != resource.RLIM_INFINITY and soft < wanted:
        yield (
            Level.WARNING,
            text,
            "raise LimitNOFILE= of the unit, or ulimit -n, or lower ingest.max_connections",
        )
    else:
        yield _ok(text)
    _, address_space = resource.getrlimit(resource.RLIMIT_AS)
    needed = 2 * 2**30 + 4 * settings.ingest.max_frame_bytes
    if address_space not in (resource.RLIM_INFINITY, -1) and address_space < needed:
        text = f"{address_space / 2**30:.1f} GiB of address space are allowed, {needed / 2**30:.1f} may be wanted"
        yield Level.WARNING, text, "raise LimitAS= of the unit, or ulimit -v"


def _spool(settings: Settings) -> Iterator[_Found]:
    is_running = _daemon_runs(settings)
    layout = SpoolLayout(settings.state_directory)
    yield _ok(f"a daemon {'runs' if is_running else 'does not run'} on {settings.state_directory}")
    with contextlib.suppress(FileNotFoundError):
        n_failed = sum(name.endswith(".v1") for name in os.listdir(layout.failed))
        if n_failed:
            what = "`ingestctl failed` says why; mend the cause, then `ingestd requeue --all`"
            yield Level.WARNING, f"{n_failed} entries were given up", what


def _store(settings: Settings) -> Iterator[_Found]:
    if settings.storage.kind == "directory" and not os.path.isdir(
        os.path.join(settings.storage.directory, settings.minio.bucket_raw_iq)
    ):
        yield _ok(f"{settings.storage.directory} has no bucket yet; the daemon makes it at its first start")
        return
    with contextlib.closing(open_store(settings)) as store:
        try:
            # The bucket is the daemon's to make: a misspelt name must not leave one behind.
            profile = store.probe(make_bucket=False)
            took_s, put_s = _round_trip(store)
        except StoreError as error:
            yield Level.PROBLEM, f"{store.endpoint}: {error}", _store_advice(error)
            return
        yield _ok(
            f"{store.endpoint}: put, get and delete in {took_s * 1000:.0f} ms; "
            f"checksum {profile.checksum}, conflict check {profile.conflict_check}"
        )
        yield from _distance(settings, put_s)
        if profile.checksum == "none":
            yield (
                Level.WARNING,
                "the store checks no checksum on upload",
                "take a store that does, or check with `ingestd verify --deep`",
            )
        if profile.needs_identity_lock:
            what = "let no other daemon write to this bucket"
            yield Level.WARNING, "the store has no conditional PUT (If-None-Match)", what


def _distance(settings: Settings, put_s: float) -> Iterator[_Found]:
    """Whether the uploads that may be under way hide the time that the store takes to answer."""
    n_uploads = settings.uploader.count * settings.uploader.threads
    # Two objects a frame, one after the other; a longer body only takes longer.
    frames_per_s = n_uploads / (2 * max(put_s, 1e-6))
    if frames_per_s < _FEW_FRAMES_PER_S:
        what = "raise uploader.threads if the nodes send more (`ingestd check-config` says what memory it may take)"
        text = f"a put takes {put_s * 1000:.0f} ms: {n_uploads} uploads at a time are at most {frames_per_s:.1f} frames/s"
        yield Level.WARNING, text, what


def _round_trip(store: ObjectStore) -> tuple[float, float]:
    """Put an object of our own, read it, delete it: all of it, and the put alone [s]."""
    began_s = time.monotonic()
    key, data = f".ingestd/doctor-{secrets.token_hex(8)}", os.urandom(4096)
    store.put(key, Body((data,), crc32c(data)))
    put_s = time.monotonic() - began_s
    try:
        if store.get(key, len(data)) != data:
            raise StoreError(f"{key}: what comes back is not what was put")
    finally:
        store.delete(key)
    if store.head(key) is not None:
        raise StoreError(f"{key}: it is still there after its deletion")
    return time.monotonic() - began_s, put_s


def _store_advice(error: StoreError) -> str:
    return {
        "StoreUnreachable": "start the store, or mend the way to it; nothing is lost meanwhile",
        "StoreBusy": "relieve it, or give it more room",
        "StoreDenied": "check minio.access_key, minio.secret_key and their rights: get, put, delete and list",
        "StoreMisconfigured": "check minio.url and minio.bucket_raw_iq; the daemon makes a missing bucket at its start",
    }.get(type(error).__name__, "see the log of the store")


#: By name, in the order in which they are run: what is quick and near first.
CHECKS: dict[str, Check] = {
    "settings": _settings,
    "keys": _keys,
    "spool": _spool,
    "disk": _disk,
    "sockets": _sockets,
    "limits": _limits,
    "clock": _clock,
    "store": _store,
}
