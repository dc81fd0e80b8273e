"""The function of the user's guide that stores what an acquisition brought, without a daemon."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ingestd import config
from ingestd.formats.loose import samples_of
from ingestd.storage.factory import open_store
from ingestd.storage.minio_client import MinIOClient

__all__ = ["save_measurements_to_minio"]


def save_measurements_to_minio(task_id: str, measurements: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Store the measurements of one session where the settings say (MinIO, or the directory store).

    Parameters
    ----------
    task_id
        Session.
    measurements
        Dictionaries with `websdr_id`, `iq_data` (array, bytes, list of complex or of [re, im] pairs), and any key of
        a frame; others go to `extras`.

    Returns
    -------
    dict
        `status` (SUCCESS, PARTIAL_FAILURE or FAILED), `message`, `measurements_count`, `successful`, `failed`,
        `stored_measurements` ([{websdr_id, s3_path, samples_count, status}]), `failed_measurements` ([{websdr_id,
        error, status}]).

    Raises
    ------
    ConfigError
        The settings are wrong or incomplete.
    """
    stored: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    # Read now and not at import: a task's environment may be set after its module was loaded.
    settings = config.settings
    client = MinIOClient.of_store(
        open_store(settings),
        on_conflict=settings.storage.on_conflict,
        figures=settings.uploader.quality,
        sha256=settings.storage.sha256,
        lock_directory=os.path.join(settings.state_directory, "locks"),
    )
    try:
        for measurement in measurements:
            _save(client, task_id, measurement, stored, failed)
    finally:
        client.close()
    return _response(len(measurements), stored, failed)


def _save(
    client: MinIOClient,
    task_id: str,
    measurement: object,
    stored: list[dict[str, Any]],
    failed: list[dict[str, Any]],
) -> None:
    if not isinstance(measurement, Mapping):
        failed.append({"websdr_id": None, "error": "a measurement must be a dictionary", "status": "FAILED"})
        return
    websdr_id: Any = measurement.get("websdr_id")
    iq_data = measurement.get("iq_data")
    metadata = {
        name: value for name, value in measurement.items() if name not in ("websdr_id", "iq_data", "task_id")
    }
    success, told = client.upload_iq_data(iq_data, task_id, websdr_id, metadata)
    if success:
        count = len(samples_of(iq_data))
        stored.append({"websdr_id": websdr_id, "s3_path": told, "samples_count": count, "status": "SUCCESS"})
    else:
        failed.append({"websdr_id": websdr_id, "error": told, "status": "FAILED"})


def _response(count: int, stored: list[dict[str, Any]], failed: list[dict[str, Any]]) -> dict[str, Any]:
    status = "FAILED" if not stored else "PARTIAL_FAILURE" if failed else "SUCCESS"
    return {
        "status": status,
        "message": f"{len(stored)} of {count} measurements stored",
        "measurements_count": count,
        "successful": len(stored),
        "failed": len(failed),
        "stored_measurements": stored,
        "failed_measurements": failed,
    }
