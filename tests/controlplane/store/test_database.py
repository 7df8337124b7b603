"""Every SQLite connection is opened safely, and writers exclude each other from the start."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from controlplane.errors import DatabaseInvalid, DatabaseUnavailable
from controlplane.store.database import BUSY_TIMEOUT_MS, is_wal_safe, open_database, reading
from controlplane.store.store import Store
from controlplane.store.tables import SCHEMA_VERSION


@pytest.mark.parametrize(
    "version, is_safe",
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 0), False),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
        ((4, 0, 0), True),
    ],
    ids=str,
)
def test_wal_only_where_its_reset_bug_is_fixed(version: tuple[int, ...], is_safe: bool) -> None:
    assert is_wal_safe(version) is is_safe


@pytest.mark.parametrize("version, journal", [((3, 40, 1), "truncate"), ((3, 51, 3), "wal")], ids=str)
def test_the_journal_mode_follows_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], journal: str
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    with open_database(f"sqlite:///{tmp_path}/a.db").connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == journal
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == BUSY_TIMEOUT_MS


def test_a_transaction_holds_the_write_lock_from_its_first_moment(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/a.db")
    with engine.connect() as first, engine.connect() as second:
        second.exec_driver_sql("PRAGMA busy_timeout=0")
        second.rollback()
        first.begin()
        with pytest.raises(OperationalError, match="locked"):
            second.begin()


def test_however_much_a_writer_has_written_others_read_until_it_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 1))  # with a rollback journal
    engine = open_database(f"sqlite:///{tmp_path}/a.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE kept (data BLOB)")
    with engine.begin() as writing:
        for _ in range(20):
            writing.exec_driver_sql("INSERT INTO kept VALUES (zeroblob(1000000))")
        with reading(engine).connect() as looking:
            assert looking.exec_driver_sql("SELECT count(*) FROM kept").scalar() == 0
    engine.dispose()


def test_writers_take_turns_however_soon_one_asks_again(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/a.db")
    is_begun, is_done = Event(), Event()
    between = 0

    def patient() -> int:
        is_begun.wait()
        before = between
        with store.writing(0):
            is_done.set()
            return between - before

    with ThreadPoolExecutor() as threads:
        waited = threads.submit(patient)
        while not is_done.is_set():
            with store.writing(0):
                is_begun.set()
                between += 1
                is_done.wait(0.002)  # as long as it takes to write something
        assert waited.result() <= 3
    store.close()


def test_a_database_that_another_process_keeps_is_unavailable_and_a_wrong_statement_is_a_mistake(
    tmp_path: Path,
) -> None:
    store = Store(f"sqlite:///{tmp_path}/a.db")
    with store.reading() as unit, pytest.raises(OperationalError, match="no such table"):
        unit.connection.exec_driver_sql("SELECT * FROM absent")
    with store.writing(0) as unit:
        unit.connection.exec_driver_sql("PRAGMA busy_timeout=0")
    with sqlite3.connect(tmp_path / "a.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailable), store.writing(0):
            pass
        other.execute("ROLLBACK")
    with store.writing(0):
        pass
    other.close()
    store.close()


def test_a_reader_does_not_wait_for_a_writer_that_has_not_committed(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/a.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x INTEGER)")
    with engine.begin() as writer, reading(engine).begin() as reader:
        writer.exec_driver_sql("INSERT INTO t VALUES (1)")
        assert reader.exec_driver_sql("SELECT count(*) FROM t").scalar() == 0


def test_a_rolled_back_transaction_leaves_nothing_even_of_ddl(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/a.db")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x INTEGER)")
        connection.rollback()
        assert connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar() == 0


@pytest.mark.parametrize("url", ["", "nonsense", "nosuchdatabase://u:secret@host/d"])
def test_a_bad_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(DatabaseInvalid) as caught:
        open_database(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("UPDATE schema_version SET version = 99", "schema version 99, expected schema version {now}"),
        ("ALTER TABLE sample DROP COLUMN input_digest", "'input_digest' of table 'sample', expected schema"),
        ("ALTER TABLE ledger_node ADD COLUMN colour TEXT", "'colour' of table 'ledger_node', expected schema version"),
    ],
    ids=["a later version", "a column is missing", "a column is new"],
)
def test_a_database_of_another_version_is_refused_and_left_alone(tmp_path: Path, change: str, expected: str) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    Store(url).close()
    Store(url).close()
    with sqlite3.connect(tmp_path / "a.db") as raw:
        raw.execute(change)
        before = list(raw.execute("SELECT sql FROM sqlite_master"))
    with pytest.raises(DatabaseInvalid, match=expected.format(now=SCHEMA_VERSION)):
        Store(url)
    with sqlite3.connect(tmp_path / "a.db") as raw:
        assert list(raw.execute("SELECT sql FROM sqlite_master")) == before


def test_an_error_about_a_statement_names_none_of_its_values(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'db'}")
    with pytest.raises(OperationalError, match="no such table") as told, engine.begin() as connection:
        connection.execute(text("INSERT INTO nowhere VALUES (:said)"), {"said": "the patient is ill"})
    assert "the patient" not in str(told.value)
    engine.dispose()
