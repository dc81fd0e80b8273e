"""A machine in namespaces: an overlay of a root directory with systemd as PID 1."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingestd.errors import Unavailable

__all__ = ["Report", "boot", "enter", "why_not"]

#: The whole job takes half a minute; slow machines get this long [s].
_TIMEOUT_S = 300.0

_SYSTEMD = "/lib/systemd/systemd"

_PROJECT = Path(__file__).resolve().parents[3]

#: Devices of the machine, bound from this one.
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

#: Settings of the machine's daemon: all defaults, but a disk that is a small tmpfs.
CONFIG = "state_directory: /var/lib/ingestd\nspool: {min_free_bytes: 0}\nuploader: {count: 2}\n"

_JOB_UNIT = """\
[Unit]
Description=What an operator does with ingestd
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/opt/ingestd/bin/python -m ingestd.testing.sandbox.job /out
StandardOutput=append:/out/job.log
StandardError=append:/out/job.log
ExecStopPost=/bin/sh -c 'journalctl --no-pager --output=cat > /out/systemd.log'
ExecStopPost=/bin/systemctl --no-block poweroff
"""


#: The words of the daemon go where they outlive the machine. An interpreter that was built with a shared library looks for
#: it where it was built, perhaps in a home that the unit cannot see.
_DROP_IN = """\
[Service]
StandardError=append:/out/daemon.log
Environment=LD_LIBRARY_PATH=/opt/python/lib
"""


@dataclass(frozen=True, slots=True)
class Report:
    """Steps of the job, in order, and the end of the machine's log."""

    steps: tuple[dict[str, Any], ...]
    log: str

    @property
    def clean(self) -> bool:
        """Whether the job came to its end, and every step did what it should."""
        return bool(self.steps) and self.steps[-1]["step"] == "end" and all(step["ok"] for step in self.steps)


def _command(argv: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.CompletedProcess[Any]:
    """Run a tool of the system."""
    return subprocess.run(argv, **{"check": True, **options})  # noqa: PLW1510, S603 - our own words


def why_not() -> str:
    """Why no machine can be made here; "" where one can."""
    if os.geteuid() != 0:
        return "only root can make a machine"
    missing = [tool for tool in ("unshare", "pivot_root", "mount", "systemctl") if shutil.which(tool) is None]
    if missing or not os.path.exists(_SYSTEMD):
        return f"systemd or util-linux is missing ({', '.join(missing) or _SYSTEMD})"
    with tempfile.TemporaryDirectory() as scratch:
        tried = _command(
            [*_UNSHARE, "sh", "-ec", _PROBE, "sh", scratch],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


_UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--cgroup", "--ipc", "--uts", "--net", "--kill-child")

_PROBE = """
mount -t tmpfs tmpfs "$1"; mkdir "$1/up" "$1/work" "$1/root" "$1/cgroup"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" "$1/root"
mount -t cgroup2 cgroup2 "$1/cgroup"
"""


def boot(root: str = "/") -> Report:
    """Boot a machine over `root`, run the job in it, and wait for its end.

    Raises
    ------
    Unavailable
        It cannot be made here, or did not end in its time.
    """
    reason = why_not()
    if reason:
        raise Unavailable(reason)
    with tempfile.TemporaryDirectory(prefix="ingestd-sandbox-") as scratch, _own_cgroup() as procs:
        out = Path(scratch, "out")
        out.mkdir()
        command = [
            *_UNSHARE,
            sys.executable,
            "-m",
            "ingestd.testing.sandbox",
            "--enter",
            scratch,
            "--root",
            root,
        ]
        # The cgroup namespace begins where its first process is: not at the root of this machine.
        moved = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', procs, *command]
        with open(out / "console.log", "wb") as console:
            try:
                _command(
                    moved,
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    timeout=_TIMEOUT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise Unavailable(f"the machine did not end in {_TIMEOUT_S:g} s:\n{_log_of(out)}") from error
        steps = [json.loads(line) for line in _text(out / "steps.jsonl").splitlines()]
        return Report(tuple(steps), _log_of(out))


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _log_of(out: Path) -> str:
    names = ("console.log", "systemd.log", "job.log", "daemon.log")
    return "".join(f"--- {name}\n{_text(out / name)[-6000:]}\n" for name in names)


@contextlib.contextmanager
def _own_cgroup() -> Iterator[str]:
    """Make a cgroup for the machine; gives the file that takes its first process."""
    with tempfile.TemporaryDirectory() as mounted:
        _command(["mount", "-t", "cgroup2", "cgroup2", mounted])
        own = Path(mounted, f"ingestd-sandbox-{os.getpid()}")
        try:
            own.mkdir()
            yield str(own / "cgroup.procs")
        finally:
            for directory, _, _ in os.walk(own, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
            _command(["umount", mounted], check=False)


def enter(scratch: str, root: str) -> None:
    """First process of the new namespaces: make the machine's root and become its systemd."""
    new = Path(scratch, "machine", "root")
    _mount("--make-rprivate", "/")
    _overlay(Path(scratch, "machine"), root)
    _special_files(new)
    out = Path(scratch, "out")
    _bind(out, new / "out")
    (new / "dev/console").touch()
    if root == "/":
        _place_program(new)
        _place_checkout(new)
    _place_job(new)
    (new / "old").mkdir()
    os.chdir(new)
    _command(["pivot_root", ".", "old"])
    _command(["/bin/umount", "-l", "/old"])
    # systemd leaves this to whoever made the container; credentials reach a unit by propagation.
    _mount("--make-rshared", "/")
    environ = {"container": "other", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    os.execve(  # noqa: S606 - no shell is what is wanted
        _SYSTEMD, [_SYSTEMD, "--system", "--unit=job.service", "--show-status=0"], environ
    )


def _mount(*arguments: str | os.PathLike[str]) -> None:
    _command(["mount", *arguments])


def _bind(source: Path, target: Path) -> None:
    """Make a file or directory of this machine one of the new one."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.touch()
    _mount("--bind", source, target)


def _overlay(machine: Path, root: str) -> None:
    machine.mkdir()
    _mount("-t", "tmpfs", "tmpfs", machine)
    for name in ("upper", "work", "root"):
        (machine / name).mkdir()
    layers = f"lowerdir={root},upperdir={machine / 'upper'},workdir={machine / 'work'}"
    _mount("-t", "overlay", "overlay", "-o", layers, machine / "root")


def _special_files(new: Path) -> None:
    _mount("-t", "proc", "proc", new / "proc")
    # The kernel is that of this machine: a systemd that may would set its variables.
    for variables in (new / "proc/sys", new / "proc/sysrq-trigger"):
        if variables.exists():
            _mount("--bind", variables, variables)
            _mount("-o", "remount,bind,ro", variables)
    _mount("-t", "sysfs", "-o", "ro", "sysfs", new / "sys")
    _mount("-t", "cgroup2", "cgroup2", new / "sys/fs/cgroup")
    for name in ("run", "tmp", "dev"):
        _mount("-t", "tmpfs", "tmpfs", new / name)
    for name in _DEVICES:
        _bind(Path("/dev", name), new / "dev" / name)
    for name in ("shm", "pts"):
        (new / "dev" / name).mkdir()
    _mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", new / "dev/pts")
    (new / "dev/ptmx").symlink_to("pts/ptmx")
    (new / "dev/fd").symlink_to("/proc/self/fd")


def _place_program(new: Path) -> None:
    """Make /opt/ingestd of this very checkout: its interpreter and libraries may be in a home that the unit cannot see."""
    opt = new / "opt"
    _bind(Path(sys.base_prefix), opt / "python")
    _bind(Path(sysconfig.get_paths()["purelib"]), opt / "ingestd-libraries")
    _bind(_PROJECT, opt / "ingestd-source")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = opt / "ingestd/lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (packages / "machine.pth").write_text("/opt/ingestd-source\n/opt/ingestd-libraries\n")
    programs = opt / "ingestd/bin"
    programs.mkdir()
    (opt / "ingestd/pyvenv.cfg").write_text("home = /opt/python/bin\n")
    (programs / "python").symlink_to(f"/opt/python/bin/{version}")
    main = programs / "ingestd"
    main.write_text(
        "#!/opt/ingestd/bin/python\nimport sys\nfrom ingestd.cli.ingestd import main\nsys.exit(main())\n"
    )
    main.chmod(0o755)


def _place_checkout(new: Path) -> None:
    """Leave of this machine's own services none in the new one, and put the unit and the user of this checkout in."""
    units = new / "etc/systemd/system"
    shutil.rmtree(units, ignore_errors=True)
    units.mkdir(parents=True)
    shutil.copy(_PROJECT / "systemd/ingestd.service", units)
    users = new / "etc/sysusers.d"
    users.mkdir(exist_ok=True)
    shutil.copy(_PROJECT / "systemd/ingestd.sysusers.conf", users / "ingestd.conf")
    (new / "etc/ingestd").mkdir(mode=0o750, exist_ok=True)


def _place_job(new: Path) -> None:
    """Put in what the job needs: itself, settings, a secret, and the log where it outlives the machine."""
    units = new / "etc/systemd/system"
    (units / "job.service").write_text(_JOB_UNIT)
    drop_in = units / "ingestd.service.d"
    drop_in.mkdir()
    (drop_in / "machine.conf").write_text(_DROP_IN)
    (new / "etc/ingestd/config.yaml").write_text(CONFIG)
    keys = new / "etc/credstore"
    keys.mkdir(mode=0o700, exist_ok=True)
    secret = keys / "ingestd.minio__secret_key"
    secret.write_text("of-root-alone\n")
    secret.chmod(0o400)
    (new / "etc/machine-id").write_text("")
