"""Open the control plane's database: SQLite for one machine, PostgreSQL through its URL for more."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import ArgumentError, OperationalError

from controlplane.errors import DatabaseInvalid, DatabaseUnavailable

BUSY_TIMEOUT_MS = 20_000  # a commit waits for the disk, which others may keep busy for seconds
POSTGRES_LOCK = 0x1E06E5  # any number, the same for every writer of this database
_READS = "interlock_reads"
# What SQLite calls an operational error may be a mistake in a statement; these are troubles of the machine.
_TROUBLES = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
)


def is_wal_safe(version: tuple[int, ...]) -> bool:
    """Say whether this SQLite is free of the WAL-reset bug, which corrupts a database with two connections.

    Source: sqlite.org/wal.html; fixed in 3.51.3, and in the 3.50 line from 3.50.7 and the 3.44 line from 3.44.6.
    """
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def open_database(url: str) -> Engine:
    """Open a database by its SQLAlchemy URL.

    On SQLite every transaction takes the write lock when it begins, so that it cannot fail half way for
    having read first; on PostgreSQL ``lock_writers`` does that. Use ``reading`` for the ones that only look.

    Raises:
        DatabaseInvalid: The URL is malformed or its driver is not installed.
    """
    try:
        parsed = make_url(url)
        is_sqlite = parsed.get_backend_name() == "sqlite"
        # What a statement carries may be a caller's text; an error that names the statement is logged.
        engine = create_engine(parsed, hide_parameters=True, pool_pre_ping=not is_sqlite)
    except (ArgumentError, ImportError) as error:
        raise DatabaseInvalid(
            f"database URL cannot be used ({type(error).__name__}), "
            "expected 'sqlite:///path' or 'postgresql+psycopg://user@host/name'"
        ) from error
    if is_sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def reading(engine: Engine) -> Engine:
    """Return a view of the engine whose transactions only read, and so do not wait for a writer to finish.

    Each sees the database as it was at one moment.
    """
    if engine.dialect.name == "postgresql":
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return engine.execution_options(**{_READS: True})


@contextmanager
def available() -> Iterator[None]:
    """Say of a database that is gone, full or held by another process that it cannot be used for now.

    Raises:
        DatabaseUnavailable: It is; nothing of the transaction was kept.
    """
    try:
        yield
    except OperationalError as error:
        if isinstance(error.orig, sqlite3.Error) and error.orig.sqlite_errorcode & 0xFF not in _TROUBLES:
            raise
        raise DatabaseUnavailable from error


def lock_writers(connection: Connection) -> None:
    """Wait until no other transaction writes, and keep others out until this one ends.

    SQLite's write transactions exclude each other by themselves.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(POSTGRES_LOCK)))


def _prepare_sqlite(connection: Any, _: object) -> None:
    # The driver must not open transactions by itself: it would start them late, and deferred.
    connection.isolation_level = None
    cursor = connection.cursor()
    journal = "WAL" if is_wal_safe(sqlite3.sqlite_version_info) else "TRUNCATE"
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",  # first: changing the journal mode may have to wait for another process
        f"journal_mode={journal}",
        "synchronous=FULL",
        "cache_spill=OFF",  # with a rollback journal, a page written before the commit keeps all readers out until then
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(_READS) else "BEGIN IMMEDIATE")
