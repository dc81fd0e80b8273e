"""A fuzzer without eyes: `python -m ingestd.testing.fuzzing.blind TARGET CORPUS [-runs=N] [-max_total_time=S] [-seed=K]`.

It changes what is in the corpus at random and looks at no coverage, which costs a sixth of the time: many more inputs,
each less clever. Options and last words are those of libFuzzer, as far as there are any. Needs no atheris.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from collections.abc import Sequence

from ingestd.testing.fuzzing.targets import TARGETS

__all__ = ["main", "mutated"]

#: Changes of one input at most [count].
_MAX_CHANGES = 4

#: Longest piece that is put in, taken out or doubled [bytes].
_MAX_PIECE = 16

#: Bytes that mean something: first bytes of msgpack's lengths and kinds, JSON's signs, the ends of ranges.
_TELLING = (
    bytes([0x00, 0x01, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, *range(0xC0, 0xE0), 0xFF])
    + b'{}[]",:\\\n-.e0/'
)

#: The clock is looked at once in so many inputs [count].
_LOOK_EVERY = 1000


def mutated(rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """One input of the corpus with a few changes.

    Parameters
    ----------
    rng
        Decides.
    corpus
        At least one input.
    """
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.randint(1, _MAX_CHANGES)):
        at = rng.randrange(len(data) + 1)
        piece = rng.randint(1, _MAX_PIECE)
        kind = rng.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.choice(_TELLING)
        elif kind == 2:
            data[at:at] = bytes([rng.choice(_TELLING)])
        elif kind == 3:
            del data[at : at + piece]
        elif kind == 4:
            data[at:at] = data[at : at + piece]
        elif kind == 5:
            other = rng.choice(corpus)
            begin = rng.randrange(len(other) + 1)
            data[at : at + piece] = other[begin : begin + piece]
        else:
            data[at : at + 4] = rng.randbytes(4)
    return bytes(data)


def _option(arguments: Sequence[str], name: str) -> int:
    return next((int(one.partition("=")[2]) for one in arguments if one.startswith(f"-{name}=")), 0)


def main(argv: Sequence[str]) -> int:
    """Run one target; 1 where it found something, which is then in `crash-...`."""
    name, directory, *options = argv
    runs, seconds = _option(options, "runs"), _option(options, "max_total_time")
    rng = random.Random(_option(options, "seed"))  # noqa: S311 - inputs, no secrets
    corpus = []
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        with open(entry.path, "rb") as file:
            corpus.append(file.read())
    target, began_s, count = TARGETS[name], time.monotonic(), 0
    while not runs or count < runs:
        if count % _LOOK_EVERY == 0 and seconds and time.monotonic() - began_s >= seconds:
            break
        data = mutated(rng, corpus)
        try:
            target(data)
        except BaseException:
            path = f"crash-{hashlib.sha256(data).hexdigest()[:16]}"
            with open(path, "wb") as file:
                file.write(data)
            sys.stderr.write(f"found {path}\n")
            raise
        count += 1
    sys.stderr.write(f"Done {count} runs in {time.monotonic() - began_s:.0f} second(s)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
