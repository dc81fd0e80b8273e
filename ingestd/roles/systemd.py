"""sd_notify(3): one datagram to the socket that systemd names."""

from __future__ import annotations

import contextlib
import os
import socket

__all__ = ["notify"]


def notify(*assignments: str) -> bool:
    """Tell systemd something, e.g. `notify("READY=1", "STATUS=...")`.

    Returns
    -------
    bool
        Whether there was anyone to tell. A failing datagram is dropped: systemd's own timeouts cover it.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
    ):
        sender.settimeout(1.0)
        sender.sendto("\n".join(assignments).encode(), address)
        return True
    return False
