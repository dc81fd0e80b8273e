"""Frames to push: made once, then only identity and sequence are patched in place, so that sending costs no packing."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass

import msgpack
import numpy as np

from ingestd.formats.measurement import Identity, object_keys

__all__ = ["FrameMaker", "FramePlan", "npy_object"]

#: Digits of the session's number in a task id: of fixed width, so that it can be patched.
_DIGITS = 8

#: An integer that msgpack writes in five bytes: place for any sequence number.
_NARROW = 2**31 + 1


@dataclass(frozen=True, slots=True)
class FramePlan:
    """What the frames of a run are like.

    Parameters
    ----------
    run
        Begins every task id; frames of different runs never meet.
    n_samples
        Of a frame [samples]; 8 bytes each.
    nodes
        Senders; frame `k` is that of node `k % nodes` in session `k // nodes`.
    figures
        Whether the node sends the three quality figures.
    """

    run: str
    n_samples: int = 125_000
    nodes: int = 7
    figures: bool = True

    def task_id(self, k: int) -> str:
        """Session of frame `k`."""
        return f"{self.run}-{k // self.nodes:0{_DIGITS}d}"

    def keys(self, k: int) -> tuple[str, str]:
        """Keys of the two objects of frame `k`."""
        keys = object_keys(Identity(self.task_id(k), k % self.nodes + 1, None))
        return keys.npy, keys.metadata

    def samples(self) -> bytes:
        """Noise at -17 dBFS, the same in every frame: nobody on the way looks for repetitions."""
        rng = np.random.default_rng(0)
        pairs = rng.standard_normal((self.n_samples, 2), dtype=np.float32) * np.float32(0.1)
        return pairs.tobytes()


class FrameMaker:
    """Frames of a plan in a few buffers that are written again and again.

    Parameters
    ----------
    plan
        What they are like.
    epoch
        Of the sender.
    """

    def __init__(self, plan: FramePlan, epoch: int) -> None:
        self._plan = plan
        self._epoch = epoch
        self._payload = plan.samples()
        self._heads = [self._head(node) for node in range(plan.nodes)]

    def _head(self, node: int) -> tuple[bytes, int, int, int]:
        """Everything before the samples, and the offsets of session number, sequence and stamp."""
        task_id = self._plan.task_id(0)
        fields = {
            "task_id": task_id,
            "websdr_id": node + 1,
            "frequency_mhz": 0.0775,
            "sample_rate_hz": 12001.1321,
            "timestamp_ns": time.time_ns(),
            "node": f"node-{node + 1}",
            "epoch": self._epoch,
            "seq": _NARROW,
        }
        if self._plan.figures:
            fields["metrics"] = {"snr_db": 12.26, "frequency_offset_hz": 0.01, "power_dbm": -71.5}
        packer = msgpack.Packer()
        head = packer.pack_map_header(len(fields) + 1)
        head += b"".join(packer.pack(name) + packer.pack(value) for name, value in fields.items())
        head += packer.pack("iq_data") + b"\xc6" + len(self._payload).to_bytes(4, "big")
        return (
            head,
            head.index(task_id.encode()) + len(task_id) - _DIGITS,
            head.index(packer.pack("seq")) + 5,
            head.index(packer.pack("timestamp_ns")) + 14,
        )

    def buffer(self, node: int) -> bytearray:
        """A new buffer with a frame of a node, to be patched before each use."""
        return bytearray(self._heads[node][0]) + self._payload

    def patch(self, buffer: bytearray, k: int) -> None:
        """Make a buffer the frame `k`; it is one of the node that sends it."""
        session, node = divmod(k, self._plan.nodes)
        _, at_session, at_seq, at_stamp = self._heads[node]
        buffer[at_session : at_session + _DIGITS] = b"%0*d" % (_DIGITS, session)
        struct.pack_into(">I", buffer, at_seq, session)
        struct.pack_into(">Q", buffer, at_stamp, time.time_ns())


def npy_object(samples: bytes) -> bytes:
    """The .npy object of complex64 samples, as NumPy writes it."""
    from io import BytesIO  # noqa: PLC0415 - only rivals need it

    out = BytesIO()
    np.save(out, np.frombuffer(samples, "<c8"))
    return out.getvalue()
