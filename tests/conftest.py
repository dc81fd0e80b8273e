"""Fixtures only: servers, recordings, and what a missing one means."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import uuid

import hypothesis
import pytest
import structlog

from ingestd.storage.minio import MinioStore
from ingestd.testing.minio_server import MinioServer, find_minio
from ingestd.testing.recordings import shared_iq

# How long one example takes says how busy the machine is; times that are promised have tests of their own.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

IN_CI = bool(os.environ.get("CI"))


#: Names the directory with the locks of a run; workers inherit it. Not INGESTD_..., which a daemon would refuse.
LOCKS = "TEST_LOCKS"


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        os.environ[LOCKS] = tempfile.mkdtemp(prefix="ingestd-tests-")


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(LOCKS), ignore_errors=True)


@contextlib.contextmanager
def turn(name, mode):
    """Hold a lock that all workers share."""
    with open(os.path.join(os.environ[LOCKS], name), "a") as file:
        fcntl.flock(file, mode)
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """A test that is marked `quiet` has the machine to itself, its fixtures included, however many workers there are."""
    is_quiet = item.get_closest_marker("quiet") is not None
    with contextlib.ExitStack() as held:
        # Whoever waits for the machine keeps the others from beginning anything new: without a gate they would take
        # turns for ever, and it would never be free.
        with turn("gate", fcntl.LOCK_EX):
            held.enter_context(turn("machine", fcntl.LOCK_EX if is_quiet else fcntl.LOCK_SH))
        return (yield)


def missing(what):
    """A missing part skips at home, saying so, and fails where CI is set."""
    if IN_CI:
        pytest.fail(f"{what}, and CI must have it", pytrace=False)
    pytest.skip(what)


@pytest.fixture(autouse=True)
def own_logging():
    """What a test configures of the log is undone, whichever test comes next in this process."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def minio_binary():
    binary = find_minio()
    if binary is None:
        missing("no MinIO server found (scripts/test builds one)")
    return binary


@pytest.fixture(scope="session")
def minio_server(minio_binary, tmp_path_factory):
    """One real MinIO for all tests that only need a bucket of their own."""
    with MinioServer(tmp_path_factory.mktemp("minio"), minio_binary) as server:
        yield server


@pytest.fixture
def own_minio(minio_binary, tmp_path):
    """A real MinIO that one test may stop, hang and break."""
    with MinioServer(tmp_path / "minio", minio_binary) as server:
        yield server


@pytest.fixture
def bucket():
    """A bucket name that nobody else uses."""
    return f"test-{uuid.uuid4().hex[:16]}"


@pytest.fixture
def minio_store(minio_server, bucket):
    """A probed store in a bucket of its own on the real MinIO."""
    store = MinioStore(minio_server.url, minio_server.access_key, minio_server.secret_key, bucket)
    store.probe()
    yield store
    store.close()


@pytest.fixture(scope="session")
def recordings():
    """Directory of the real recordings beside the project."""
    found = shared_iq()
    if found is None:
        missing("the recordings (../shared/iq) are not beside the project")
    return found
