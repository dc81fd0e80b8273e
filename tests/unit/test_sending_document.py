"""The ten lines of docs/sending.md."""

import re
import subprocess
import sys
from pathlib import Path

import zmq

from ingestd.formats import frame

DOCUMENT = Path(__file__).parents[2] / "docs" / "sending.md"


def test_the_ten_lines_send_a_valid_frame():
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert "ingestd" not in code
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.rcvtimeo = 30_000
        port = pull.bind_to_random_port("tcp://127.0.0.1")
        sender = subprocess.Popen([sys.executable, "-c", code.replace("127.0.0.1:5555", f"127.0.0.1:{port}")])
        try:
            parsed = frame.parse(pull.recv())
        finally:
            assert sender.wait(30) == 0
    assert (parsed.task_id, parsed.n_samples, parsed.sample_rate_hz) == ("hello", 125_000, 12001.1321)
