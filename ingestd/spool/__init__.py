"""The spool: a maildir of frames, one file an entry; the directory is the truth.

- `names`: how an entry is called; `layout`: its directories, the locks and recovery at start.
- `writer`: accept (receiver). `claims`: claim, release, give back, fail (uploaders).
- `survey`: what is in it, what fits in, retention. `samples`: rejected frames kept for a look.
"""

from ingestd.spool.claims import Claim, Claims
from ingestd.spool.layout import SpoolLayout, SpoolLock, requeue
from ingestd.spool.names import EntryName
from ingestd.spool.samples import RejectedSamples
from ingestd.spool.survey import Bounds, SpoolSurvey, survey
from ingestd.spool.writer import SpoolWriter, StagedEntry, Step

__all__ = [
    "Bounds",
    "Claim",
    "Claims",
    "EntryName",
    "RejectedSamples",
    "SpoolLayout",
    "SpoolLock",
    "SpoolSurvey",
    "SpoolWriter",
    "StagedEntry",
    "Step",
    "requeue",
    "survey",
]
