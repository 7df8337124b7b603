import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from controlplane.store import jobs, ledger
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


def test_who_asked_for_a_job_and_why_is_on_record_and_an_operation_asks_once(store: Store) -> None:
    asked: dict[str, Any] = {"cause": "schedule", "request": {"bundle": "b"}, "author": "ann"}
    with store.writing(1) as unit:
        name = jobs.queue(unit, "recheck", "s", **asked, operation_id="o")
        assert jobs.queue(unit, "recheck", "s", **asked, operation_id="o") == name
        assert jobs.queue(unit, "recheck", "s", **asked) != name
        found, said = jobs.get(unit, name), ledger.entries(unit.connection, 0, 10)
    assert (found.state, found.cause, found.request) == (jobs.QUEUED, "schedule", {"bundle": "b"})
    queued = [entry for entry in said if entry.action == "job.queued"]
    asked_for = {"kind": "recheck", "specialist": "s", "cause": "schedule", "bundle": "b"}
    assert len(queued) == 2 and (queued[0].actor, queued[0].detail) == ("ann", {"job": name, **asked_for})


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


def test_a_cancelled_job_ends_for_whoever_runs_it_and_can_be_queued_again(store: Store) -> None:
    running = claim(store, 1)
    with store.writing(2) as unit:
        assert jobs.cancel(unit, "a", "cancelled by ann: not needed")
        assert not jobs.cancel(unit, "a", "again")
        assert not jobs.beat(unit, "a", running.attempt, 0.5, "half"), "its runner hears so at the next beat"
        assert jobs.retry(unit, "a") and not jobs.retry(unit, "a")
    again = claim(store, 3)
    assert (again.id, again.attempt) == ("a", 1)


def test_two_control_planes_on_one_database_never_take_the_same_job(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    stores = [Store(url), Store(url)]
    with stores[0].writing(0) as unit:
        for i in range(40):
            jobs.add(unit, {"id": f"j{i:02}", "kind": "train", "specialist": "s", "cause": "drift", "request": {}})
    taken: list[list[str]] = [[], []]

    def take(which: int) -> None:
        while (job := claim(stores[which], 1)) is not None:
            taken[which].append(job.id)

    threads = [threading.Thread(target=take, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken[0] + taken[1]) == [f"j{i:02}" for i in range(40)]


KILLED = """
import os, sys
from controlplane.store import jobs, ledger
from controlplane.store.store import Store
from sqlalchemy import event

store, point = Store(sys.argv[1]), int(sys.argv[2])
seen = 0

def count(*_):
    global seen
    seen += 1
    if seen == point:
        os.kill(os.getpid(), 9)

event.listen(store.engine, "before_cursor_execute", count)
event.listen(store.engine, "commit", count)
with store.writing(1) as unit:
    job = jobs.claim(unit, 10_000)
with store.writing(2) as unit:
    jobs.finish(unit, job.id, jobs.DONE, "done", {})
    jobs.add(unit, {"id": "next", "kind": "evaluate", "specialist": "s", "cause": "drift", "request": {}})
    unit.record("loop", "bundle.trained", {"job": job.id})
print("whole")
"""


def test_a_kill_at_any_statement_repeats_the_step_and_never_skips_or_doubles_it(tmp_path: Path) -> None:
    point, ended = 1, False
    while not ended:
        url = f"sqlite:///{tmp_path / f'{point}.db'}"
        with Store(url).writing(0) as unit:
            jobs.add(unit, {"id": "a", "kind": "train", "specialist": "s", "cause": "drift", "request": {}})
        done = subprocess.run(
            [sys.executable, "-c", KILLED, url, str(point)], capture_output=True, text=True, check=False
        )
        ended = "whole" in done.stdout
        store = Store(url)
        with store.reading() as unit:
            states = {job.id: job.state for job in jobs.listed(unit)}
            recorded = [e.action for e in ledger.entries(unit.connection, 0, 10) if e.action != "ledger.genesis"]
        if states["a"] == jobs.DONE:
            assert states == {"a": jobs.DONE, "next": jobs.QUEUED} and recorded == ["bundle.trained"]
        else:
            assert set(states) == {"a"} and recorded == []
            assert claim(store, 1 + 2 * LEASE_MS).id == "a", "somebody else takes it over"
        # Every statement of a short run is tried; what a kill between them could do is the same.
        point += 3
        store.close()
    assert point > 10
