"""The queue keeps its order and its bounds, and loses nobody."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.worker.queue import Left, Queue, Waiting

LIVE, CANARY, SHADOW, BATCH = range(4)


def job(
    id: int,
    priority: int = LIVE,
    deadline: float = 10.0,
    tokens: int = 4,
    bundle: str = "a",
    alone: bool = False,
    group: str = "",
) -> Waiting[None]:
    return Waiting(1, id, bundle, priority, deadline, tokens, 0.0, None, alone, group)


JOBS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 30), st.integers(1, 40), st.sampled_from("ab"), st.booleans()),
    max_size=40,
).map(lambda rows: [job(i, p, float(d), t, b, alone) for i, (p, d, t, b, alone) in enumerate(rows)])


@given(JOBS, st.integers(1, 12), st.integers(1, 100), st.data())
def test_every_job_leaves_exactly_once_and_the_bound_holds(
    jobs: list[Waiting[None]], max_jobs: int, budget: int, data: st.DataObject
) -> None:
    queue: Queue[None] = Queue(max_jobs, budget)
    left: list[int] = []
    now = 0.0
    for one in jobs:
        left += [gone.id for gone, _ in queue.offer(one, now)]
        assert len(queue) <= max_jobs
        action = data.draw(st.sampled_from(["none", "take", "cancel", "wait"]))
        if action == "take":
            batch, expired = queue.take(now)
            left += [gone.id for gone in batch + expired]
        elif action == "cancel":
            gone = queue.cancel(1, one.id)
            left += [gone.id] if gone else []
        elif action == "wait":
            now += 1.0
    while len(queue):
        batch, expired = queue.take(now)
        left += [gone.id for gone in batch + expired]
    assert sorted(left) == list(range(len(jobs)))


@given(JOBS, st.integers(1, 100))
def test_batches_come_in_order_within_budget_and_never_mix(jobs: list[Waiting[None]], budget: int) -> None:
    queue: Queue[None] = Queue(100, budget)
    for one in jobs:
        queue.offer(one, 0.0)
    waiting = list(jobs)
    while len(queue):
        batch, expired = queue.take(0.0)
        assert not expired
        assert len(batch) == 1 or max(j.tokens for j in batch) * len(batch) <= budget
        assert len({j.lane for j in batch}) == 1
        assert batch[0] is min(waiting, key=lambda j: (j.priority, j.deadline, j.order))
        assert len(batch) == 1 or not batch[0].alone
        peers = sorted((j for j in waiting if j.lane == batch[0].lane), key=lambda j: (j.deadline, j.order))
        assert batch == peers[: len(batch)]
        waiting = [j for j in waiting if j not in batch]
    assert not waiting


@given(JOBS, st.integers(0, 31))
def test_an_expired_job_is_never_run(jobs: list[Waiting[None]], now: int) -> None:
    queue: Queue[None] = Queue(100, 64)
    for one in jobs:
        queue.offer(one, 0.0)
    batch, expired = queue.take(float(now))
    assert all(j.deadline > now for j in batch)
    assert sorted(j.id for j in expired) == [j.id for j in jobs if j.deadline <= now]


def test_a_job_that_comes_too_late_is_not_let_in() -> None:
    queue: Queue[None] = Queue(2, 64)
    late = job(1, deadline=5.0)
    assert queue.offer(late, 5.0) == [(late, Left.EXPIRED)]
    assert not len(queue)


def test_a_full_queue_gives_way_to_a_higher_class_only() -> None:
    queue: Queue[None] = Queue(3, 64)
    early, late, live = job(1, SHADOW, 5.0), job(2, SHADOW, 9.0), job(3, LIVE)
    for one in (early, late, live):
        assert queue.offer(one, 0.0) == []
    another = job(4, SHADOW, 1.0)
    assert queue.offer(another, 0.0) == [(another, Left.OVERLOADED)]
    assert queue.offer(job(5, CANARY), 0.0) == [(late, Left.OVERLOADED)]
    assert [j.id for j in queue.take(0.0)[0]] == [3]


def test_a_full_queue_drops_the_expired_before_it_refuses() -> None:
    queue: Queue[None] = Queue(1, 64)
    old = job(1, deadline=1.0)
    queue.offer(old, 0.0)
    assert queue.offer(job(2), 2.0) == [(old, Left.EXPIRED)]
    assert len(queue) == 1


def test_shadow_waits_until_no_live_job_of_any_bundle_waits() -> None:
    queue: Queue[None] = Queue(8, 64)
    for one in (
        job(1, SHADOW, 1.0, bundle="a"),
        job(2, BATCH, 1.0),
        job(3, LIVE, 9.0, bundle="b"),
        job(4, CANARY, 9.0),
    ):
        queue.offer(one, 0.0)
    assert [queue.take(0.0)[0][0].id for _ in range(4)] == [3, 4, 1, 2]


def test_on_a_shared_base_a_canary_rides_in_what_the_live_batch_leaves_and_a_shadow_never() -> None:
    queue: Queue[None] = Queue(16, 16)
    for one in (
        job(1, LIVE, bundle="a", group="base"),
        job(2, CANARY, bundle="b", group="base"),
        job(3, CANARY, bundle="b", group="base", alone=True),
        job(4, SHADOW, bundle="b", group="base"),
        job(5, CANARY, deadline=12.0, bundle="c"),
        job(6, LIVE, deadline=11.0, bundle="b", group="base"),
    ):
        queue.offer(one, 0.0)
    assert [j.id for j in queue.take(0.0)[0]] == [1, 6, 2]
    assert [[j.id for j in queue.take(0.0)[0]] for _ in range(3)] == [[3], [5], [4]]


def test_a_canary_never_makes_a_live_batch_longer_than_the_budget() -> None:
    queue: Queue[None] = Queue(16, 16)
    for one in (job(1, LIVE, group="base"), job(2, LIVE, group="base"), job(3, CANARY, tokens=6, group="base")):
        queue.offer(one, 0.0)
    assert [j.id for j in queue.take(0.0)[0]] == [1, 2]
    assert [j.id for j in queue.take(0.0)[0]] == [3]
