"""A daemon without sockets behind `ingestd.client.Client` and `ingestd.node.Node`."""

import sys
import types
from dataclasses import replace

import pytest

from ingestd.cli.ingestctl import main
from ingestd.errors import NotFound, QueryError, Unavailable
from ingestd.formats import frame, metadata, npy
from ingestd.formats.measurement import content_crc, object_keys

BUCKET = "heimdall-raw-iq"


class StandInDaemon:
    """Stores what it is sent at once, by the rules of identity and content; answers queries from what it holds."""

    def __init__(self):
        self.answers_queries = True
        self.takes_frames = True
        self.max_frame_bytes = 64 * 2**20
        self.state = "stored"
        self.frames = []
        self.rows = {}
        self.failed = []
        self.replies = {}
        self.asked = []
        self.nodes = []
        self.clients = []
        self.key_files = []
        self.looks_until_stored = 0

    def accept(self, measurement):
        encoded = frame.encode(measurement)
        if len(encoded) > self.max_frame_bytes:
            raise AssertionError("a frame longer than the daemon takes")
        parsed = frame.parse(encoded)
        self.frames.append(parsed)
        made = npy.encode(parsed)
        row = metadata.document(parsed, made, None)
        content = content_crc(made.crc32c, *metadata.content(row))
        held = self.rows.get((*parsed.identity, None))
        copy = None
        if held is not None and held["content"] != content:
            copy = f"{content:08x}"
            held["copies"].append(copy)
        elif held is not None:
            return
        keys = object_keys(parsed.identity, copy)
        self.rows[(*parsed.identity, copy)] = row | {
            "state": self.state,
            "s3_path": f"s3://{BUCKET}/{keys.npy}",
            "metadata_s3_path": f"s3://{BUCKET}/{keys.metadata}",
            "copies": [],
            "content": content,
            "error": None,
        }

    def query(self, cmd, **args):
        self.asked.append((cmd, args))
        if not self.answers_queries:
            raise Unavailable("nobody there")
        if cmd in self.replies:
            reply = self.replies[cmd]
            if isinstance(reply, Exception):
                raise reply
            return reply
        if cmd == "confirm":
            return {"max_frame_bytes": self.max_frame_bytes, "accepting": True}
        if cmd == "measurements" and args["state"] == "failed":
            return {"measurements": self.failed, "next_cursor": None}
        if cmd == "measurement":
            return self._measurement(**args)
        raise QueryError("unknown_command", cmd)

    def _measurement(self, task_id, websdr_id, chunk=None, copy=None):
        row = self.rows.get((task_id, websdr_id, chunk, copy))
        if row is None:
            raise NotFound("no such measurement")
        if self.looks_until_stored:
            self.looks_until_stored -= 1
            return row | {"state": "accepted", "crc32c": None, "s3_path": None}
        return row


class _Open:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def client_class(stand_in):
    class Client(_Open):
        def __init__(self, endpoint, *, timeout_s=5.0, retries=2, **key_files):
            stand_in.key_files.append(key_files)
            stand_in.clients.append((endpoint, timeout_s * (retries + 1)))

        def query(self, cmd, **args):
            return stand_in.query(cmd, **args)

    return Client


def node_class(stand_in):
    class Node(_Open):
        def __init__(
            self, ingest_endpoint, *, websdr_id, name, query_endpoint=None, timeout_s=30.0, **key_files
        ):
            stand_in.key_files.append(key_files)
            stand_in.nodes.append((ingest_endpoint, websdr_id, name, query_endpoint))
            self._name, self._seq = name, 0

        def send_measurement(self, measurement):
            stand_in.accept(replace(measurement, node=self._name, epoch=7, seq=self._seq))
            self._seq += 1

        def wait(self, timeout_s):
            assert timeout_s > 0
            if not stand_in.takes_frames:
                raise Unavailable("1 frames are not confirmed")

    return Node


@pytest.fixture
def daemon(monkeypatch):
    """The stand-in, reachable through the modules that the commands import."""
    stand_in = StandInDaemon()
    for name, made in (("ingestd.client", client_class(stand_in)), ("ingestd.node", node_class(stand_in))):
        module = types.ModuleType(name)
        module.__dict__[made.__name__] = made
        monkeypatch.setitem(sys.modules, name, module)
    for variable in ("INGESTD_QUERY__ENDPOINT", "INGESTD_INGEST__ENDPOINT"):
        monkeypatch.delenv(variable, raising=False)
    return stand_in


@pytest.fixture
def ingestctl(daemon, capfd):
    """Run a command line: `code, stdout, stderr = ingestctl("push", ...)`."""

    def run(*argv):
        code = main([str(arg) for arg in argv])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run
