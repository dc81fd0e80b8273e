"""The whole catalog: reader and writer on one connection."""

from __future__ import annotations

from ingestd.catalog.reader import CatalogReader
from ingestd.catalog.truth import CatalogTruth
from ingestd.catalog.writer import CatalogWriter

__all__ = ["Catalog"]


class Catalog(CatalogReader, CatalogWriter, CatalogTruth):
    """Catalog of a state directory; `Catalog.open(path, bucket=...)`. Thread-safe."""
