"""How a rival is told what to do, and says that it is ready."""

from __future__ import annotations

import json
import os
import sys
from typing import Any
from urllib.parse import urlsplit

__all__ = ["read_order", "ready", "store_address"]


def read_order() -> dict[str, Any]:
    """The order of whoever started this process."""
    order: dict[str, Any] = json.loads(sys.stdin.readline())
    return order


def ready() -> None:
    """Everything is bound; frames may come."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def store_address() -> tuple[str, int]:
    """Host and port of the store."""
    parts = urlsplit(os.environ["MINIO_URL"])
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port
