"""Make the tables of an empty database, and leave one alone that another version made."""

from collections.abc import Collection, Mapping

from sqlalchemy import Engine, insert, inspect, select

from controlplane.errors import DatabaseInvalid
from controlplane.store.database import lock_writers
from controlplane.store.ledger import ledger_metadata
from controlplane.store.tables import SCHEMA_VERSION, metadata, schema_version


class SchemaMismatch(DatabaseInvalid):
    """A database has tables of another version of this program."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"database is of {found}, expected schema version {SCHEMA_VERSION}: start the program that wrote it, "
            "or begin with an empty database"
        )


def create_tables(engine: Engine) -> None:
    """Create the tables of an empty database; leave those of this version alone.

    Raises:
        SchemaMismatch: The database was made by another version; nothing is changed in it.
    """
    with engine.begin() as connection:
        lock_writers(connection)
        columns = {
            name: {c["name"] for c in found} for (_, name), found in inspect(connection).get_multi_columns().items()
        }
        is_ours = schema_version.name in columns
        if is_ours:
            version = connection.execute(select(schema_version.c.version)).scalar()
            if version != SCHEMA_VERSION:
                raise SchemaMismatch(f"schema version {version}")
        _check_columns(columns)
        metadata.create_all(connection)
        ledger_metadata.create_all(connection)
        if not is_ours:
            connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))


def _check_columns(columns: Mapping[str, Collection[str]]) -> None:
    """Refuse tables that are not as this program would make them, whatever version they claim."""
    for table in (*metadata.sorted_tables, *ledger_metadata.sorted_tables):
        wrong = set(columns.get(table.name, table.c.keys())) ^ set(table.c.keys())
        if wrong:
            raise SchemaMismatch(f"another schema version: column {min(wrong)!r} of table {table.name!r}")
