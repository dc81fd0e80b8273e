"""A real MinIO behind TLS: trusted by the given authority, and an alarm, never a way around, where it is not."""

import contextlib
import socket
import threading

import pytest

from ingestd.formats import frame as wire
from ingestd.storage.minio import MinioStore
from ingestd.testing.certificates import make_authority
from ingestd.testing.daemon_process import DaemonProcess, pusher
from ingestd.testing.frames import noise
from ingestd.testing.minio_server import MinioServer
from ingestd.testing.waiting import free_port, wait_until

pytestmark = pytest.mark.minio


@pytest.fixture(scope="module")
def authorities(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    return {name: make_authority(directory, name) for name in ("ours", "strangers")}


def server_of(authority, directory, binary, port=None):
    return MinioServer(directory, binary, port=port, certs_directory=authority.certs_directory)


def daemon_for(server, authority, directory, bucket):
    settings = {
        "uploader": {"count": 1},
        "spool": {"min_free_bytes": 0},
        "minio": {"ca_file": authority.ca_file, "bucket_raw_iq": bucket},
    }
    return DaemonProcess(directory, settings, environ=server.environment())


def test_frames_are_stored_over_https_with_the_given_authority(authorities, minio_binary, tmp_path, bucket):
    ours = authorities["ours"]
    with server_of(ours, tmp_path / "minio", minio_binary) as server:
        assert server.url.startswith("https://")
        with daemon_for(server, ours, tmp_path / "daemon", bucket) as daemon:
            daemon.push(noise("over-tls"))
            daemon.wait_stored(1)
            assert daemon.health()["store"]["checksum"]
        store = MinioStore(server.url, server.access_key, server.secret_key, bucket, ca_file=ours.ca_file)
        with contextlib.closing(store):
            assert sorted(info.key for info in store.list("sessions/")) == [
                "sessions/over-tls/websdr_1.npy",
                "sessions/over-tls/websdr_1_metadata.json",
            ]


def test_a_wrong_certificate_is_an_alarm_and_is_tried_again_until_it_is_right(
    authorities, minio_binary, tmp_path, bucket
):
    ours = authorities["ours"]
    port = free_port()
    with server_of(authorities["strangers"], tmp_path / "minio", minio_binary, port) as server:
        daemon = daemon_for(server, ours, tmp_path / "daemon", bucket)
        with daemon:
            daemon.push(noise("kept"))
            reason = wait_until(lambda: alarm_of(daemon), 20, "the alarm")
            assert reason["code"] == "store_rejects"
            assert "TLS" in reason["text"] + reason["action"]
            assert "TLS failed" in daemon.health()["store"]["last_error"]
            assert daemon.stats()["stored"] == 0
            wait_until(lambda: daemon.health()["spool"]["entries"] == 1, 20, "the entry to be counted")
            server.stop()
            with server_of(ours, tmp_path / "minio", minio_binary, port):
                daemon.wait_stored(1, 60)
                wait_until(lambda: alarm_of(daemon) is None or None, 20, "the end of the alarm")


def alarm_of(daemon):
    return next(
        (reason for reason in daemon.health()["reasons"] if reason["code"].startswith("store_")), None
    )


def test_a_store_that_speaks_no_tls_gets_no_request_in_clear(authorities, tmp_path, bucket):
    heard = []
    stop = threading.Event()

    def listen(listener):
        listener.settimeout(0.2)
        while not stop.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(2)
                    heard.append(connection.recv(65536))
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen, args=(listener,))
        thread.start()
        environ = {
            "MINIO_URL": f"https://127.0.0.1:{listener.getsockname()[1]}",
            "MINIO_ACCESS_KEY": "an-access-key",
            "MINIO_SECRET_KEY": "a-secret-key",
        }
        settings = {
            "uploader": {"count": 1},
            "spool": {"min_free_bytes": 0},
            "minio": {"bucket_raw_iq": bucket},
        }
        try:
            with DaemonProcess(tmp_path, settings, environ=environ) as daemon:
                with pusher(daemon.ingest_endpoint) as peer:
                    peer.send(wire.encode(noise("kept")))
                wait_until(lambda: alarm_of(daemon), 20, "the alarm")
                wait_until(lambda: len(heard) >= 3, 30, "three tries")
        finally:
            stop.set()
            thread.join(5)
    # 22 = a TLS handshake (RFC 8446, 5.1).
    assert {first[0] for first in heard if first} == {22}
    assert not any(b"an-access-key" in first for first in heard)
