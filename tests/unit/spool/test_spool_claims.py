"""Claims: one owner at a time, given back unless released, and a suspect is taken alone."""

import json
import os
import threading
from pathlib import Path

import pytest

from ingestd.errors import NotFound, SpoolBroken, SpoolLocked, UsageError
from ingestd.spool import (
    Bounds,
    Claims,
    EntryName,
    RejectedSamples,
    SpoolLayout,
    SpoolLock,
    SpoolWriter,
    requeue,
    survey,
)
from ingestd.spool.claims import remove_expired


@pytest.fixture
def layout(tmp_path):
    layout = SpoolLayout(str(tmp_path))
    layout.make()
    return layout


def accept(layout, *frames):
    writer = SpoolWriter(layout, "process", lambda: 1_700_000_000 * 10**9)
    for frame in frames:
        writer.add(memoryview(frame))
    return [str(entry.name) for entry in writer.commit()]


def waiting(layout):
    return sorted(os.listdir(layout.new))


def test_the_loser_of_a_race_gets_none(layout):
    (name,) = accept(layout, b"frame")
    first, second = Claims(layout, "uploader-0"), Claims(layout, "uploader-1")
    assert first.take(name).read() == b"frame"
    assert second.take(name) is None


def test_two_claimers_racing_share_all_entries_without_overlap(layout):
    names = accept(layout, *(f"frame {i}".encode() for i in range(200)))
    taken = {"uploader-0": [], "uploader-1": []}
    barrier = threading.Barrier(2)

    def race(uploader):
        claims = Claims(layout, uploader)
        barrier.wait(5)
        for name in names:
            if claims.take(name) is not None:
                taken[uploader].append(name)

    threads = [threading.Thread(target=race, args=(uploader,)) for uploader in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(taken["uploader-0"] + taken["uploader-1"]) == names


def test_leaving_without_success_gives_the_entry_back(layout):
    (name,) = accept(layout, b"frame")
    claims = Claims(layout, "uploader-0")
    with pytest.raises(RuntimeError), claims.take(name):
        raise RuntimeError
    assert waiting(layout) == [name]


def test_release_removes_or_retains(layout):
    gone, kept = accept(layout, b"a", b"b")
    claims = Claims(layout, "uploader-0")
    with claims.take(gone) as claim:
        claim.release(retain=False)
    with claims.take(kept) as claim:
        claim.release(retain=True)
    assert waiting(layout) == []
    assert os.listdir(layout.retained) == [kept]
    assert remove_expired(layout, 3600.0) == 0
    assert remove_expired(layout, 3600.0, keep_bytes=0) == 1


def test_a_failed_entry_has_a_reason_beside_it_and_comes_back_when_requeued(layout, tmp_path):
    (name,) = accept(layout, b"frame")
    with Claims(layout, "uploader-0").take(name) as claim:
        claim.fail("conflict", "other content\x1b[31m")
    document = json.loads(Path(layout.failed, f"{name}.json").read_text())
    assert document["reason"] == "conflict"
    assert "\x1b" not in document["error"]
    assert requeue(str(tmp_path), None) == [name]
    assert waiting(layout) == [name]
    assert os.listdir(layout.failed) == []


def test_requeue_names_what_is_wrong(layout, tmp_path):
    with pytest.raises(UsageError):
        requeue(str(tmp_path), ["../../etc/passwd"])
    with pytest.raises(NotFound):
        requeue(str(tmp_path), [str(EntryName(1, 2, 3))])


def test_a_flipped_byte_is_noticed(layout):
    (name,) = accept(layout, b"frame")
    claim = Claims(layout, "uploader-0").take(name)
    assert claim.intact(claim.read())
    assert not claim.intact(b"frbme")


def test_claims_of_a_dead_uploader_come_back_as_suspects(layout):
    names = accept(layout, b"a", b"b")
    dead = Claims(layout, "uploader-0")
    for name in names:
        dead.take(name)
    assert layout.return_claims("uploader-0", counts=True) == (2, [])
    other = Claims(layout, "uploader-1")
    assert other.has_suspects()
    assert other.listing() == []
    claim = other.take_suspect()
    assert claim.name == names[0]
    claim.give_back()
    assert other.has_suspects(), "an innocent death leaves it a suspect"


def test_three_deaths_alone_fail_an_entry_and_none_of_its_neighbours(layout):
    bad, good = accept(layout, b"bad", b"good")
    claims = Claims(layout, "uploader-0")
    claims.take(bad), claims.take(good)
    layout.return_claims("uploader-0", counts=True)
    for death in (1, 2, 3):
        claim = next(c for c in iter(claims.take_suspect, None) if c.name == bad or c.release(retain=False))
        assert claim.name == bad
        _, poisoned = layout.return_claims("uploader-0", counts=True)
        assert poisoned == ([bad] if death == 3 else [])
    assert sorted(os.listdir(layout.failed)) == [bad, f"{bad}.json"]


def test_deaths_that_do_not_count_never_fail_an_entry(layout):
    (name,) = accept(layout, b"healthy")
    claims = Claims(layout, "uploader-0")
    claims.take(name)
    layout.return_claims("uploader-0", counts=True)
    for _ in range(20):
        assert claims.take_suspect().name == name
        assert layout.return_claims("uploader-0", counts=False) == (1, [])


def test_recovery_tells_of_every_file_so_that_a_long_one_can_ask_for_time(layout):
    for name in accept(layout, b"one", b"two"):
        assert Claims(layout, "uploader-0").take(name) is not None
    Path(layout.tmp, "unfinished").write_bytes(b"x")
    told = []
    layout.recover(lambda: told.append(1))
    assert len(told) == 3


def test_recovery_discards_tmp_gives_claims_back_and_leaves_foreign_files_alone(layout):
    names = accept(layout, b"a", b"b", b"c")
    claims = Claims(layout, "uploader-0")
    claims.take(names[0])
    claims.take(names[1])
    layout.return_claims("uploader-0", counts=True)
    claims.take_suspect()
    Path(os.path.join(layout.tmp, str(EntryName(1, 1, 1)))).touch()
    Path(os.path.join(layout.new, "README")).touch()
    os.symlink("/etc/passwd", os.path.join(layout.new, str(EntryName(2, 2, 2))))
    future = str(EntryName(3, 3, 3)).replace(".v1", ".v2")
    Path(os.path.join(layout.new, future)).touch()
    report = layout.recover()
    assert report.discarded == 1
    assert set(report.foreign) == {"new/README", f"new/{EntryName(2, 2, 2)}", f"new/{future}"}
    assert sorted(claims.listing()) == [names[2]]
    assert claims.has_suspects()
    assert os.path.lexists(os.path.join(layout.new, future))


def test_a_survey_counts_what_waits_and_what_is_beside_it(layout):
    names = accept(layout, b"12345", b"678")
    claims = Claims(layout, "uploader-0")
    claims.take(names[0])
    Path(os.path.join(layout.new, "stray")).touch()
    seen = survey(layout)
    assert (seen.entries, seen.bytes, seen.failed, seen.foreign) == (2, 8, 0, ("new/stray",))
    assert seen.oldest_ns == EntryName.parse(names[0]).receive_ns
    claims.take(names[1]).fail("torn", "x")
    assert survey(layout).failed == 1


@pytest.mark.parametrize(
    ("bounds", "spool_bytes", "free_bytes", "next_bytes", "expected"),
    [
        (Bounds(None, 100), 10**9, 200, 100, ""),
        (Bounds(None, 100), 0, 200, 101, "disk_low"),
        (Bounds(1000, 0), 900, 10**9, 100, ""),
        (Bounds(1000, 0), 901, 10**9, 100, "spool_full"),
    ],
)
def test_bounds_refuse_with_the_setting_that_is_met(bounds, spool_bytes, free_bytes, next_bytes, expected):
    assert bounds.refusal(spool_bytes, free_bytes, next_bytes).partition(":")[0] == expected


def test_credit_is_the_nearest_bound():
    assert Bounds(1000, 50).credit_bytes(900, 500) == 100
    assert Bounds(1000, 450).credit_bytes(900, 500) == 50
    assert Bounds(1000, 50).credit_bytes(2000, 500) == 0


def test_a_second_owner_is_refused_by_name(layout):
    with SpoolLock(layout), pytest.raises(SpoolLocked, match=f"pid {os.getpid()}"), SpoolLock(layout):
        pass
    with SpoolLock(layout):
        assert SpoolLock(layout).held_elsewhere()
    assert not SpoolLock(layout).held_elsewhere()


def test_a_new_owner_waits_for_the_roles_of_the_old_one(layout, monkeypatch):
    monkeypatch.setattr("ingestd.spool.layout._ROLES_GONE_TIMEOUT_S", 0.1)
    with SpoolLock(layout) as lock:
        role = lock.share()
    with pytest.raises(SpoolLocked, match="roles"), SpoolLock(layout):
        pass
    os.close(role)
    with SpoolLock(layout):
        pass


def test_rejected_samples_are_few_short_and_rate_limited(layout):
    now_ns = 0
    samples = RejectedSamples(layout, lambda: now_ns)
    assert samples.keep(b"x" * 10**6, "msgpack", 1) is not None
    assert samples.keep(b"y", "msgpack", 2) is None
    for i in range(150):
        now_ns += 10**9
        samples.keep(b"z", "key", 100 + i)
    kept = os.listdir(layout.rejected)
    assert len(kept) == 100
    assert max(os.path.getsize(os.path.join(layout.rejected, name)) for name in kept) <= 64 * 1024


def test_a_spool_that_is_moved_away_is_not_taken_for_one_without_abandoned_claims(tmp_path):
    layout = SpoolLayout(str(tmp_path))
    layout.make()
    claims = Claims(layout, "uploader-0")
    away = f"{layout.root}.away"
    os.rename(layout.root, away)
    with pytest.raises(SpoolBroken, match="abandoned"):
        claims.return_abandoned(())
    os.rename(away, layout.root)
    assert claims.return_abandoned(()) == 0
