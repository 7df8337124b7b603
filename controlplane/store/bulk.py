"""Rows by the thousand: a table's own insert statement, compiled once, without the work it does for each row."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Table

_Prepared = tuple[str, tuple[str, ...] | None]  # the statement; the order of its values where they go by place
_PREPARED: dict[tuple[str, str, tuple[str, ...]], _Prepared] = {}  # by dialect, table and columns


def insert_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that all have the same columns, at least two.

    Values are as the driver takes them: JSON as text, sealed columns as bytes. Defaults of columns are not filled in.
    """
    if not rows:
        return
    statement, order = _prepared(connection, table, tuple(rows[0]))
    connection.exec_driver_sql(statement, list(map(itemgetter(*order), rows)) if order else [dict(row) for row in rows])


def _prepared(connection: Connection, table: Table, names: tuple[str, ...]) -> _Prepared:
    key = (connection.dialect.name, table.name, names)
    if key not in _PREPARED:
        compiled = table.insert().compile(dialect=connection.dialect, column_keys=list(names))
        places = compiled.positiontup if compiled.positional else None  # type: ignore[attr-defined]
        _PREPARED[key] = (str(compiled), None if places is None else tuple(places))
    return _PREPARED[key]
