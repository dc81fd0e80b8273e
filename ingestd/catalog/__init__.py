"""The catalog: one SQLite file that knows what is where. A cache, never the truth: bucket and spool are.

`writer` keeps it, `reader` answers queries from it, `rebuild` makes it again; `schema` holds its tables and `records`
what goes in.
"""

from ingestd.catalog.database import create
from ingestd.catalog.reader import CatalogReader
from ingestd.catalog.records import (
    AcceptedBatch,
    AcceptedEntry,
    FailedEntry,
    LedgerState,
    NodeSeen,
    Rejection,
    StoredEntry,
)
from ingestd.catalog.store import Catalog

__all__ = [
    "AcceptedBatch",
    "AcceptedEntry",
    "Catalog",
    "CatalogReader",
    "FailedEntry",
    "LedgerState",
    "NodeSeen",
    "Rejection",
    "StoredEntry",
    "create",
]
