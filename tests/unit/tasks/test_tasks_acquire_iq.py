"""`save_measurements_to_minio` on the embedded directory store, in the environment of a script."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json
from ingestd.tasks.acquire_iq import save_measurements_to_minio

good = {"websdr_id": 1, "iq_data": [1 + 1j, 2 + 0j], "frequency_mhz": 145.5}
print(json.dumps([
    save_measurements_to_minio("t", [good]),
    save_measurements_to_minio("t", []),
    save_measurements_to_minio("t", [{"websdr_id": 2}, "no dictionary"]),
]))
"""


def test_statuses_follow_what_was_stored(tmp_path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("INGESTD_", "MINIO_"))}
    environ = clean | {"INGESTD_STATE_DIRECTORY": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environ, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    success, nothing, failure = json.loads(done.stdout)
    assert success["status"] == "SUCCESS"
    assert success["stored_measurements"] == [
        {
            "websdr_id": 1,
            "s3_path": "s3://heimdall-raw-iq/sessions/t/websdr_1.npy",
            "samples_count": 2,
            "status": "SUCCESS",
        }
    ]
    assert Path(tmp_path, "objects", "heimdall-raw-iq", "sessions", "t", "websdr_1_metadata.json").is_file()
    assert (nothing["status"], nothing["measurements_count"]) == ("FAILED", 0)
    assert (failure["status"], failure["failed"]) == ("FAILED", 2)
    assert failure["failed_measurements"][0]["websdr_id"] == 2
