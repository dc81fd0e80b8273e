"""The command line of `ingestctl`: what it asks, prints, and exits with."""

import base64
import http.server
import json
import os
import subprocess
import sys
import threading

import google_crc32c
import pytest

from ingestd.cli.ingestctl import main
from ingestd.errors import NotFound, QueryError

HEALTH = {
    "status": "healthy",
    "endpoint": "127.0.0.1:9000",
    "bucket": "heimdall-raw-iq",
    "accessible": True,
    "error": None,
    "reasons": [],
    "spool": {"entries": 0, "bytes": 0},
    "roles": [{"name": "receiver", "pid": 7, "state": "ready", "restarts": 0}],
}
REASON = {"code": "store_unreachable", "severity": "degraded", "since_utc": "x", "text": "t", "action": "a"}
OBJECT = b"\x93NUMPY" + bytes(range(256)) * 5000
CRC32C = base64.b64encode(google_crc32c.value(OBJECT).to_bytes(4, "big")).decode()
ROW = {
    "task_id": "t",
    "websdr_id": 5,
    "state": "stored",
    "size_bytes": len(OBJECT),
    "crc32c": CRC32C,
    "s3_path": "s3://heimdall-raw-iq/sessions/t/websdr_5.npy",
    "metadata_s3_path": "s3://heimdall-raw-iq/sessions/t/websdr_5_metadata.json",
    "copies": [],
}


class TestHealth:
    @pytest.mark.parametrize(
        ("status", "code"), [("healthy", 0), ("degraded", 75), ("unhealthy", 1), ("?", 1), (5, 1)]
    )
    def test_exits_with_its_status(self, ingestctl, daemon, status, code):
        daemon.replies["health"] = HEALTH | {"status": status}
        assert ingestctl("health")[0] == code
        assert ingestctl("--json", "health")[0] == code

    def test_shows_reasons_and_roles_as_tables(self, ingestctl, daemon):
        daemon.replies["health"] = HEALTH | {"reasons": [REASON]}
        _, out, err = ingestctl("health")
        lines = [line.split() for line in out.splitlines()]
        assert ["status", "healthy"] in lines
        assert ["spool.entries", "0"] in lines
        assert ["store_unreachable", "degraded", "x", "t", "a"] in lines
        assert ["receiver", "ready", "7", "0"] in lines
        assert err == ""

    def test_without_an_answer_is_69(self, ingestctl, daemon):
        daemon.answers_queries = False
        code, out, err = ingestctl("health")
        assert (code, out) == (69, "")
        assert err == "ingestctl: no answer from tcp://127.0.0.1:5556: nobody there\n"


class TestQueries:
    @pytest.mark.parametrize(
        ("argv", "asked"),
        [
            (("stats",), ("stats", {})),
            (("sessions", "--limit", 5, "--cursor", "c"), ("sessions", {"limit": 5, "cursor": "c"})),
            (("session", "t"), ("session", {"task_id": "t"})),
            (("nodes",), ("nodes", {})),
            (("failed", "--limit", 5), ("failed", {"limit": 5})),
            (("rejected",), ("rejected", {})),
            (("confirm", "n", 7), ("confirm", {"node": "n", "epoch": 7})),
            (("measurement", "t", 5), ("measurement", {"task_id": "t", "websdr_id": 5})),
            (
                ("measurement", "t", 5, "--chunk", 0, "--copy", "00ff00ff"),
                ("measurement", {"task_id": "t", "websdr_id": 5, "chunk": 0, "copy": "00ff00ff"}),
            ),
            (
                ("url", "t", 5, "--metadata", "--expires", 60),
                ("url", {"task_id": "t", "websdr_id": 5, "what": "metadata", "expires_s": 60}),
            ),
            (
                (
                    "measurements",
                    "--since",
                    "2026-08-01T12:00:00Z",
                    "--until",
                    1511779316123456789,
                    "--min-snr-db",
                    3,
                ),
                (
                    "measurements",
                    {"since": "2026-08-01T12:00:00Z", "until": 1511779316123456789, "min_snr_db": 3.0},
                ),
            ),
            (
                (
                    *("measurements", "--task-id", "t", "--websdr-id", 1, "--node", "n", "--state", "stored"),
                    *("--min-frequency-hz", 1, "--max-frequency-hz", 2),
                ),
                (
                    "measurements",
                    {"task_id": "t", "websdr_id": 1, "node": "n", "state": "stored"}
                    | {"min_frequency_hz": 1.0, "max_frequency_hz": 2.0},
                ),
            ),
        ],
    )
    def test_ask_what_was_typed_and_print_it_as_json(self, ingestctl, daemon, argv, asked):
        reply = {asked[0]: [], "url": "http://x", "next_cursor": None}
        daemon.replies[asked[0]] = reply
        code, out, _ = ingestctl("--json", *argv)
        assert (code, json.loads(out), daemon.asked) == (0, reply, [asked])
        assert ingestctl(*argv)[0] == 0

    def test_say_that_there_is_more_on_stderr(self, ingestctl, daemon):
        daemon.replies["sessions"] = {"sessions": [{"task_id": "t"}], "next_cursor": "abc"}
        _, out, err = ingestctl("sessions")
        assert out.split() == ["TASK", "t"]
        assert err == "ingestctl: there is more: --cursor abc\n"

    def test_of_a_session_show_its_measurements(self, ingestctl, daemon):
        stored = [{"websdr_id": 5, "status": "SUCCESS", "samples_count": 8, "s3_path": "s3://b/x"}]
        daemon.replies["session"] = {
            "status": "SUCCESS",
            "stored_measurements": stored,
            "failed_measurements": [],
        }
        _, out, _ = ingestctl("session", "t")
        assert [line.split() for line in out.splitlines()] == [
            ["status", "SUCCESS"],
            [],
            ["RECEIVER", "STATUS", "SAMPLES", "OBJECT"],
            ["5", "SUCCESS", "8", "s3://b/x"],
        ]

    @pytest.mark.parametrize("answer", [{}, {"sessions": 5}, {"sessions": [[]]}])
    def test_that_are_answered_with_nonsense_fail_in_one_line(self, ingestctl, daemon, answer):
        daemon.replies["sessions"] = answer
        code, _, err = ingestctl("sessions")
        assert (code, len(err.splitlines())) == (1, 1)

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (NotFound("no session 't'"), 3),
            (QueryError("not_found", "x"), 3),
            (QueryError("invalid_argument", "limit=1001"), 2),
            (QueryError("busy", "x", retryable=True), 75),
            (QueryError("unavailable", "x", retryable=True), 75),
            (QueryError("internal", "x\n\x1b[2J"), 1),
        ],
    )
    def test_exit_with_the_code_of_the_error(self, ingestctl, daemon, error, code):
        daemon.replies["session"] = error
        exited, out, err = ingestctl("session", "t")
        assert (exited, out, len(err.splitlines())) == (code, "", 1)
        assert "\x1b" not in err


class TestOptions:
    def test_go_to_the_client(self, ingestctl, daemon, monkeypatch):
        daemon.replies["stats"] = {}
        ingestctl("--endpoint", "tcp://h:1", "--timeout", 0.5, "stats")
        monkeypatch.setenv("INGESTD_QUERY__ENDPOINT", "tcp://*:7")
        ingestctl("stats")
        assert daemon.clients == [("tcp://h:1", 0.5), ("tcp://127.0.0.1:7", 5.0)]

    @pytest.mark.parametrize(
        "argv",
        [
            ("--timeout", 0, "stats"),
            ("--timeout", "nan", "stats"),
            ("nonsense",),
            ("session",),
            ("measurement", "t", "x"),
            ("--nonsense",),
        ],
    )
    def test_that_are_wrong_are_usage_errors(self, ingestctl, daemon, argv):
        code, out, _ = ingestctl(*argv)
        assert (code, out, daemon.asked) == (2, "", [])

    def test_version_and_help_need_no_daemon(self, ingestctl, daemon):
        assert ingestctl("--version")[:2] == (0, f"ingestctl {__import__('ingestd').__version__}\n")
        for command in ("", "push", "get", "health", "measurements"):
            code, out, _ = ingestctl(*filter(None, [command]), "--help")
            assert (code, "Usage" in out) == (0, True)
        assert daemon.clients == []


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stored(daemon, tmp_path):
    """An object of the directory store, whose name needs quoting in a URL."""
    path = tmp_path / "a store" / "websdr 5.npy"
    path.parent.mkdir()
    path.write_bytes(OBJECT)
    daemon.replies["measurement"] = dict(ROW)
    daemon.replies["url"] = {"url": path.as_uri()}
    return path


class TestGet:
    def test_writes_the_object_under_its_name(self, ingestctl, here, stored):
        code, out, err = ingestctl("get", "t", 5)
        assert (code, out, err) == (0, "websdr_5.npy\n", "")
        assert (here / "websdr_5.npy").read_bytes() == OBJECT
        assert sorted(os.listdir(here)) == ["a store", "websdr_5.npy"]

    def test_replaces_a_file_only_where_it_is_named(self, ingestctl, here, stored):
        (here / "websdr_5.npy").write_bytes(b"mine")
        code, _, err = ingestctl("get", "t", 5)
        assert (code, (here / "websdr_5.npy").read_bytes()) == (2, b"mine")
        assert "-o" in err
        assert ingestctl("get", "t", 5, "-o", "websdr_5.npy")[0] == 0
        assert (here / "websdr_5.npy").read_bytes() == OBJECT

    def test_writes_to_standard_output(self, daemon, here, stored, capfdbinary):
        assert main(["get", "t", "5", "-o", "-"]) == 0
        assert capfdbinary.readouterr().out == OBJECT

    def test_leaves_a_device_a_device(self, ingestctl, stored, tmp_path):
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        got = []
        reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()), daemon=True)
        reader.start()
        assert ingestctl("get", "t", 5, "-o", fifo)[0] == 0
        reader.join(10)
        assert (got, fifo.is_fifo()) == ([OBJECT], True)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"size_bytes": len(OBJECT) + 1}, "bytes came"),
            ({"size_bytes": 10}, "longer than 10 bytes"),
            ({"crc32c": "AAAAAA=="}, "crc32c"),
            ({"crc32c": None}, "nothing to check against"),
            ({"crc32c": "AAAA"}, "nothing to check against"),
            ({"size_bytes": -1}, "nothing to check against"),
        ],
    )
    @pytest.mark.usefixtures("stored")
    def test_of_another_object_than_the_catalogs_writes_nothing(self, ingestctl, daemon, here, change, said):
        daemon.replies["measurement"] |= change
        code, out, err = ingestctl("get", "t", 5)
        assert (code, out, said in err) == (1, "", True)
        assert os.listdir(here) == ["a store"]

    def test_of_what_is_not_stored_yet_is_temporary(self, ingestctl, daemon, here, stored):
        daemon.replies["measurement"] |= {"state": "accepted"}
        assert ingestctl("get", "t", 5)[0] == 75

    def test_of_a_file_that_is_gone_is_not_found(self, ingestctl, here, stored):
        stored.unlink()
        assert ingestctl("get", "t", 5)[0] == 3

    @pytest.mark.parametrize(
        "url", ["ftp://h/x", "data:,x", "file://elsewhere/etc/passwd", "http://[x", "x", None, 5]
    )
    def test_of_any_other_url_is_refused(self, ingestctl, daemon, here, stored, url):
        daemon.replies["url"] = {"url": url}
        code, _, err = ingestctl("get", "t", 5)
        assert (code, len(err.splitlines())) == (1, 1)

    @pytest.mark.parametrize("path", ["s3://b/../../evil", "s3://b/", None, "s3://b/websdr_\x1b"])
    def test_never_takes_a_strange_name(self, ingestctl, daemon, here, stored, path):
        daemon.replies["measurement"] |= {"s3_path": path}
        assert ingestctl("get", "t", 5)[0] == 1
        assert os.listdir(here) == ["a store"]

    def test_fetches_the_metadata(self, ingestctl, daemon, here, stored):
        stored.write_bytes(b"{}")
        assert ingestctl("get", "t", 5, "--metadata")[1] == "websdr_5_metadata.json\n"
        assert daemon.asked[-1][1]["what"] == "metadata"
        assert (here / "websdr_5_metadata.json").read_bytes() == b"{}"

    def test_into_a_missing_directory_is_a_usage_error(self, ingestctl, here, stored):
        assert ingestctl("get", "t", 5, "-o", "none/x.npy")[0] == 2


class _Store(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        self.send_response({"/whole": 200, "/cut": 200, "/moved": 302, "/denied": 403}.get(path, 404))
        self.send_header("Location", "/whole")
        self.send_header("Content-Length", str(len(OBJECT)) if path in ("/whole", "/cut") else "0")
        self.end_headers()
        if path in ("/whole", "/cut"):
            self.wfile.write(OBJECT if path == "/whole" else OBJECT[:1000])

    def log_message(self, *args):
        pass


@pytest.fixture
def store():
    with http.server.HTTPServer(("127.0.0.1", 0), _Store) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


class TestGetOverHttp:
    @pytest.mark.parametrize(
        "case",
        [
            ("/whole?X-Amz-Signature=secret", 0, ""),
            ("/cut", 1, ""),
            ("/moved", 1, "answered 302"),
            ("/denied?X-Amz-Signature=secret", 1, "answered 403"),
            ("/gone", 3, "answered 404"),
        ],
    )
    def test_takes_whole_objects_and_nothing_else(self, ingestctl, daemon, here, store, case):
        path, code, said = case
        daemon.replies |= {"measurement": ROW, "url": {"url": store + path}}
        exited, _, err = ingestctl("get", "t", 5)
        assert (exited, said in err, "secret" in err) == (code, True, False)
        assert (here / "websdr_5.npy").exists() == (code == 0)

    def test_of_a_store_that_is_down_is_69(self, ingestctl, daemon, here):
        daemon.replies |= {"measurement": ROW, "url": {"url": "http://127.0.0.1:1/x"}}
        code, _, err = ingestctl("get", "t", 5)
        assert (code, "no answer from 127.0.0.1:1" in err) == (69, True)


def test_help_loads_neither_sockets_nor_numpy():
    code = (
        "import sys; from ingestd.cli.ingestctl import main; main(['--help']); "
        "sys.exit(bool({'zmq', 'numpy', 'minio', 'sqlite3'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.DEVNULL, timeout=60, check=False
        ).returncode
        == 0
    )


def test_key_files_reach_every_socket_and_one_alone_is_a_wrong_command_line(daemon, ingestctl):
    both = ("--secret-key-file", "own.key", "--server-key-file", "daemon.pub")
    code, _, _ = ingestctl(*both, "push", "--test-tone")
    assert code == 0
    wanted = {"secret_key_file": "own.key", "server_key_file": "daemon.pub"}
    assert daemon.nodes
    assert daemon.clients
    assert all(given == wanted for given in daemon.key_files)
    for one in (both[:2], both[2:]):
        code, _, err = ingestctl(*one, "health")
        assert code == 2
        assert "go together" in err
