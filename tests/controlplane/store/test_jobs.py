from pathlib import Path
from typing import Any

import pytest

from controlplane.store import jobs
from controlplane.store.store import Store

LEASE_MS = 10_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(f"sqlite:///{tmp_path / 'control.db'}")
    with made.writing(0) as unit:
        for name in ("a", "b"):
            values = {"id": name, "kind": "train", "specialist": "s", "cause": "drift", "request": {}}
            jobs.add(unit, values)
    return made


def claim(store: Store, now_ms: int) -> Any:
    with store.writing(now_ms) as unit:
        return jobs.claim(unit, LEASE_MS)


def test_a_job_is_claimed_once_while_its_heart_beats(store: Store) -> None:
    assert [claim(store, 1).id, claim(store, 2).id, claim(store, 3)] == ["a", "b", None]
    with store.writing(9_000) as unit:
        assert jobs.beat(unit, "a", 1, 0.5, "half")
    late = claim(store, 2 + LEASE_MS + 1)
    assert (late.id, late.attempt) == ("b", 2)


def test_whoever_lost_a_lease_can_neither_renew_it_nor_is_it_theirs(store: Store) -> None:
    first = claim(store, 1)
    second = claim(store, 1 + 2 * LEASE_MS)
    assert (first.id, second.id) == ("a", "a")
    with store.writing(3 * LEASE_MS) as unit:
        assert not jobs.beat(unit, "a", first.attempt, 0.9, "nearly")
        assert jobs.beat(unit, "a", second.attempt, 0.1, "again")


def test_a_job_that_keeps_dying_is_given_up(store: Store) -> None:
    with store.writing(0) as unit:
        jobs.finish(unit, "b", jobs.DONE, "done", {})
    for n in range(jobs.MOST_ATTEMPTS):
        assert claim(store, 1 + 2 * n * LEASE_MS).attempt == n + 1
    assert claim(store, 1 + 100 * LEASE_MS) is None
    with store.reading() as unit:
        found = jobs.get(unit, "a")
    assert (found.state, found.message) == (jobs.FAILED, "given up after 3 attempts")
