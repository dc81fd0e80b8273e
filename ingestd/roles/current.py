"""The settings that the daemon runs with, how they are replaced at SIGHUP, and the line that says how it is."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from ingestd import logs
from ingestd.config import Settings
from ingestd.errors import IngestdError
from ingestd.roles.monitor import SAMPLE_S, Monitor
from ingestd.roles.status import StatusBlock, Text

__all__ = ["Current"]

log = structlog.get_logger(__name__)

#: What only a restart can change: the shape of the status block, and where the spool is. Key, and how it is read.
_FIXED: tuple[tuple[str, Callable[[Settings], object]], ...] = (
    ("state_directory", lambda settings: settings.state_directory),
    ("uploader.count", lambda settings: settings.uploader.count),
    ("nodes (their names)", lambda settings: tuple(node.name for node in settings.nodes)),
)


def _store(settings: Settings) -> tuple[object, ...]:
    return settings.storage, settings.minio_url, settings.minio.bucket_raw_iq


class Current:
    """Settings in force.

    Parameters
    ----------
    settings
        Of the start.
    read_settings
        Reads them again; None = never.
    status
        The status block.
    """

    def __init__(
        self, settings: Settings, read_settings: Callable[[], Settings] | None, status: StatusBlock
    ) -> None:
        self.status = status
        self._read = read_settings
        self._started_ns = time.monotonic_ns()
        self._has_other_store = False
        self._take(settings)

    def _take(self, settings: Settings) -> None:
        self.settings = settings
        #: What roles are given.
        self.text = settings.to_bytes().decode()
        self._monitor = Monitor(self.status, settings, self._started_ns)
        self._sampled_s = float("-inf")

    def renew(self) -> bool:
        """Read the settings again; whether there are others now. What is wrong with them is logged, and changes nothing."""
        if self._read is None:
            return False
        try:
            fresh = self._read()
        except IngestdError as error:
            log.error("reload_refused", error=str(error))  # noqa: TRY400 - an expected error has no traceback
            return False
        fixed = [key for key, value in _FIXED if value(fresh) != value(self.settings)]
        if fixed:
            log.error("reload_refused", error=f"only a restart can change {', '.join(fixed)}")
            return False
        if fresh.to_bytes().decode() == self.text:
            log.info("reload_unchanged")
            return False
        self._has_other_store = _store(fresh) != _store(self.settings)
        self._take(fresh)
        logs.configure("supervisor", fresh.log.level, fresh.log.format)
        return True

    def forget_other_store(self) -> None:
        """Before an uploader starts: what the block says of the store of before is not of this one, whose bucket may be made."""
        if self._has_other_store:
            self._has_other_store = False
            for row in self.status.uploaders():
                row.set_text(Text.PROFILE, "")

    def state(self) -> tuple[str, str]:
        """Say what `health` says: the verdict with its reasons, and figures."""
        now_s = time.monotonic()
        if now_s - self._sampled_s >= SAMPLE_S:
            self._sampled_s = now_s
            self._monitor.sample()
        verdict, spool = self._monitor.verdict(), self._monitor.snapshot().spool
        reasons = ", ".join(dict.fromkeys(str(reason.code) for reason in verdict.reasons))
        accepting = "accepting" if verdict.accepting else "not accepting"
        state = f"{verdict.status}{f' ({reasons})' if reasons else ''}, {accepting} on {self.settings.ingest.endpoint}"
        return state, f"{spool.entries} entries wait ({spool.bytes / 1e6:.1f} MB)"

    def line(self) -> str:
        """Say the same in one line."""
        return ", ".join(self.state())
