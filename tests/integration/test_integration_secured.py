"""`scripts/secured --short`: every attack of it is harmless, nothing is lost, and the costs are those of a daemon that works."""

import pytest

from ingestd.errors import IngestdError
from ingestd.testing.secured.__main__ import measure
from ingestd.testing.secured.attacks import Attack, Seen, attacks
from ingestd.testing.secured.trial import attacked_daemon, try_attack

pytestmark = pytest.mark.minio


@pytest.mark.slow
def test_attacks_on_memory_do_no_harm_and_are_seen(minio_binary, tmp_path):
    found = measure(minio_binary, str(tmp_path), 1, print, short=True, only="attacks")
    assert found.errors() == []
    # Two cases of each attack.
    assert len(found.trials) == 2 * len({attack.group for attack in attacks()})
    assert all(one.peak_mb >= one.rest_mb > 0 for one in found.trials)
    # It was an attack, and not only called one.
    assert max(one.peak_mb for one in found.trials if one.group == "endless parts") > 1000


def test_an_attack_that_succeeds_or_that_nobody_notices_is_no_harmless_one(tmp_path):
    def kill(daemon, _seconds):
        daemon.popen.kill()
        daemon.popen.wait(5)
        return Seen()

    unseen = Attack("unseen", "", lambda _daemon, _seconds: Seen(), lambda *_: False)
    deadly = Attack("deadly", "", kill, lambda *_: True)
    with pytest.raises(IngestdError, match="the supervisor died"), attacked_daemon(str(tmp_path)) as daemon:
        assert "cannot be seen" in try_attack(unseen, daemon, 0.0, 0).why
        harmed = try_attack(deadly, daemon, 0.0, 1)
        assert harmed.why == "IngestdError: the supervisor died"
        assert not harmed.harmless


def costs(minio_binary, directory, n_rounds):
    directory.mkdir()
    found = measure(minio_binary, str(directory), n_rounds, print, short=True, only="costs")
    assert found.errors() == []
    return found.costs.spreads()


def encrypted_share(cases, name):
    """Frames/s with encryption over those without."""
    return cases[name]["with"]["frames_per_s"].median / cases[name]["without"]["frames_per_s"].median


@pytest.mark.slow
def test_with_keys_tls_and_floods_everything_is_accepted_and_stored(minio_binary, tmp_path):
    cases = costs(minio_binary, tmp_path / "one", 1)
    assert {name: set(group) for name, group in cases.items()} == {
        "curve": {"without", "with"},
        "tls": {"without", "with"},
        "questions": {"quiet", "flood", "echo"},
    }
    for group in cases.values():
        for figures in group.values():
            assert all(figures[name].low > 0 for name in ("frames_per_s", "cpu_ms"))
    # A flood is beyond what is answered.
    assert cases["questions"]["flood"]["replies_per_s"].low > 0
    # Encryption costs something and does not stop anything. A run takes half a second: where the machine stood still in
    # one of them, three rounds decide, as for the gates of the benchmark.
    if not all(0.05 < encrypted_share(cases, name) < 2 for name in ("curve", "tls")):
        cases = costs(minio_binary, tmp_path / "three", 3)
    assert 0.05 < encrypted_share(cases, "curve") < 2
    assert 0.05 < encrypted_share(cases, "tls") < 2
