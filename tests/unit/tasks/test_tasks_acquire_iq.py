"""`save_measurements_to_minio` on the embedded directory store, in the environment of a script."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from ingestd.storage.minio_client import MinIOClient
from ingestd.testing.stores import WeakStore

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


def test_eight_threads_on_a_weak_store_keep_all_contents(tmp_path):
    store = WeakStore(between=lambda: threading.Event().wait(0.002))
    client = MinIOClient.of_store(store, lock_directory=str(tmp_path / "locks"))
    results = []

    def upload(value):
        results.append(client.upload_iq_data([complex(value, 0)] * 4, "raced", 1, {}))

    threads = [threading.Thread(target=upload, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(success for success, _ in results)
    assert len({path for _, path in results}) == 8
    assert len(client.get_session_measurements("raced")[1]["copies"]) == 7
