"""Where and with what a benchmark ran: figures without that say nothing."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import mmap
import os
import platform
import re
from typing import Any

import zmq

from ingestd import __version__

__all__ = ["about"]

#: Where Go writes into a binary what it was built from (runtime/debug.BuildInfo).
_GO_MODULE = re.compile(rb"mod\tgithub\.com/minio/minio\t([0-9A-Za-z.+-]{1,80})")


def about(directory: str, minio_binary: str, rounds: int, *, short: bool) -> dict[str, Any]:
    """Head of a results file: when, where, with what and how long.

    Parameters
    ----------
    directory
        On the file system that is measured.
    minio_binary
        The store.
    rounds, short
        As asked for.
    """
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": _machine(directory),
        "versions": _versions(minio_binary),
        "short": short,
        "rounds": rounds,
    }


def _machine(directory: str) -> dict[str, Any]:
    """Processor, cores, memory, kernel, the file system of a directory, and what else was running."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "file_system": _file_system(directory),
        "load_average": os.getloadavg(),
    }


def _versions(minio_binary: str) -> dict[str, str]:
    """Of everything that is measured or measures; "" where it is not installed."""
    found = {"ingestd": __version__, "python": platform.python_version(), "libzmq": zmq.zmq_version()}
    for name in ("pyzmq", "minio", "boto3", "numpy", "msgpack"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    found["minio server"] = _minio_version(minio_binary)
    return found


def _minio_version(binary: str) -> str:
    """Version of the module that the server was built from; its own `--version` says the same of every such build."""
    with open(binary, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = _GO_MODULE.search(content)
        # A match reads from what it was found in, which is closed below.
        return found[1].decode() if found else ""


def _field(path: str, name: str) -> str:
    with open(path, encoding="utf-8") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""


def _file_system(directory: str) -> str:
    """Type of the mount that a directory is on."""
    best = ("", "")
    real = os.path.realpath(directory)
    with open("/proc/mounts", encoding="utf-8") as file:
        for line in file:
            _, point, kind, *_ = line.split()
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best[0]):
                best = (point, kind)
    return best[1]
