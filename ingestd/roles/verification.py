"""The catalog's word held to the store, and what differs put right from kept copies: `ingestd verify`.

What is said to be stored is read from the catalog; size and checksum of the .npy are in its metadata document, and the
metadata object's bytes are a pure function of that document. So a lost metadata object can always be made again; a lost
.npy only from the entry, where `spool.retain_s` has kept it.
"""

from __future__ import annotations

import base64
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ingestd.catalog import Catalog
from ingestd.catalog.truth import StoredRow
from ingestd.config import Settings
from ingestd.errors import FrameError, StoreBusy, StoreCorrupt, StoreError, StoreMisconfigured, StoreRefused
from ingestd.formats import frame as wire
from ingestd.formats import metadata, npy
from ingestd.formats.checksum import crc32c
from ingestd.formats.measurement import content_crc, object_keys
from ingestd.roles.book import catalog_path
from ingestd.spool import EntryName, SpoolLayout
from ingestd.storage.factory import open_store
from ingestd.storage.locks import IdentityLocks
from ingestd.storage.port import Body, ObjectStore
from ingestd.storage.verify import ClaimedObject, ClaimedPair, Damage, Finding, check_pair

__all__ = ["Checked", "Repairer", "VerifyReport", "check_row", "claimed_pair", "verify"]

_T = TypeVar("_T")

#: A busy store is asked so often about one pair [count], with a pause in between [s].
_BUSY_TRIES, _BUSY_PAUSE_S = 5, 1.0


@dataclass(slots=True)
class VerifyReport:
    """What was looked at and what was found, in pairs and objects."""

    checked: int = 0
    of: int = 0
    missing: int = 0
    differing: int = 0
    unreadable: int = 0
    repaired: int = 0

    @property
    def found(self) -> int:
        """Objects that were not what they are said to be."""
        return self.missing + self.differing + self.unreadable

    @property
    def left(self) -> int:
        """Objects that still are not."""
        return self.found - self.repaired

    def add(self, damage: Damage) -> None:
        """Count one finding."""
        if damage is Damage.MISSING:
            self.missing += 1
        elif damage is Damage.DIFFERS:
            self.differing += 1
        else:
            self.unreadable += 1

    def line(self) -> str:
        """For people."""
        return (
            f"{self.checked} pairs checked: {self.missing} objects missing, {self.differing} different, "
            f"{self.unreadable} unreadable; {self.repaired} repaired"
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """One finding and what was done about it; `repaired` is None where nothing was tried."""

    entry: str
    finding: Finding
    repaired: bool | None = None
    why_not: str = ""


def claimed_pair(row: StoredRow) -> ClaimedPair | None:
    """What a row says of its two objects; None where its document does not say it (a row of a foreign writer)."""
    size_bytes, crc = row.document.get("size_bytes"), _npy_crc32c(row.document)
    if type(size_bytes) is not int or crc is None:
        return None
    try:
        encoded = metadata.encode(row.document)
    except ValueError:
        # JSON of a foreign writer may hold NaN.
        return None
    keys = object_keys(row.identity, row.copy)
    return ClaimedPair(
        keys,
        ClaimedObject(keys.npy, size_bytes, crc, row.etag),
        ClaimedObject(keys.metadata, len(encoded), crc32c(encoded)),
        encoded,
    )


def _npy_crc32c(document: dict[str, Any]) -> int | None:
    """Checksum of the .npy as its document gives it; None where it gives none."""
    encoded = document.get("crc32c")
    if not isinstance(encoded, str):
        return None
    with contextlib.suppress(ValueError):
        crc_bytes = base64.b64decode(encoded, validate=True)
        return int.from_bytes(crc_bytes, "big") if len(crc_bytes) == 4 else None
    return None


class Repairer:
    """Puts objects back, .npy first; never over another measurement that has taken the name.

    Parameters
    ----------
    settings
        Of the daemon; it may run meanwhile.
    store
        Where to.
    """

    def __init__(self, settings: Settings, store: ObjectStore) -> None:
        self._layout = SpoolLayout(settings.state_directory)
        self._locks = IdentityLocks(os.path.join(settings.state_directory, "locks"))
        self._store = store

    def repair(self, row: StoredRow, pair: ClaimedPair, findings: list[Finding]) -> dict[str, str]:
        """Repair what can be repaired of one pair; returns why not, by key, "" where it was done and seen to be.

        Raises
        ------
        StoreError
            The store fails altogether.
        """
        damaged = {finding.key: finding.damage for finding in findings}
        outcome: dict[str, str] = {}
        with self._locks.hold(row.identity):
            if self._is_anothers(row, pair):
                return dict.fromkeys(damaged, "another measurement has the name")
            if pair.npy.key in damaged:
                body, why_not = self._kept(row, pair)
                if body is not None:
                    why_not = self._put(pair.npy, body, damaged[pair.npy.key])
                outcome[pair.npy.key] = why_not
            if pair.metadata.key in damaged:
                if outcome.get(pair.npy.key):
                    # Metadata says that its .npy is there: it is not put back alone.
                    outcome[pair.metadata.key] = "its .npy cannot be repaired"
                else:
                    body = Body((pair.document,), pair.metadata.crc32c, "application/json")
                    outcome[pair.metadata.key] = self._put(pair.metadata, body, damaged[pair.metadata.key])
        return outcome

    def _is_anothers(self, row: StoredRow, pair: ClaimedPair) -> bool:
        """Whether the metadata object there, the commit marker, is a whole one of other content.

        Replaced objects are no damage: the row of a newer entry may come a moment after its objects, and a bucket may
        have other writers.
        """
        try:
            there = metadata.decode(self._store.get(pair.metadata.key, metadata.MAX_DOCUMENT_BYTES) or b"")
        except StoreMisconfigured:
            raise
        except StoreError:
            return False
        crc = _npy_crc32c(there)
        return crc is not None and content_crc(crc, *metadata.content(there)) != content_crc(
            pair.npy.crc32c, *metadata.content(row.document)
        )

    def _put(self, claimed: ClaimedObject, body: Body, damage: Damage) -> str:
        taken = False
        try:
            if damage is Damage.MISSING:
                taken = not self._store.put_new(claimed.key, body).created
            else:
                self._store.put(claimed.key, body)
            info = self._store.head(claimed.key)
            if info is not None and self._store.same(info, body):
                return ""
        except (StoreCorrupt, StoreRefused) as error:
            return str(error)
        return "something else has the name by now" if taken else "the store did not keep it"

    def _kept(self, row: StoredRow, pair: ClaimedPair) -> tuple[Body | None, str]:
        """The .npy made again from the retained entry, and why not."""
        name = EntryName.parse(row.name)
        if name is None:
            return None, "its entry is not known (the row was made from the bucket)"
        try:
            with open(os.path.join(self._layout.retained, row.name), "rb") as file:
                frame = file.read()
        except OSError as error:
            return (
                None,
                f"no copy of its entry was kept in spool/retained ({error.strerror}; see spool.retain_s)",
            )
        if crc32c(frame) != name.crc32c:
            return None, "the kept copy of its entry is damaged itself"
        try:
            made = npy.encode(wire.parse(frame))
        except FrameError as error:
            return None, f"the kept copy of its entry cannot be read: {error}"
        if made.crc32c != pair.npy.crc32c:
            return None, "the kept copy of its entry has other samples"
        return Body(made.parts(), made.crc32c), ""


def verify(
    settings: Settings,
    *,
    since_ns: int = 0,
    deep: bool = False,
    repair: bool = False,
    tell: Callable[[Checked], None] = lambda _checked: None,
    progress: Callable[[VerifyReport], None] = lambda _report: None,
) -> VerifyReport:
    """Hold every stored row to its objects.

    Parameters
    ----------
    settings
        Of the daemon, which may run or not.
    since_ns
        Only what was stored at this time or later [ns since 1970].
    deep
        Whether to read the bytes of every object.
    repair
        Whether to put back what is missing or differs.
    tell
        Called with every finding.
    progress
        Called after every pair.

    Raises
    ------
    StoreError
        The store cannot be asked; nothing is said about the objects then.
    CatalogError
        There is no catalog to ask.
    """
    report = VerifyReport()
    path = catalog_path(settings.state_directory)
    with (
        contextlib.closing(open_store(settings)) as store,
        Catalog.open(path, readonly=True, bucket=store.bucket, busy_timeout_s=5.0) as opened,
    ):
        _patiently(lambda: store.probe(make_bucket=False))
        repairer = Repairer(settings, store) if repair else None
        report.of = opened.stored_count(since_ns)
        for row in opened.stored_rows(since_ns=since_ns):
            for checked in _check(store, opened, row, repairer, deep=deep):
                report.add(checked.finding.damage)
                report.repaired += bool(checked.repaired)
                tell(checked)
            report.checked += 1
            progress(report)
    return report


def _check(
    store: ObjectStore, opened: Catalog, row: StoredRow, repairer: Repairer | None, *, deep: bool
) -> list[Checked]:
    pair, findings = claimed_pair(row), check_row(store, opened, row, deep=deep)
    if not findings or pair is None or repairer is None:
        return [Checked(row.name, finding) for finding in findings]
    outcome = _patiently(lambda: repairer.repair(row, pair, findings))
    return [
        Checked(row.name, finding, not outcome[finding.key], outcome[finding.key]) for finding in findings
    ]


def check_row(store: ObjectStore, opened: Catalog, row: StoredRow, *, deep: bool = False) -> list[Finding]:
    """Hold one row to its objects.

    Parameters
    ----------
    store, opened
        Store, and the catalog that the row is from.
    row
        As read, perhaps a while ago.
    deep
        Whether to read the bytes.

    Raises
    ------
    StoreError
        The store cannot be asked.
    """
    pair = claimed_pair(row)
    if pair is None:
        keys = object_keys(row.identity, row.copy)
        return [Finding(keys.npy, Damage.UNREADABLE, "its row does not say what it should be")]
    findings = _findings(store, pair, deep=deep)
    # What another entry has replaced since the row was read is not missed.
    return findings if findings and opened.is_still_stored(row) else []


def _findings(store: ObjectStore, pair: ClaimedPair, *, deep: bool) -> list[Finding]:
    try:
        return _patiently(lambda: check_pair(store, pair, deep=deep))
    except StoreMisconfigured:
        raise
    except StoreError:
        # One rotten object must not end the search for others; a store that fails altogether must.
        store.check()
        return check_pair(store, pair, deep=deep, insist=True)


def _patiently(ask: Callable[[], _T]) -> _T:
    """Ask again where the store is only busy."""
    for _ in range(_BUSY_TRIES - 1):
        with contextlib.suppress(StoreBusy):
            return ask()
        time.sleep(_BUSY_PAUSE_S)
    return ask()
