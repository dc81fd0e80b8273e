"""The guide's own style: samples as JSON lists, boto3, one request after another."""

from __future__ import annotations

import io
import json
import os
import sys

import boto3
import numpy as np
import zmq

from ingestd.testing.bench.rivals.order import read_order, ready

__all__ = ["main"]


def main() -> int:
    """Take frames until killed."""
    order = read_order()
    client = boto3.client(
        "s3",
        endpoint_url=os.environ["MINIO_URL"],
        aws_access_key_id=os.environ["MINIO_ACCESS_KEY"],
        aws_secret_access_key=os.environ["MINIO_SECRET_KEY"],
        region_name="us-east-1",
    )
    bucket = os.environ["MINIO_BUCKET_RAW_IQ"]
    socket = zmq.Context().socket(zmq.PULL)
    socket.bind(order["endpoint"])
    ready()
    while True:
        frame = json.loads(socket.recv())
        pairs = np.array(frame.pop("iq_data"), dtype=np.float32)
        samples = pairs.view(np.complex64).reshape(-1)
        npy = io.BytesIO()
        np.save(npy, samples)
        key = f"sessions/{frame['task_id']}/websdr_{frame['websdr_id']}"
        client.put_object(Bucket=bucket, Key=f"{key}.npy", Body=npy.getvalue())
        client.put_object(Bucket=bucket, Key=f"{key}_metadata.json", Body=json.dumps(frame).encode())


if __name__ == "__main__":
    sys.exit(main())
