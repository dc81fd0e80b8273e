"""Counts from outside: what was issued against what lies in the bucket, object by object, byte by byte."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ingestd.formats.measurement import Identity, object_keys
from ingestd.storage.port import ObjectStore
from ingestd.testing.torture.sender import Issued

__all__ = ["Findings", "compare"]

#: Longest object that was sent [bytes], with room to spare.
_MAX_BYTES = 2**24


@dataclass(slots=True)
class Findings:
    """What is wrong in the bucket; all empty is as it must be.

    `lost`: issued and confirmed, but the pair is not whole. `torn`: an object with other bytes than were issued, or one
    that cannot be read. `lonely`: metadata without its `.npy`. `conflicting`: a second content under one identity.
    `unknown`: objects that nobody issued.
    """

    lost: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    lonely: list[str] = field(default_factory=list)
    conflicting: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    n_stored: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.torn or self.lonely or self.conflicting or self.unknown)


def compare(issued: Iterable[Issued], store: ObjectStore) -> Findings:
    """Hold the bucket to the ledger."""
    findings = Findings()
    there = {info.key for info in store.list("sessions/")}
    for one in issued:
        keys = object_keys(Identity(one.task_id, one.websdr_id, None))
        present = {keys.npy, keys.metadata} & there
        there -= present
        if keys.npy in present:
            torn = _npy_fault(store, keys.npy, one)
            findings.torn += [torn] if torn else []
        if keys.metadata in present:
            torn = _metadata_fault(store, keys.metadata, one)
            findings.torn += [torn] if torn else []
            if keys.npy not in present:
                findings.lonely.append(keys.metadata)
        if len(present) == 2:
            findings.n_stored += 1
        else:
            findings.lost.append(keys.npy)
    # A kept conflict has the checksum of its content before the suffix.
    for key in sorted(there):
        is_copy = key.rpartition("/")[2].count(".") > 1
        (findings.conflicting if is_copy else findings.unknown).append(key)
    return findings


def _npy_fault(store: ObjectStore, key: str, issued: Issued) -> str:
    content = store.get(key, _MAX_BYTES)
    if content is None:
        return f"{key}: listed, but not there"
    try:
        # By numpy, not by our own reader: the oracle stands outside.
        samples = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        return f"{key}: {error}"
    digest = hashlib.sha256(samples.tobytes()).hexdigest()
    return "" if digest == issued.sha256 else f"{key}: other samples than were issued"


def _metadata_fault(store: ObjectStore, key: str, issued: Issued) -> str:
    content = store.get(key, _MAX_BYTES)
    if content is None:
        return f"{key}: listed, but not there"
    try:
        document = json.loads(content)
    except ValueError as error:
        return f"{key}: {error}"
    said = (document["task_id"], document["websdr_id"], document["timestamp_ns"], document["sample_rate_hz"])
    wanted = (issued.task_id, issued.websdr_id, issued.timestamp_ns, issued.sample_rate_hz)
    return "" if said == wanted else f"{key}: says {said}, issued was {wanted}"
