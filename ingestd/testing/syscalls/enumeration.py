"""Runs cases: a subject forked by a driver, `strace` attached to it, recovery after it, then the oracle."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

from ingestd.testing.syscalls.oracle import Outcome, Verdict, judge
from ingestd.testing.syscalls.plan import Case, Fault, Scenario, cases, points
from ingestd.testing.syscalls.trace import TRACED, Call, parse

__all__ = ["Driver", "plan", "run"]

#: strace has attached, or is gone, within this time [s].
_ATTACH_S = 20.0

#: Names of entries are longer than strace shows of a buffer by default [bytes].
_SHOWN_BYTES = 80


class Driver:
    """A warm driver, as a `with` block; one case at a time."""

    def __init__(self) -> None:
        self._popen: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "ingestd.testing.syscalls.driver"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_exc: object) -> None:
        assert self._popen is not None
        with self._popen:
            assert self._popen.stdin is not None
            self._popen.stdin.close()

    def run(self, case: Case, state_directory: str) -> Outcome:
        """Run a case in a new state directory.

        Raises
        ------
        RuntimeError
            strace could not be attached: a machine that does not allow it.
        """
        pid = self._ask(
            {
                "subject": case.scenario.subject, "groups": case.scenario.groups, "short": case.short,
                "state_directory": state_directory, "stop_after_s": case.stop_after_s,
            }
        )["pid"]  # fmt: skip
        if not pid:
            raise RuntimeError(f"{case}: the subject died before its gate, see {state_directory}/log")
        with _Strace(pid, case.faults, os.path.join(state_directory, "strace")) as strace:
            ended = self._ask("go")
        return Outcome(tuple(ended["told"]), ended["status"], ended["hung"], tuple(strace.calls()))

    def _ask(self, what: dict[str, Any] | str) -> dict[str, Any]:
        assert self._popen is not None
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write((what if isinstance(what, str) else json.dumps(what)) + "\n")
        self._popen.stdin.flush()
        answer: dict[str, Any] = json.loads(self._popen.stdout.readline() or "null")
        if answer is None:
            raise RuntimeError("the driver is gone")
        return answer


class _Strace:
    """strace attached to one thread, as a `with` block: attached when it begins, ended when it ends."""

    def __init__(self, pid: int, faults: Sequence[Fault], path: str) -> None:
        self._pid = pid
        self._path = path
        self._command = [
            "strace",
            "-y",
            "-s",
            str(_SHOWN_BYTES),
            "-o",
            path,
            "-e",
            f"trace={','.join(TRACED)}",
        ]
        for fault in faults:
            if not fault.is_short:
                self._command += ["-e", fault.expression()]

    def __enter__(self) -> Self:
        command = [*self._command, "-p", str(self._pid)]
        self._popen = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603 - of our making
        assert self._popen.stderr is not None
        # Only now every call is seen: /proc/PID/status names a tracer a moment too early.
        said = self._popen.stderr.readline()
        if " attached" not in said:
            self._popen.kill()
            self._popen.communicate()
            raise RuntimeError(f"strace cannot attach: {said.strip()}")
        return self

    def __exit__(self, *_exc: object) -> None:
        # It ends with the thread that it traces.
        try:
            self._popen.communicate(timeout=_ATTACH_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.communicate()

    def calls(self) -> list[Call]:
        with open(self._path, encoding="utf-8", errors="replace") as file:
            return parse(file)


def plan(driver: Driver, scenario: Scenario, directory: str) -> list[Case]:
    """Rehearse a scenario and return everything that is to be done to it.

    Raises
    ------
    RuntimeError
        Two rehearsals differ in their calls, so that ordinals mean nothing; or a rehearsal went wrong.
    """
    base: tuple[Fault, ...] = ()
    for place, fault in scenario.base:
        calls = _rehearsed(driver, Case(scenario, base), directory)
        of_name = [call for call, where in calls if where == place and call.name == fault.name]
        at = fault.at if fault.is_short else of_name[fault.at - 1].ordinal
        base = (*base, replace(fault, at=at))
    once, again = (_rehearsed(driver, Case(scenario, base), directory) for _ in range(2))
    if [_shape(found) for found in once] != [_shape(found) for found in again]:
        raise RuntimeError(f"{scenario.name}: two rehearsals are not the same")
    return list(cases(scenario, base, once))


def _shape(found: tuple[Call, str]) -> tuple[object, ...]:
    call, place = found
    return call.name, call.ordinal, place, call.injected, call.error


def _rehearsed(driver: Driver, case: Case, directory: str) -> list[tuple[Call, str]]:
    with _scratch(directory) as state_directory:
        outcome = driver.run(case, state_directory)
        verdict = judge(case, outcome, state_directory)
        if verdict.violations:
            raise RuntimeError(f"{case}: {'; '.join(verdict.violations)}")
        return points(outcome.calls, state_directory)


def run(
    todo: Iterable[Case],
    directory: str,
    jobs: int,
    done: Callable[[Verdict], None] = lambda _: None,
    keep: str = "",
) -> list[Verdict]:
    """Run cases side by side; verdicts come in the order in which the cases end.

    Parameters
    ----------
    todo
        What to run.
    directory
        For the state directories, each gone after its case.
    jobs
        Drivers.
    done
        Called with each verdict, by one thread at a time.
    keep
        Directory to keep the state of violating cases in; "" keeps none.
    """
    waiting: queue.SimpleQueue[Case | None] = queue.SimpleQueue()
    for case in todo:
        waiting.put(case)
    verdicts: list[Verdict] = []
    lock = threading.Lock()
    troubles: list[BaseException] = []

    def work() -> None:
        try:
            with Driver() as driver:
                while not troubles and (case := waiting.get()) is not None:
                    verdict = _one(driver, case, directory, keep)
                    with lock:
                        verdicts.append(verdict)
                        done(verdict)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            troubles.append(error)

    threads = [threading.Thread(target=work, name=f"cases-{i}") for i in range(jobs)]
    for thread in threads:
        waiting.put(None)
        thread.start()
    for thread in threads:
        thread.join()
    if troubles:
        raise troubles[0]
    return verdicts


def _one(driver: Driver, case: Case, directory: str, keep: str) -> Verdict:
    with _scratch(directory) as state_directory:
        verdict = judge(case, driver.run(case, state_directory), state_directory)
        if verdict.violations and keep:
            os.makedirs(keep, exist_ok=True)
            name = "".join(c if c.isalnum() else "-" for c in str(case))
            shutil.copytree(state_directory, os.path.join(keep, name), dirs_exist_ok=True)
    return verdict


@contextlib.contextmanager
def _scratch(directory: str) -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="case-", dir=directory)
    try:
        yield path
    finally:
        shutil.rmtree(path)
