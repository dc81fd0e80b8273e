"""The script that a user would write instead: msgpack, np.save, a process pool, two put_object. It loses what it holds.

Only what a benchmark needs was added to it: its order, and the word that it is ready.
"""

from __future__ import annotations

import functools
import io
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import minio
import msgpack
import numpy as np
import zmq

from ingestd.testing.bench.rivals.order import read_order, ready

__all__ = ["main"]


@functools.cache
def _client() -> minio.Minio:
    return minio.Minio(
        urlsplit(os.environ["MINIO_URL"]).netloc,
        access_key=os.environ["MINIO_ACCESS_KEY"],
        secret_key=os.environ["MINIO_SECRET_KEY"],
        secure=False,
    )


def _upload(key: str, npy: bytes, metadata: dict[str, Any]) -> None:
    bucket = os.environ["MINIO_BUCKET_RAW_IQ"]
    _client().put_object(bucket, f"{key}.npy", io.BytesIO(npy), len(npy))
    document = json.dumps(metadata).encode()
    _client().put_object(bucket, f"{key}_metadata.json", io.BytesIO(document), len(document))


def main() -> int:
    """Take frames until killed."""
    order = read_order()
    socket = zmq.Context().socket(zmq.PULL)
    socket.bind(order["endpoint"])
    with ProcessPoolExecutor(order["workers"]) as pool:
        ready()
        while True:
            frame = msgpack.unpackb(socket.recv())
            samples = np.frombuffer(frame.pop("iq_data"), np.complex64)
            npy = io.BytesIO()
            np.save(npy, samples)
            key = f"sessions/{frame['task_id']}/websdr_{frame['websdr_id']}"
            pool.submit(_upload, key, npy.getvalue(), frame | {"samples_count": len(samples)})


if __name__ == "__main__":
    sys.exit(main())
