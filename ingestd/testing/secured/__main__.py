"""`scripts/secured`: what keys, TLS and bounds cost, and what attacks on memory do, in one interleaved run."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from ingestd.errors import IngestdError
from ingestd.testing.bench.groups import Case
from ingestd.testing.bench.machine import about
from ingestd.testing.bench.report import written
from ingestd.testing.bench.results import Results, Sample
from ingestd.testing.bench.targets import MinioTarget
from ingestd.testing.certificates import make_authority
from ingestd.testing.daemon_process import DaemonProcess
from ingestd.testing.keys import Keys
from ingestd.testing.minio_server import MinioServer, find_minio
from ingestd.testing.secured.attacks import Attack, attacks
from ingestd.testing.secured.costs import GROUPS, Setting
from ingestd.testing.secured.place import quick_place
from ingestd.testing.secured.report import Secured, markdown
from ingestd.testing.secured.trial import Trial, attacked_daemon, try_attack

__all__ = ["measure"]

_ROUNDS = 5

#: How long a crowd floods [s].
_FLOOD_S, _SHORT_FLOOD_S = 3.0, 0.7

#: Cases of each attack in a short run [count].
_N_SHORT = 2

#: Senders of the runs: each has a key of its own.
_N_NODES = 7

_Say = Callable[[str], None]


def _arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/secured", description=__doc__)
    parser.add_argument("--short", action="store_true", help="one round with few frames, under a minute")
    parser.add_argument("--rounds", type=int, help=f"of everything (default {_ROUNDS}, short 1)")
    parser.add_argument("--only", choices=("costs", "attacks"), help="one half of it")
    parser.add_argument("--json", metavar="FILE", help="write everything to FILE")
    parser.add_argument(
        "--markdown", metavar="FILE", help="only print what docs/security.md shows of a JSON FILE"
    )
    given = parser.parse_args(argv)
    given.rounds = given.rounds or (1 if given.short else _ROUNDS)
    return given


@contextlib.contextmanager
def _stores(binary: str, directory: str, *, short: bool) -> Iterator[Setting]:
    """A MinIO with and one without TLS, and the keys."""
    authority = make_authority(directory, "authority")
    keys = Keys(_made(directory, "keys"))
    nodes = [f"node-{number + 1}" for number in range(_N_NODES)]
    for name in (*nodes, "admin"):
        keys.make(name)
    keys.allow(*nodes)
    keys.allow("admin", file=keys.clients_file)
    certs = authority.certs_directory
    with (
        MinioServer(_made(directory, "plain"), binary) as plain,
        MinioServer(_made(directory, "tls"), binary, certs_directory=certs) as tls,
    ):
        ca_file = authority.ca_file
        yield Setting(MinioTarget(plain), MinioTarget(tls, ca_file), ca_file, keys, short=short)


def _made(directory: str, name: str) -> str:
    path = os.path.join(directory, name)
    os.makedirs(path)
    return path


def _costs(setting: Setting, rounds: int, directory: str, say: _Say) -> Results:
    results = Results()
    groups = {name: list(cases(setting)) for name, cases in GROUPS.items()}
    for number in range(rounds):
        for name, cases in groups.items():
            # Whoever comes first finds the machine in another state than whoever comes last.
            shift = number % len(cases)
            for case in cases[shift:] + cases[:shift]:
                one = _sample(name, case, number, directory)
                for target in (setting.plain, setting.tls):
                    target.clear()
                results.samples.append(one)
                values = ", ".join(f"{metric} {written(value)}" for metric, value in one.values.items())
                say(f"round {number}, {name}, {case.name}: {one.error or values}")
    return results


def _sample(group: str, case: Case, number: int, directory: str) -> Sample:
    where = tempfile.mkdtemp(dir=directory)
    try:
        values = case.run(where)
    except (IngestdError, OSError) as error:
        # One run that fails is a result; the others are measured all the same.
        return Sample(group, case.name, number, {}, f"{type(error).__name__}: {error}")
    shutil.rmtree(where)
    return Sample(group, case.name, number, values)


def _trials(rounds: int, directory: str, say: _Say, *, short: bool) -> list[Trial]:
    """Try every attack; in a long run each finds a daemon that nobody has attacked before."""
    found: list[Trial] = []
    wanted = list(_first_of_each(attacks(), _N_SHORT)) if short else list(attacks())
    groups = [wanted] if short else [[attack] for attack in wanted]
    for _ in range(rounds):
        for together in groups:
            begun = len(found)
            try:
                with (
                    tempfile.TemporaryDirectory(
                        prefix="ingestd-secured-", dir=quick_place(directory)
                    ) as where,
                    attacked_daemon(where) as daemon,
                ):
                    for attack in together:
                        seconds = _SHORT_FLOOD_S if short else _FLOOD_S
                        found.append(try_attack(attack, daemon, seconds, len(found)))
                        _tell(found[-1], say)
                        if not found[-1].harmless:
                            say(f"its log: {_kept_log(daemon)}")
            except (IngestdError, TimeoutError) as error:
                found[begun:] = [_harmed(attack, error) for attack in together]
                _tell(found[-1], say)
    return found


def _first_of_each(wanted: Iterable[Attack], count: int) -> Iterator[Attack]:
    """So many cases of each attack."""
    n_seen: Counter[str] = Counter()
    for attack in wanted:
        n_seen[attack.group] += 1
        if n_seen[attack.group] <= count:
            yield attack


def _kept_log(daemon: DaemonProcess) -> str:
    """Copy the log of a daemon that was harmed to where it outlives this run."""
    fd, path = tempfile.mkstemp(prefix="ingestd-secured-", suffix=".log")
    os.close(fd)
    shutil.copyfile(daemon.log_path, path)
    return path


def _harmed(attack: Attack, error: Exception) -> Trial:
    """All that were tried on a daemon that did not come to a good end."""
    return Trial(attack.group, attack.name, f"{type(error).__name__}: {error}")


def _tell(one: Trial, say: _Say) -> None:
    figures = f"{one.rest_mb:.0f} MB, at most {one.peak_mb:.0f} MB, well after {one.recovery_ms:.0f} ms"
    say(f"{one.group}, {one.name}: {one.why or figures}")


def measure(
    binary: str, directory: str, rounds: int, say: _Say, *, short: bool = False, only: str | None = None
) -> Secured:
    """Measure everything, or one half.

    Parameters
    ----------
    binary
        Of the MinIO server.
    directory
        Empty, for everything.
    rounds
        Of everything.
    say
        Told what was found.
    short
        Whether few frames are enough, and one daemon for all attacks.
    only
        `costs` or `attacks`.
    """
    costs, trials = Results(), list[Trial]()
    if only != "attacks":
        with _stores(binary, directory, short=short) as setting:
            costs = _costs(setting, rounds, directory, say)
    if only != "costs":
        trials = _trials(rounds, directory, say, short=short)
    return Secured(costs, trials)


def main() -> int:
    """Measure what was asked for; 1 where anything did harm or failed."""
    given = _arguments()
    if given.markdown:
        sys.stdout.write(f"{markdown(Secured.read(given.markdown))}\n")
        return 0
    # The way out of every `with` block is what ends daemons, stores and pushers.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    binary = find_minio()
    if binary is None:
        sys.stderr.write("no MinIO server: run this as scripts/secured, which builds it\n")
        return 69
    with tempfile.TemporaryDirectory(prefix="ingestd-secured-", ignore_cleanup_errors=True) as directory:
        head = about(directory, binary, given.rounds, short=given.short)

        def say(text: str) -> None:
            sys.stderr.write(f"{text}\n")

        found = measure(binary, directory, given.rounds, say, short=given.short, only=given.only)
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(head | found.document() | {"errors": found.errors()}, file, indent=1)
            file.write("\n")
    sys.stdout.write(f"{markdown(found)}\n")
    for line in found.errors():
        sys.stderr.write(f"- {line}\n")
    return 1 if found.errors() else 0


if __name__ == "__main__":
    sys.exit(main())
