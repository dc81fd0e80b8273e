"""A store that turns down one request in three (F16)."""

import time

import pytest

from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.fault_proxy import Fault, FaultProxy
from ingestd.testing.frames import noise
from ingestd.testing.minio_server import MinioServer

N_FRAMES = 1000
N_COUNTED = 900


def rate(directory, minio_binary, share_busy):
    """Pairs/s through the proxy while there is work for all threads: the last tenth waits for its backoffs."""
    (directory / "minio").mkdir(parents=True)
    with (
        MinioServer(directory / "minio", minio_binary) as server,
        FaultProxy(server.port, seed=1, rates={Fault.BUSY: share_busy}) as proxy,
    ):
        environ = server.environment() | {"MINIO_URL": proxy.url}
        settings = {"spool": {"min_free_bytes": 0}, "uploader": {"quality": "none"}}
        with DaemonProcess(directory / "daemon", settings, environ) as daemon:
            frames = [noise(f"busy-{i}", n_samples=20_000, seed=i) for i in range(N_FRAMES)]
            began_s = time.monotonic()
            daemon.push(*frames)
            daemon.wait_stored(N_COUNTED, 120)
            elapsed_s = time.monotonic() - began_s
            assert daemon.wait_settled()["stored"] == N_FRAMES
    return N_COUNTED / elapsed_s, proxy.counts


@pytest.mark.minio
@pytest.mark.slow
@pytest.mark.quiet
@pytest.mark.timeout(400)
def test_goodput_under_thirty_percent_503_is_at_least_sixty_percent(tmp_path, minio_binary):
    ratios = []
    # Twice at most: one run on a machine that does something else says little.
    for attempt in range(2):
        clean, _ = rate(tmp_path / f"clean-{attempt}", minio_binary, 0.0)
        busy, counts = rate(tmp_path / f"busy-{attempt}", minio_binary, 0.3)
        n_requests = sum(counts.values())
        assert 0.27 < counts["busy"] / n_requests < 0.33
        # Whoever asks again without end would store as quickly, at the store's cost.
        assert n_requests < 2 * N_FRAMES * 2.2
        ratios.append(busy / clean)
        if ratios[-1] >= 0.6:
            return
    pytest.fail(f"goodput was {ratios} of the clean rate")
