"""One process's hold on the catalog: a connection behind a lock, opened again when the file was replaced."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from typing import Self

from ingestd.catalog.database import catalog_errors, connect

__all__ = ["CatalogConnection"]

#: Longest wait for another writer [s]; then the write is put off, because acceptance must not wait.
BUSY_TIMEOUT_S = 0.25


class CatalogConnection:
    """Connection to the catalog, as a `with` block. Thread-safe: statements of threads take turns.

    Parameters
    ----------
    path
        Of the file.
    bucket
        Name of the bucket, for `s3://` paths in replies.
    readonly
        Whether nothing may be written.
    busy_timeout_s
        Longest wait for another process's transaction [s].
    """

    def __init__(self, path: str, bucket: str, *, readonly: bool, busy_timeout_s: float) -> None:
        self._path = path
        self._bucket = bucket
        self._readonly = readonly
        self._busy_timeout_s = busy_timeout_s
        self._lock = threading.RLock()
        self._inode = 0
        self._connection: sqlite3.Connection | None = None

    @classmethod
    def open(
        cls,
        path: str,
        *,
        bucket: str = "",
        readonly: bool = False,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> Self:
        """Open an existing catalog.

        Raises
        ------
        CatalogCorrupt
            There is none, or it cannot be used; `create` makes a new one.
        """
        opened = cls(path, bucket, readonly=readonly, busy_timeout_s=busy_timeout_s)
        opened._current()
        return opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._drop()

    def interrupt(self) -> None:
        """End a query that another thread runs: it raises CatalogBusy there."""
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(sqlite3.ProgrammingError):
                connection.interrupt()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _current(self) -> sqlite3.Connection:
        """The connection to the file that has the name now; the receiver replaces a broken one."""
        try:
            inode = os.stat(self._path).st_ino
        except OSError:
            inode = 0
        if self._connection is None or inode != self._inode:
            self._drop()
            self._connection = connect(
                self._path, readonly=self._readonly, busy_timeout_s=self._busy_timeout_s
            )
            self._inode = inode
        return self._connection

    @contextlib.contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of the file for a `with` block."""
        with self._lock, catalog_errors(self._path):
            connection = self._current()
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing."""
        with self._lock, catalog_errors(self._path):
            connection = self._current()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except sqlite3.OperationalError as error:
                # SQLite opens a file on a read-only disk for reading only, and such a connection never writes again,
                # whatever becomes of the disk: the next write opens a new one.
                if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY:
                    self._drop()
                raise
            finally:
                if connection is self._connection and connection.in_transaction:
                    connection.execute("ROLLBACK")
