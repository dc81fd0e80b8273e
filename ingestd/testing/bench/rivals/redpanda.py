"""`redpanda-connect` with a configuration of ours: `zmq4` in, two objects out, as many at once as we have threads."""

from __future__ import annotations

import json
import os
import sys

from ingestd.testing.bench.frames import FramePlan, npy_object
from ingestd.testing.bench.rivals.order import read_order, ready

__all__ = ["config", "main"]


def config(endpoint: str, npy_header: bytes) -> dict[str, object]:
    """What it is told; YAML is a superset of the JSON that it is written as."""
    key = "sessions/${! @task_id }/websdr_${! @websdr_id }"
    s3 = {
        "bucket": os.environ["MINIO_BUCKET_RAW_IQ"], "endpoint": os.environ["MINIO_URL"], "region": "us-east-1",
        "force_path_style_urls": True, "max_in_flight": 8,
        "credentials": {"id": os.environ["MINIO_ACCESS_KEY"], "secret": os.environ["MINIO_SECRET_KEY"]},
    }  # fmt: skip
    fields = """
        meta task_id = this.task_id
        meta websdr_id = this.websdr_id
        meta iq = this.iq_data
        root = this.without("iq_data")
    """
    npy = f'root = "{npy_header.hex()}".decode("hex").bytes() + @iq.bytes()'
    samples = {
        "processors": [{"mutation": npy}],
        "aws_s3": {**s3, "path": f"{key}.npy"},
    }
    return {
        "input": {"zmq4": {"urls": [endpoint], "bind": True, "socket_type": "PULL"}},
        "pipeline": {"processors": [{"msgpack": {"operator": "to_json"}}, {"mapping": fields}]},
        "output": {
            "broker": {
                "pattern": "fan_out_sequential",
                "outputs": [samples, {"aws_s3": {**s3, "path": f"{key}_metadata.json"}}],
            }
        },
    }


def main() -> int:
    """Become it."""
    order = read_order()
    samples = FramePlan(**order["plan"]).samples()
    path = os.path.join(order["directory"], "connect.yaml")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config(order["endpoint"], npy_object(samples)[: -len(samples)]), file)
    # It binds a moment later; the pusher connects again until it does.
    ready()
    os.execlp("redpanda-connect", "redpanda-connect", "run", path)  # noqa: S606, S607 - whichever is on PATH


if __name__ == "__main__":
    sys.exit(main())
