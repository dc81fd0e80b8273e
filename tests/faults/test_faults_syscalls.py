"""Every system call of the durable path in short, and that the oracle would see what goes wrong there."""

import os
import random
import shutil

import pytest

from ingestd.formats.checksum import crc32c
from ingestd.spool import EntryName, SpoolLayout
from ingestd.testing.syscalls.enumeration import Driver, plan, run
from ingestd.testing.syscalls.oracle import (
    Outcome,
    Remains,
    Verdict,
    accept_order,
    judge,
    judge_life,
    judge_receiver,
    judge_uploader,
    overwrite_order,
    release_order,
    second_syncs,
)
from ingestd.testing.syscalls.plan import CONTROL, KILL, SCENARIOS, Case, Fault, Scenario, cases, points
from ingestd.testing.syscalls.report import Report, table
from ingestd.testing.syscalls.subjects import frame
from ingestd.testing.syscalls.trace import parse, place_of

STATE = "/state"
FRAMES = [frame(i) for i in range(2)]
NAMES = [str(EntryName(i + 1, i + 1, crc32c(one))) for i, one in enumerate(FRAMES)]
WHOLE = {f"new/{name}": one for name, one in zip(NAMES, FRAMES, strict=True)}
RECEIVER = Scenario("receiver", "receiver", (2,))
UPLOADER = Scenario("uploader", "uploader", (2,))


def accepting(name=NAMES[0]):
    """Lines of strace of one acceptance as it must be."""
    tmp, new = f"{STATE}/spool/tmp/{name}", f"{STATE}/spool/new"
    return [
        f'openat(AT_FDCWD</>, "{tmp}", O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC, 0640) = 7<{tmp}>',
        f'write(7<{tmp}>, "\\212\\247 = 1) \\"x"..., 20) = 20',
        f"fdatasync(7<{tmp}>)  = 0",
        f'rename("{tmp}", "{new}/{name}") = 0',
        f'openat(AT_FDCWD</>, "{new}", O_RDONLY|O_CLOEXEC|O_DIRECTORY) = 8<{new}>',
        f"fsync(8<{new}>)   = 0",
        f"close(8<{new}>)   = 0",
        f"close(7<{new}/{name}>) = 0",
        f'sendto(5<socket:[1]>, "{name}", 41, 0, NULL, 0) = 41',
    ]


def releasing(name=NAMES[0], key="sessions/frame-0/websdr_1"):
    """Lines of strace of one upload as it must be."""
    bucket = f"{STATE}/objects/heimdall-raw-iq"
    lines = []
    for number, path in enumerate((f"{bucket}/{key}.npy", f"{bucket}/{key}_metadata.json")):
        scratch, parent = f"{bucket}/.tmp/{number}", os.path.dirname(path)
        lines += [
            f'openat(AT_FDCWD</>, "{scratch}", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0644) = 9<{scratch}>',
            f'write(9<{scratch}>, "x", 1) = 1',
            f"fdatasync(9<{scratch}>) = 0",
            f'link("{scratch}", "{path}") = 0',
            f'openat(AT_FDCWD</>, "{parent}", O_RDONLY|O_CLOEXEC|O_DIRECTORY) = 9<{parent}>',
            f"fsync(9<{parent}>) = 0",
        ]
    return [
        *lines,
        f'unlink("{STATE}/spool/claimed/uploader-0/{name}") = 0',
        f'sendto(5<socket:[1]>, "{name}", 41, 0, NULL, 0) = 41',
    ]


def overwriting(name=NAMES[0]):
    """Lines of strace of a released file that is taken as it must be."""
    spare, claimed = f"{STATE}/spool/spare", f"{STATE}/spool/claimed/uploader-0"
    return [
        f"fsync(8<{spare}>)   = 0",
        f"fsync(8<{claimed}>)   = 0",
        f'rename("{spare}/{name}", "{STATE}/spool/tmp/{name}") = 0',
    ]


def outcome(lines, told=(NAMES[0],), status=0, hung=False):
    return Outcome(tuple(told), status, hung, tuple(parse(lines)))


def without(lines, part):
    left = [line for line in lines if part not in line]
    assert len(left) < len(lines)
    return left


class TestTrace:
    def test_a_call_has_its_paths_its_result_and_its_ordinal(self):
        calls = parse(accepting())
        assert [call.name for call in calls][:4] == ["openat", "write", "fdatasync", "rename"]
        assert calls[3].paths == (f"{STATE}/spool/tmp/{NAMES[0]}", f"{STATE}/spool/new/{NAMES[0]}")
        assert [call.ordinal for call in calls if call.name == "openat"] == [1, 2]
        assert calls[-1].text == NAMES[0]
        assert all(call.done and not call.injected for call in calls)

    def test_places_are_told_from_paths(self):
        places = [place_of(call, STATE) for call in parse(accepting())]
        assert places == ["tmp", "tmp", "tmp", "new", "new", "new", "new", "new", "told"]
        (elsewhere,) = parse(["fdatasync(3</state/catalog.sqlite3-wal>) = 0"])
        assert place_of(elsewhere, STATE) == ""

    def test_an_injected_error_is_seen(self):
        (call,) = parse(["fsync(3</a>) = -1 EIO (Input/output error) (INJECTED)"])
        assert (call.error, call.injected, call.done) == ("EIO", True, False)

    def test_a_delayed_call_is_seen_and_took_effect(self):
        (call,) = parse(["fsync(3</a>) = 0 (DELAYED)"])
        assert call.injected
        assert call.done

    def test_a_call_in_which_the_process_died_has_no_result(self):
        (call,) = parse(['rename("/a", "/b") = ?', "+++ killed by SIGKILL +++"])
        assert call.result is None
        assert not call.done

    def test_a_deleted_file_keeps_its_name(self):
        for shown in ("4</a (deleted)>", "4</a>(deleted)"):
            (call,) = parse([f"close({shown}) = 0"])
            assert call.paths == ("/a",)

    def test_a_line_that_is_not_understood_is_an_error(self):
        with pytest.raises(ValueError, match="not a line of strace"):
            parse(["rename(<unfinished ...>"])


class TestPlan:
    @pytest.mark.parametrize(
        ("fault", "expression"),
        [
            (Fault("write", KILL, 3), "inject=write:signal=KILL:when=3"),
            (Fault("fsync", "EIO", 2, "twice"), "inject=fsync:error=EIO:when=2..3"),
            (Fault("write", "ENOSPC", 2, "burst"), "inject=write:error=ENOSPC:when=2..6"),
            (Fault("openat", "EIO", 4, "forever"), "inject=openat:error=EIO:when=4+"),
            (Fault("fsync", "DELAY", 1), "inject=fsync:delay_enter=20000:when=1"),
        ],
    )
    def test_a_fault_is_an_expression_of_strace(self, fault, expression):
        assert fault.expression() == expression

    def test_every_call_is_killed_and_failed_and_every_write_is_cut_short(self):
        found = points(parse(accepting()), STATE)
        planned = list(cases(RECEIVER, (), found))
        killed = {(c.fault.name, c.fault.at) for c in planned if c.fault.action == KILL}
        assert killed == {(call.name, call.ordinal) for call, _ in found}
        assert {c.fault.action for c in planned if c.fault.name == "write"} >= {"EIO", "ENOSPC", "short-half"}
        assert {c.fault.lasting for c in planned if c.fault.name == "fdatasync"} == {
            "once",
            "twice",
            "forever",
        }

    def test_calls_elsewhere_are_no_points(self):
        assert points(parse(["fdatasync(3</state/catalog.sqlite3-wal>) = 0"]), STATE) == []

    def test_only_what_never_ends_is_asked_to_stop(self):
        assert Case(RECEIVER, (), Fault("fsync", "EIO", 1)).stop_after_s is None
        assert Case(RECEIVER, (), Fault("fsync", "EIO", 1, "forever")).stop_after_s > 0


class TestAcceptOrder:
    def test_the_right_order_is_clean(self):
        assert list(accept_order(outcome(accepting()), STATE)) == []

    @pytest.mark.parametrize(
        ("left_out", "said"),
        [
            ("fdatasync(", "before its bytes were synced"),
            ("fsync(8", "before its name was synced"),
            ("rename(", "before it was renamed"),
            ("sendto(", "by no call"),
        ],
    )
    def test_a_step_that_is_left_out_is_seen(self, left_out, said):
        (found,) = accept_order(outcome(without(accepting(), left_out)), STATE)
        assert said in found

    def test_told_before_the_sync_of_the_name_is_seen(self):
        lines = accepting()
        lines.insert(5, lines.pop())
        (found,) = accept_order(outcome(lines), STATE)
        assert "before its name was synced" in found

    def test_a_write_after_the_sync_is_seen(self):
        lines = accepting()
        lines.insert(3, lines[1])
        (found,) = accept_order(outcome(lines), STATE)
        assert "before its bytes were synced" in found

    def test_a_second_sync_of_the_name_makes_up_for_no_failed_one(self):
        lines = accepting()
        lines.insert(5, lines[5].replace("= 0", "= -1 EIO (Input/output error) (INJECTED)"))
        (found,) = accept_order(outcome(lines), STATE)
        assert "before its name was synced" in found


class TestReleaseOrder:
    def test_the_right_order_is_clean(self):
        assert list(release_order(outcome(releasing()), STATE, 2)) == []

    def test_an_entry_removed_before_its_objects_are_named_is_seen(self):
        lines = releasing()
        lines.insert(6, lines.pop(-2))
        (found,) = release_order(outcome(lines), STATE, 2)
        assert "_metadata.json was not linked" in found

    @pytest.mark.parametrize(
        ("left_out", "said"),
        [
            ("fdatasync(", "before its bytes"),
            ("fsync(9", "before the name of"),
            ("unlink(", "before it was removed"),
        ],
    )
    def test_a_step_that_is_left_out_is_seen(self, left_out, said):
        found = list(release_order(outcome(without(releasing(), left_out)), STATE, 2))
        assert found
        assert all(said in one for one in found)


class TestOverwriteOrder:
    def test_the_right_order_is_clean(self):
        assert list(overwrite_order(outcome(overwriting()), STATE)) == []

    @pytest.mark.parametrize("left_out", ["/spare>", "/uploader-0>"])
    def test_a_directory_that_was_not_synced_is_seen(self, left_out):
        (found,) = overwrite_order(outcome(without(overwriting(), left_out)), STATE)
        assert "was not synced" in found

    def test_a_sync_that_failed_or_came_later_is_none(self):
        lines = overwriting()
        lines[0] = lines[0].replace("= 0", "= -1 EIO (Input/output error) (INJECTED)")
        assert len(list(overwrite_order(outcome(lines), STATE))) == 1
        lines = overwriting()
        lines.insert(0, lines.pop())
        assert len(list(overwrite_order(outcome(lines), STATE))) == 2

    def test_an_entry_that_is_left_to_be_written_over_counts_as_removed(self):
        lines = [line.replace("unlink(", "rename(") for line in releasing()]
        lines[-2] = lines[-2].replace('") = 0', f'", "{STATE}/spool/spare/{NAMES[0]}") = 0')
        assert list(release_order(outcome(lines), STATE, 2)) == []


class TestSecondSync:
    FAILED = f"fdatasync(7<{STATE}/spool/tmp/{NAMES[0]}>) = -1 EIO (Input/output error) (INJECTED)"

    def test_of_the_same_file_is_seen(self):
        lines = accepting()
        lines.insert(2, self.FAILED)
        (found,) = second_syncs(parse(lines), STATE)
        assert "synced again" in found

    def test_of_the_same_file_opened_again_is_seen(self):
        lines = accepting()
        assert list(second_syncs(parse([*lines[:2], self.FAILED, *lines]), STATE))

    def test_of_a_new_file_under_the_same_name_is_none(self):
        lines = accepting()
        removed = f'unlink("{STATE}/spool/tmp/{NAMES[0]}") = 0'
        assert list(second_syncs(parse([*lines[:2], self.FAILED, removed, *lines]), STATE)) == []

    def test_after_a_signal_is_none(self):
        interrupted = self.FAILED.replace("EIO (Input/output error)", "EINTR (Interrupted system call)")
        lines = accepting()
        lines.insert(2, interrupted)
        assert list(second_syncs(parse(lines), STATE)) == []


class TestReceiverRemains:
    def found(self, spool, told=NAMES):
        return list(judge_receiver(told, Remains(spool, {}), 2))

    def test_every_entry_once_and_whole_is_clean(self):
        assert self.found(WHOLE) == []

    def test_a_told_entry_that_is_missing_is_lost(self):
        (found,) = self.found({f"new/{NAMES[0]}": FRAMES[0]})
        assert found.startswith(f"lost: {NAMES[1]}")

    @pytest.mark.parametrize(
        "damage", [lambda b: b[:-1], lambda _: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1])]
    )
    def test_a_torn_file_is_seen_told_or_not(self, damage):
        for told in (NAMES, NAMES[:1]):
            found = self.found(WHOLE | {f"new/{NAMES[1]}": damage(FRAMES[1])}, told)
            assert [one.startswith("torn: ") for one in found] == [True]

    def test_an_entry_given_up_is_seen(self):
        found = self.found({f"failed/{NAMES[0]}": FRAMES[0], f"new/{NAMES[1]}": FRAMES[1]})
        assert any("failed" in one for one in found)

    def test_what_is_left_in_tmp_is_seen(self):
        assert self.found(WHOLE | {f"tmp/{NAMES[0]}": FRAMES[0]})

    def test_a_frame_told_twice_is_seen(self):
        again = str(EntryName(9, 9, crc32c(FRAMES[0])))
        assert self.found(WHOLE | {f"new/{again}": FRAMES[0]}, [*NAMES, again]) == [
            "a frame was told 2 times"
        ]

    def test_an_untold_copy_is_no_harm(self):
        again = str(EntryName(9, 9, crc32c(FRAMES[0])))
        assert self.found(WHOLE | {f"new/{again}": FRAMES[0]}) == []


class TestUploaderRemains:
    @pytest.fixture
    def pairs(self):
        from ingestd.testing.syscalls import oracle

        return [dict(oracle._pair(2, crc32c(one))) for one in FRAMES]

    def found(self, told, spool, objects):
        return list(judge_uploader(told, Remains(spool, objects), 2))

    def test_stored_or_in_the_spool_is_clean(self, pairs):
        assert self.found(NAMES, {}, pairs[0] | pairs[1]) == []
        assert self.found(NAMES[:1], {f"new/{NAMES[1]}": FRAMES[1]}, pairs[0]) == []

    def test_in_neither_is_lost(self, pairs):
        (found,) = self.found(NAMES[:1], {}, pairs[0])
        assert found.startswith("lost: sessions/frame-1/websdr_1.npy")

    def test_told_and_not_stored_is_lost(self, pairs):
        npy = "sessions/frame-1/websdr_1.npy"
        (found,) = self.found(NAMES, {}, pairs[0] | {npy: pairs[1][npy]})
        assert "was told" in found

    def test_metadata_alone_is_seen(self, pairs):
        metadata = "sessions/frame-1/websdr_1_metadata.json"
        spool = {f"new/{NAMES[1]}": FRAMES[1]}
        (found,) = self.found(NAMES[:1], spool, pairs[0] | {metadata: pairs[1][metadata]})
        assert found == f"{metadata} is there without its .npy"

    def test_a_torn_object_under_a_final_name_is_seen(self, pairs):
        npy = "sessions/frame-1/websdr_1.npy"
        spool = {f"new/{NAMES[1]}": FRAMES[1]}
        (found,) = self.found(NAMES[:1], spool, pairs[0] | {npy: pairs[1][npy][:-1]})
        assert found.startswith(f"torn: {npy}")

    def test_told_and_still_there_is_seen(self, pairs):
        (found,) = self.found(NAMES, {f"new/{NAMES[1]}": FRAMES[1]}, pairs[0] | pairs[1])
        assert "is in the spool" in found


class TestLife:
    ONCE = Case(RECEIVER, (), Fault("fsync", "EIO", 1))

    def found(self, case, **how):
        return list(judge_life(case, outcome([], **({"told": NAMES} | how))))

    def test_survived_with_everything_told_is_clean(self):
        assert self.found(self.ONCE) == []

    def test_a_hang_a_death_and_an_entry_never_told_are_seen(self):
        assert self.found(self.ONCE, hung=True) == ["the subject hangs"]
        assert "status 70" in self.found(self.ONCE, status=70)[0]
        assert "1 entries" in self.found(self.ONCE, told=NAMES[:1])[0]

    def test_a_disk_that_never_recovers_may_leave_entries_untold(self):
        assert self.found(Case(RECEIVER, (), Fault("fsync", "EIO", 1, "forever")), told=()) == []

    def test_the_killed_may_be_dead_but_of_nothing_else(self):
        case = Case(RECEIVER, (), Fault("fsync", KILL, 1))
        assert self.found(case, told=(), status=-9) == []
        assert self.found(case, told=(), status=70)


def test_judging_recovers_the_spool_first(tmp_path):
    layout = SpoolLayout(str(tmp_path))
    layout.make()
    (tmp_path / "spool/tmp" / NAMES[0]).write_bytes(FRAMES[0][:7])
    os.mkdir(layout.uploader("uploader-0"))
    for name, one in zip(NAMES, FRAMES, strict=True):
        (tmp_path / "spool/claimed/uploader-0" / name).write_bytes(one)
    killed = Case(UPLOADER, (), Fault("fsync", KILL, 1))
    verdict = judge(killed, outcome([], told=(), status=-9), str(tmp_path))
    assert verdict == Verdict(killed, (), True, 0)


def test_a_report_counts_what_is_wrong_and_what_never_struck():
    fault = Fault("fsync", "EIO", 1)
    fine = Verdict(Case(RECEIVER, (), fault), (), True, 2)
    killed = Verdict(Case(RECEIVER, (), Fault("fsync", KILL, 1)), ("lost: x",), True, 1)
    missed = Verdict(Case(RECEIVER, (), Fault("write", "short-one", 1)), (), False, 2)
    assert Report([fine], 1.0, 1).clean
    assert not Report([fine, missed], 1.0, 1).clean
    report = Report([fine, killed, missed], 1.0, 1)
    assert not report.clean
    document = report.document()
    assert (document["points"], document["cases"], document["violations"]) == (1, 3, 1)
    assert document["wrong"] == {str(killed.case): ["lost: x"]}
    assert document["calls"]["fsync"] == {"failed": 1, "killed": 1, "violations": 1}
    assert next(column.header for column in table(report).columns) == "call"


@pytest.fixture(scope="module")
def traced_driver(tmp_path_factory):
    """A driver on a machine where strace can attach; the reason otherwise."""
    if shutil.which("strace") is None:
        pytest.skip("no strace: apt-get install strace")
    with Driver() as driver:
        try:
            driver.run(Case(Scenario("probe", "receiver", (1,))), str(tmp_path_factory.mktemp("probe")))
        except RuntimeError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"{error}")
        yield driver


def in_short(driver, name, directory):
    """Verdicts of one case of each kind of fault of a scenario."""
    (scenario,) = [one for one in SCENARIOS if one.name == name]
    todo = plan(driver, scenario, directory)
    random.Random(7).shuffle(todo)
    kinds = {(case.fault.name, case.fault.action, case.fault.lasting): case for case in todo}
    return run(kinds.values(), directory, 2)


@pytest.mark.slow
class TestEnumeration:
    @staticmethod
    def assert_clean(verdicts):
        assert {str(one.case): one.violations for one in verdicts if one.violations} == {}
        assert [str(one.case) for one in verdicts if not one.injected] == []

    @pytest.mark.parametrize("scenario", ["receiver", "uploader"])
    def test_one_of_each_kind_of_fault_loses_nothing(self, traced_driver, tmp_path, scenario):
        verdicts = in_short(traced_driver, scenario, str(tmp_path))
        self.assert_clean(verdicts)
        assert len(verdicts) > 30

    def test_an_error_of_close_costs_the_receiver_nothing(self, traced_driver, tmp_path):
        todo = plan(traced_driver, SCENARIOS[0], str(tmp_path))
        verdicts = run(
            [case for case in todo if (case.fault.name, case.fault.action) == ("close", "EIO")],
            str(tmp_path),
            2,
        )
        assert len(verdicts) > 8
        self.assert_clean(verdicts)

    def test_a_file_whose_sync_failed_and_that_cannot_be_removed_is_not_synced_again(
        self, traced_driver, tmp_path
    ):
        (scenario,) = [one for one in SCENARIOS if one.name == "receiver, fdatasync: disk full"]
        todo = plan(traced_driver, scenario, str(tmp_path))
        verdicts = run([case for case in todo if case.fault.lasting == "forever"], str(tmp_path), 2)
        assert verdicts
        self.assert_clean(verdicts)

    def test_a_receiver_that_syncs_nothing_is_found_out(self, traced_driver, tmp_path):
        (verdict,) = run([Case(CONTROL)], str(tmp_path), 1)
        assert verdict.told == 3
        assert sum("before its bytes were synced" in one for one in verdict.violations) == 3
        assert sum("before its name was synced" in one for one in verdict.violations) == 3
        assert len(verdict.violations) == 6
