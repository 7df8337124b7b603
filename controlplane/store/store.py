"""The control plane's memory: one transaction a step, and a ledger entry for every change that matters."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from controlplane.store import ledger
from controlplane.store.database import available, lock_writers, open_database, reading
from controlplane.store.schema import create_tables
from controlplane.store.sealed import opened_by
from controlplane.store.turns import Turns
from controlplane.store.vault import Vault


class Unit:
    """One open transaction; ends with all of its changes or none."""

    def __init__(self, connection: Connection, now_ms: int, vault: Vault) -> None:
        self.connection = connection
        self.now_ms = now_ms
        self.vault = vault

    def record(self, actor: str, action: str, detail: dict[str, Any]) -> int:
        """Write a ledger entry beside the change it speaks of; return its number."""
        return ledger.append(self.connection, actor, action, detail, datetime.fromtimestamp(self.now_ms / 1000, UTC))


class Store:
    """An open database whose tables exist."""

    def __init__(self, url: str, vault: Vault | None = None) -> None:
        """Open it; without a vault what is captured can be read by this process alone."""
        self.vault = vault or Vault(None)
        self.engine = open_database(url)
        opened_by(self.engine, self.vault)
        create_tables(self.engine)
        self._reading = reading(self.engine)
        self._turns = Turns()

    @contextmanager
    def writing(self, now_ms: int) -> Iterator[Unit]:
        """Open a transaction that may write; it excludes every other writer until it ends.

        Raises:
            DatabaseUnavailable: The database is gone, or another process kept it for too long.
        """
        with self._turns, available(), self.engine.begin() as connection:
            lock_writers(connection)
            yield Unit(connection, now_ms, self.vault)

    @contextmanager
    def reading(self) -> Iterator[Unit]:
        """Open a transaction that only looks; raises as ``writing`` does."""
        with available(), self._reading.begin() as connection:
            yield Unit(connection, 0, self.vault)

    def close(self) -> None:
        """Return every connection."""
        self.engine.dispose()
        self.vault.close()
