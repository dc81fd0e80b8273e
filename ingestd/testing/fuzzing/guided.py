"""One fuzzer process: `python -m ingestd.testing.fuzzing.guided TARGET CORPUS [libFuzzer options]`; never returns."""

from __future__ import annotations

import sys

import atheris

__all__ = ["main"]


def main() -> None:
    """Instrument what is fuzzed, and fuzz."""
    name, *options = sys.argv[1:]
    # Only our own code: what the standard library does inside is noise.
    with atheris.instrument_imports(include=["ingestd.formats", "ingestd.spool", "ingestd.errors"]):
        from ingestd.testing.fuzzing.targets import TARGETS  # noqa: PLC0415 - to be instrumented
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
