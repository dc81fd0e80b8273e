"""`scripts/sandbox`: boot systemd as PID 1, run the shipped unit in it, and say what became of each step."""

from __future__ import annotations

import argparse
import sys

from ingestd.errors import ExitCode, Unavailable
from ingestd.testing.sandbox.boot import boot, enter


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/sandbox", description=__doc__)
    parser.add_argument(
        "--root",
        default="/",
        metavar="DIR",
        help="a system with ingestd installed in it; without it, this checkout on this machine",
    )
    parser.add_argument("--enter", metavar="DIR", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Boot and report; 1 where a step failed, 69 where no machine can be made here."""
    given = _arguments()
    if given.enter:
        enter(given.enter, given.root)
    try:
        report = boot(given.root)
    except Unavailable as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return ExitCode.UNAVAILABLE
    for step in report.steps:
        sys.stdout.write(
            f"{'ok' if step['ok'] else 'FAILED':6} {step['step']:16} {step['took_s']:6.1f} s  {step['detail']}\n"
        )
    if not report.clean:
        sys.stderr.write(report.log)
    return int(not report.clean)


if __name__ == "__main__":
    sys.exit(main())
