"""The senders that README and docs give away, run as they stand there."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zmq

from ingestd.formats import frame
from ingestd.testing.waiting import free_port

ROOT = Path(__file__).parents[2]

#: README's sender has its samples from the lines above it.
IQ = "import numpy\niq = numpy.ones(125_000, numpy.complex64)\n"

SENDERS = [
    ("docs/wire-format.md", "127.0.0.1:5555", "", ("hello", 12_000, 12001.1321)),
    ("docs/sending.md", "127.0.0.1:5555", "", ("hello", 125_000, 12001.1321)),
    ("README.md", "ingest.example:5555", IQ, ("burst-0042", 125_000, 12001.1321)),
]


def _code(document: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "msgpack" in block]
    return code


@pytest.mark.parametrize("document", [document for document, *_ in SENDERS])
def test_a_sender_needs_nothing_of_ours(document):
    assert not re.search(r"import.*ingestd|from ingestd", _code(document))


def test_the_sender_of_the_wire_format_has_ten_lines():
    assert len([line for line in _code("docs/wire-format.md").splitlines() if line]) <= 10


@pytest.mark.parametrize(("document", "endpoint", "prelude", "expected"), SENDERS)
def test_a_sender_s_frame_arrives_also_where_the_daemon_comes_later(document, endpoint, prelude, expected):
    # Two documents closed the socket with a linger and left: pyzmq ends no
    # context when Python exits, so what had not left by then was lost.
    code = _code(document)
    assert endpoint in code
    port = free_port()
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.rcvtimeo = 30_000
        sender = subprocess.Popen(
            [sys.executable, "-c", prelude + code.replace(endpoint, f"127.0.0.1:{port}")]
        )
        try:
            time.sleep(1.5)  # it has sent by now, into nothing
            pull.bind(f"tcp://127.0.0.1:{port}")
            parsed = frame.parse(pull.recv())
        finally:
            assert sender.wait(30) == 0
    assert (parsed.task_id, parsed.n_samples) == expected[:2]
    assert parsed.sample_rate_hz == pytest.approx(expected[2], rel=1e-12)
