"""What the store promises holds on SQLite and on PostgreSQL alike."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from controlplane.store import jobs, ledger, ledger_audit, samples
from controlplane.store.bulk import TOGETHER
from controlplane.store.samples import Sample
from controlplane.store.store import Store
from tests.postgres import PostgresServer, shared_server

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
ORIGIN = "test/ledger"
WRITERS = 6
LEASE_MS = 10_000
T = TypeVar("T")


@pytest.fixture
def postgres() -> PostgresServer:
    return shared_server()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'control.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create(f"t{abs(hash(request.node.name)):x}", prepared=True)


def at_once(url: str, work: Callable[[Store, int], T]) -> list[T]:
    """Run ``work`` in several threads, each with a store of its own, all let go at the same moment."""
    ready = Barrier(WRITERS)

    def one(number: int) -> T:
        store = Store(url)
        try:
            ready.wait(timeout=60)
            return work(store, number)
        finally:
            store.close()

    with ThreadPoolExecutor(WRITERS) as threads:
        return list(threads.map(one, range(WRITERS)))


def test_writers_at_once_leave_one_intact_ledger(url: str) -> None:
    Store(url).close()

    def write(store: Store, number: int) -> list[int]:
        made = []
        for n in range(5):
            with store.writing(1_000 + n) as unit:
                made.append(unit.record(f"writer-{number}", "noted", {"n": n}))
        return made

    numbers = sorted(n for made in at_once(url, write) for n in made)
    assert numbers == list(range(1, 5 * WRITERS + 1))
    store = Store(url)
    with store.writing(0) as unit:
        ledger.checkpoint(unit.connection, KEY, ORIGIN)
    with store.reading() as unit:
        report = ledger_audit.verify(unit.connection, KEY.public_key(), ORIGIN)
    store.close()
    assert (report.is_intact, report.size, report.checkpoints) == (True, 5 * WRITERS + 1, 1), report.problem


def test_a_job_goes_to_one_of_many_runners(url: str) -> None:
    store = Store(url)
    with store.writing(0) as unit:
        for n in range(4):
            jobs.add(unit, {"id": f"j{n}", "kind": "train", "specialist": "s", "cause": "drift", "request": {"n": n}})

    def claim(store: Store, _: int) -> str | None:
        with store.writing(1) as unit:
            found = jobs.claim(unit, LEASE_MS)
        return None if found is None else str(found.id)

    taken = at_once(url, claim)
    store.close()
    assert sorted(t for t in taken if t is not None) == ["j0", "j1", "j2", "j3"]
    assert taken.count(None) == WRITERS - 4


def test_a_reader_sees_one_moment_while_others_write(postgres: PostgresServer) -> None:
    # On SQLite without WAL a reader holds the writer's commit up instead.
    store = Store(postgres.create("moment", prepared=True))
    with store.writing(0) as unit:
        unit.record("ann", "noted", {})
    with store.reading() as reader:
        before = ledger.head(reader.connection)
        with store.writing(1) as unit:
            unit.record("bob", "noted", {})
        assert ledger.head(reader.connection) == before
    with store.reading() as reader:
        assert ledger.head(reader.connection)[0] == before[0] + 1
    store.close()


def test_a_transaction_that_only_looks_cannot_write_on_postgres(postgres: PostgresServer) -> None:
    store = Store(postgres.create("looking", prepared=True))
    with pytest.raises(DBAPIError, match="read-only"), store.reading() as unit:
        unit.record("ann", "noted", {})
    store.close()


@pytest.mark.parametrize(
    "statement",
    ["UPDATE ledger_entry SET actor = 'eve' WHERE seq = 2", "DELETE FROM ledger_entry WHERE seq = 2"],
    ids=["update", "delete"],
)
def test_an_entry_changed_by_mistake_is_refused(url: str, statement: str) -> None:
    store = Store(url)
    with store.writing(0) as unit:
        unit.record("ann", "noted", {})
        unit.record("bob", "noted", {})
    with pytest.raises(DBAPIError, match="append-only"), store.engine.begin() as connection:
        connection.execute(text(statement))
    store.close()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE ledger_entry SET actor = 'eve' WHERE seq = 2", "columns say other"),
        ("UPDATE ledger_entry SET body = '\\x00' WHERE seq = 2", "cannot be read"),
        ("DELETE FROM ledger_entry WHERE seq = 2", "entry 2 is missing"),
        ("UPDATE ledger_entry SET seq = 9 WHERE seq = 2", "entry 2 is missing"),
    ],
    ids=["column", "body", "delete", "reorder"],
)
def test_an_entry_changed_on_purpose_in_postgres_is_found(
    postgres: PostgresServer, request: pytest.FixtureRequest, statement: str, said: str
) -> None:
    store = Store(postgres.create(f"changed_{request.node.callspec.id}", prepared=True))
    with store.writing(0) as unit:
        for n in range(4):
            unit.record("ann", "noted", {"n": n})
    with store.engine.begin() as connection:
        connection.execute(text("ALTER TABLE ledger_entry DISABLE TRIGGER ALL"))
        connection.execute(text(statement))
    with store.reading() as unit:
        report = ledger_audit.verify(unit.connection, KEY.public_key(), ORIGIN)
    store.close()
    assert report.first_bad_seq == 2
    assert report.problem is not None and said in report.problem


@pytest.mark.parametrize("rows", [1, TOGETHER - 1, TOGETHER, 2 * TOGETHER + 3])
def test_samples_come_back_as_they_were_kept_however_many_there_are(url: str, rows: int) -> None:
    store = Store(url)
    given = [
        Sample("spam", f"d-{i}", "r-0", 1, "sha256:0", 1, f"text {i}" if i % 3 else "", "allow", i / rows, i, {"n": i}
               if i % 2 else None, fallback=i % 5 == 0, probabilities=[i / rows, 0.0])
        for i in range(rows)
    ]  # fmt: skip
    with store.writing(1) as unit:
        samples.add(unit, given)
    with store.reading() as unit:
        kept = [samples.decision(unit, one.decision_id) for one in given]
    store.close()
    found = [row and row[0] for row in kept]
    assert [(r.text, r.fields, r.fallback, r.score, r.probabilities) for r in found if r] == [
        (one.text, one.fields or {}, one.fallback, one.score, one.probabilities) for one in given
    ]
    assert [r.id for r in found if r] == list(range(1, rows + 1))
