"""Forms of the spool that are compared: both take whole frames and give them back, or say that they do not."""

import pytest

from ingestd.errors import IngestdError
from ingestd.testing.bench import spool_forms
from ingestd.testing.bench.runs import plan_of


@pytest.mark.parametrize("form", [spool_forms.files, spool_forms.segment])
@pytest.mark.parametrize("group", [1, 7])
def test_a_form_is_measured_over_more_frames_than_it_has_places(tmp_path, form, group):
    values = form(str(tmp_path), plan_of(n_samples=1000), 140, group)
    assert values["cpu_ms"] > 0
    assert 0 < values["elapsed_ms"] < 1000


@pytest.mark.parametrize("form", [spool_forms.files, spool_forms.segment])
def test_an_entry_that_is_not_what_was_written_is_not_a_result(tmp_path, monkeypatch, form):
    crcs = iter(range(10**6))
    monkeypatch.setattr(spool_forms, "crc32c", lambda _frame: next(crcs))
    monkeypatch.setattr("ingestd.spool.writer.crc32c", lambda _frame: next(crcs))
    with pytest.raises(IngestdError, match="is not what was"):
        form(str(tmp_path), plan_of(n_samples=1000), 7, 1)
