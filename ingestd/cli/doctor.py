"""Words of `ingestd doctor`: one finding, for people or for programs."""

from __future__ import annotations

import json
from dataclasses import asdict

from ingestd.roles.doctor import Finding, Level

__all__ = ["render"]


def render(finding: Finding, *, as_json: bool) -> str:
    """Write a finding as a line, with its advice as another; or as one JSON document.

    Parameters
    ----------
    finding
        Of `examine`.
    as_json
        Whether a program reads it.
    """
    if as_json:
        return json.dumps(asdict(finding))
    line = f"{finding.level:<8} {finding.check:<9} {finding.text}"
    return (
        line if finding.level is Level.OK or not finding.advice else f"{line}\n{'':<18} -> {finding.advice}"
    )
