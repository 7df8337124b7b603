"""Rows by the thousand: a table's own insert statement, or PostgreSQL's COPY, without the work it does for each row."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.exc import OperationalError

TOGETHER = 100  # rows a statement: the table and each of its indexes are opened once for all of them
_PREPARED: dict[tuple[str, str, tuple[str, ...], int], str] = {}  # statements by dialect, table, columns and rows


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
        return
    rows = list(values)
    edge = len(rows) - len(rows) % TOGETHER
    joined = [tuple(chain.from_iterable(rows[at : at + TOGETHER])) for at in range(0, edge, TOGETHER)]
    for several, each in ((TOGETHER, joined), (1, rows[edge:])):
        if each:
            statement = _prepared(connection, table, names, "INSERT INTO {} ({}) VALUES {}", several)
            connection.exec_driver_sql(statement, each)


def _copy(connection: Connection, table: Table, names: tuple[str, ...], values: Iterable[tuple[Any, ...]]) -> None:
    import psycopg  # only where its database is used

    statement = _prepared(connection, table, names, "COPY {} ({}) FROM STDIN")
    try:
        with connection.connection.cursor().copy(statement) as copy:
            for row in values:
                copy.write_row(row)
    except psycopg.OperationalError as error:
        raise OperationalError(statement, None, error) from error


def _prepared(connection: Connection, table: Table, names: tuple[str, ...], form: str, rows: int = 1) -> str:
    key = (connection.dialect.name, table.name, names, rows)
    if key not in _PREPARED:
        written = connection.dialect.identifier_preparer
        columns = ", ".join(map(written.quote, names))
        places = f"({', '.join('?' for _ in names)})"
        _PREPARED[key] = form.format(written.format_table(table), columns, ", ".join([places] * rows))
    return _PREPARED[key]
