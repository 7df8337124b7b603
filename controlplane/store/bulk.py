"""Rows by the thousand: a table's own insert statement, or PostgreSQL's COPY, without the work it does for each row."""

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.exc import OperationalError

_PREPARED: dict[tuple[str, str, tuple[str, ...]], str] = {}  # statements by dialect, table and columns


def insert_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that all have the same columns, at least two."""
    if rows:
        names = tuple(rows[0])
        insert_values(connection, table, names, map(itemgetter(*names), rows))


def insert_values(
    connection: Connection, table: Table, names: tuple[str, ...], values: Iterable[tuple[Any, ...]]
) -> None:
    """Insert rows by position, at least one.

    Values are as the driver takes them: JSON as text, sealed columns as bytes. Defaults of columns are not filled in.
    """
    if connection.dialect.name == "postgresql":
        _copy(connection, table, names, values)
    else:
        connection.exec_driver_sql(_prepared(connection, table, names, "INSERT INTO {} ({}) VALUES ({})"), list(values))


def _copy(connection: Connection, table: Table, names: tuple[str, ...], values: Iterable[tuple[Any, ...]]) -> None:
    import psycopg  # only where its database is used

    statement = _prepared(connection, table, names, "COPY {} ({}) FROM STDIN")
    try:
        with connection.connection.cursor().copy(statement) as copy:
            for row in values:
                copy.write_row(row)
    except psycopg.OperationalError as error:
        raise OperationalError(statement, None, error) from error


def _prepared(connection: Connection, table: Table, names: tuple[str, ...], form: str) -> str:
    key = (connection.dialect.name, table.name, names)
    if key not in _PREPARED:
        written = connection.dialect.identifier_preparer
        columns = ", ".join(map(written.quote, names))
        _PREPARED[key] = form.format(written.format_table(table), columns, ", ".join("?" for _ in names))
    return _PREPARED[key]
