"""The SQLite file itself: opened, made, set aside when it cannot be used, and its errors translated."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from ingestd.catalog.schema import SCHEMA, VERSION
from ingestd.errors import CatalogBusy, CatalogCorrupt, CatalogError, bounded

__all__ = ["catalog_errors", "connect", "create", "decoded", "trusting_rows"]

#: A broken catalog is kept for a look under this name, the newest one only.
_ASIDE = "corrupt"

#: Files that SQLite keeps beside its database.
_SIDES = ("", "-wal", "-shm")

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT})

#: Our statements and values are right, so a file in which they fail is wrong: missing tables and columns, broken
#: constraints, texts that are no UTF-8 (no code at all).
_CORRUPT = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_CONSTRAINT}
)
_OUR_STATEMENT = frozenset({0, sqlite3.SQLITE_ERROR})

#: What reading a row raises where a flipped bit made another type or another name of a value.
_WRONG_ROW = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)

_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextlib.contextmanager
def catalog_errors(path: str) -> Iterator[None]:
    """Translate what sqlite3 raises."""
    try:
        yield
    except sqlite3.Error as error:
        # The extended codes keep the primary one in their low byte.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        text = f"catalog {path}: {error}"
        if code in _BUSY:
            raise CatalogBusy(text) from error
        if code in _CORRUPT or (isinstance(error, sqlite3.OperationalError) and code in _OUR_STATEMENT):
            raise CatalogCorrupt(text) from error
        raise CatalogError(text) from error
    except UnicodeDecodeError as error:
        # The sqlite3 module itself fails on a broken name in an error message or a column.
        raise CatalogCorrupt(f"catalog {path}: a name in it is no UTF-8") from error


def trusting_rows(read: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a method that trusts the rows it reads raise CatalogCorrupt where they are not what was written."""

    @functools.wraps(read)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return read(*args, **kwargs)
        except _WRONG_ROW as error:
            raise CatalogCorrupt(
                f"a row of the catalog is not what was written: {bounded(str(error))}"
            ) from error

    return checked


def decoded(text: str) -> Any:
    """Read one of our own JSON columns back.

    Raises
    ------
    CatalogCorrupt
        It is not what was written.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise CatalogCorrupt(f"a column of the catalog is no JSON: {bounded(text)}") from error


def connect(path: str, *, readonly: bool, busy_timeout_s: float) -> sqlite3.Connection:
    """Open an existing catalog.

    Raises
    ------
    CatalogCorrupt
        There is none, it is no database, or of another version.
    """
    if not os.path.exists(path):
        raise CatalogCorrupt(f"catalog {path}: not there")
    with catalog_errors(path):
        mode = "ro" if readonly else "rw"
        connection = sqlite3.connect(
            f"file:{_quoted(path)}?mode={mode}",
            uri=True,
            timeout=busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=64,
        )
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA synchronous = NORMAL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version != VERSION:
                raise CatalogCorrupt(f"catalog {path}: version {version}, not {VERSION}")  # noqa: TRY301 - closes the connection
        except BaseException:
            connection.close()
            raise
        return connection


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def create(path: str, *, condemned: bool = False) -> bool:
    """Have a usable catalog at `path`; whether it is a new one.

    What cannot be used is set aside as `{path}.corrupt`.

    Parameters
    ----------
    path
        Of the file.
    condemned
        Whether what is there was found broken in use. Only the first page of every table is looked at here, because the
        file may be large; damage elsewhere is met on the way, and then this function must believe it.

    Raises
    ------
    CatalogError
        It cannot be made.
    """
    if not condemned and os.path.exists(path) and _usable(path):
        return False
    _set_aside(path)
    scratch = f"{path}.new"
    with catalog_errors(path):
        try:
            _remove(scratch)
            connection = sqlite3.connect(scratch, isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version = {VERSION};COMMIT;")
                connection.execute("INSERT INTO meta VALUES ('boot', ?)", (secrets.token_hex(8),))
            finally:
                connection.close()
            # Appears whole: other processes open it by name at any time.
            os.rename(scratch, path)
        except OSError as error:
            raise CatalogError(f"catalog {path}: {error.strerror}") from error
    return True


def _usable(path: str) -> bool:
    try:
        connection = connect(path, readonly=False, busy_timeout_s=5.0)
    except CatalogCorrupt:
        return False
    try:
        with catalog_errors(path):
            tables = {
                row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
            }
            for table in ("meta", "entries", "sessions", "ledgers", "nodes", "rejected", "ended", "totals"):
                if table not in tables:
                    return False
                connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()  # noqa: S608 - our own names
            return bool(connection.execute("SELECT value FROM meta WHERE key = 'boot'").fetchone())
    except CatalogCorrupt:
        return False
    finally:
        connection.close()


def _set_aside(path: str) -> None:
    for side in _SIDES:
        with contextlib.suppress(FileNotFoundError):
            try:
                os.rename(path + side, f"{path}.{_ASIDE}{side}")
            except OSError as error:
                if isinstance(error, FileNotFoundError):
                    raise
                raise CatalogError(f"catalog {path}: {error.strerror}") from error


def _remove(path: str) -> None:
    for side in _SIDES:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + side)
