"""Jobs that wait for the device: class first, then earliest deadline, in bounded batches.

Pure: callers pass the time, nothing here waits. Each job leaves exactly once, by exactly
one of the methods, and whoever gets it answers it.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from enum import Enum
from itertools import count
from typing import Generic, TypeVar

W = TypeVar("W")

Lane = tuple[int, str, bool]

# Class 1 may fill what a batch of class 0 leaves of its budget, where both run on one base: a
# canary beside its primary then costs rows, not batches.
RIDES_WITH = {0: 1}


class Left(Enum):
    """Why a job left the queue without being run."""

    EXPIRED = "expired"
    OVERLOADED = "overloaded"


class Waiting(Generic[W]):
    """One job in line.

    Attributes:
        owner: The connection it came from; ids are unique only there.
        priority: Class, 0 first.
        deadline: Monotonic seconds; at that moment it is too late.
        arrived: Monotonic seconds.
        alone: Runs in a batch of its own.
        group: The loaded base it runs on, where bundles share one; empty when its bundle stands alone.
        lane: Jobs of one lane can share a batch.
        order: Set by the queue: of two equal deadlines the first come goes first.
    """

    __slots__ = (
        "alone", "arrived", "bundle", "deadline", "group", "id", "lane", "order", "owner", "priority", "tokens", "work",
    )  # fmt: skip

    def __init__(
        self,
        owner: int,
        id: int,
        bundle: str,
        priority: int,
        deadline: float,
        tokens: int,
        arrived: float,
        work: W,
        alone: bool = False,
        group: str = "",
    ) -> None:
        self.owner = owner
        self.id = id
        self.bundle = bundle
        self.priority = priority
        self.deadline = deadline
        self.tokens = tokens
        self.arrived = arrived
        self.work = work
        self.alone = alone
        self.group = group
        self.lane: Lane = (priority, group or bundle, alone)
        self.order = -1


class Queue(Generic[W]):
    """A bounded line of jobs.

    A batch comes from one lane and, on a shared base, from the canary's beside it (``RIDES_WITH``):
    a live batch is never made longer by shadow work, and shadow and evaluation run only when
    nothing above them waits.
    """

    def __init__(self, max_jobs: int, token_budget: int) -> None:
        self._max_jobs = max_jobs
        self._token_budget = token_budget
        # Each lane is sorted by (deadline, order). Lanes hold at most max_jobs entries
        # together, where inserting into a list beats a heap that cannot delete.
        self._lanes: dict[Lane, list[tuple[float, int, Waiting[W]]]] = {}
        self._by_id: dict[tuple[int, int], Waiting[W]] = {}
        self._orders = count()

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, key: tuple[int, int]) -> bool:
        return key in self._by_id

    def offer(self, job: Waiting[W], now: float) -> list[tuple[Waiting[W], Left]]:
        """Let a job in if there is room; return the jobs this turned away, itself perhaps.

        A full line first drops what has expired. Then a job of a higher class takes the place
        of the lowest class's latest deadline.
        """
        if job.deadline <= now:
            return [(job, Left.EXPIRED)]
        gone: list[tuple[Waiting[W], Left]] = []
        if len(self._by_id) >= self._max_jobs:
            gone += [(late, Left.EXPIRED) for late in self.expire(now)]
        if len(self._by_id) >= self._max_jobs:
            lowest = max(lane[0] for lane in self._lanes)
            if lowest <= job.priority:
                return [*gone, (job, Left.OVERLOADED)]
            _, _, victim = max(entries[-1][:2] + (lane,) for lane, entries in self._lanes.items() if lane[0] == lowest)
            evicted = self._lanes[victim][-1][2]
            self._remove(evicted)
            gone.append((evicted, Left.OVERLOADED))
        self._insert(job)
        return gone

    def put_back(self, job: Waiting[W]) -> None:
        """Return a job that ``take`` gave out and that has more to do. It was admitted already."""
        self._insert(job)

    def take(self, now: float) -> tuple[list[Waiting[W]], list[Waiting[W]]]:
        """Remove the next batch and everything that has expired: ``(batch, expired)``.

        The batch stays within the token budget, except that it always has at least one job.
        """
        expired = self.expire(now)
        if not self._lanes:
            return [], expired
        chosen = min(self._lanes, key=lambda lane: (lane[0], *self._lanes[lane][0][:2]))
        batch: list[Waiting[W]] = []
        counts = [(chosen, self._fill(batch, chosen))]
        rider = RIDES_WITH.get(chosen[0])
        if rider is not None and batch[0].group and not batch[0].alone:
            riding = (rider, chosen[1], False)
            if riders := self._fill(batch, riding):
                counts.append((riding, riders))
        for lane, taken in counts:
            entries = self._lanes[lane]
            if taken == len(entries):
                del self._lanes[lane]
            else:
                del entries[:taken]
        for job in batch:
            del self._by_id[job.owner, job.id]
        return batch, expired

    def expire(self, now: float) -> list[Waiting[W]]:
        """Remove every job whose deadline has come."""
        late = []
        for lane in self._lanes.values():
            for deadline, _, job in lane:
                if deadline > now:
                    break
                late.append(job)
        for job in late:
            self._remove(job)
        return late

    def cancel(self, owner: int, id: int) -> Waiting[W] | None:
        """Remove one job; None when it does not wait here."""
        job = self._by_id.get((owner, id))
        if job is not None:
            self._remove(job)
        return job

    def remove_where(self, is_unwanted: Callable[[Waiting[W]], bool]) -> list[Waiting[W]]:
        """Remove every job of a kind, when a connection ends or a bundle goes."""
        unwanted = [job for job in self._by_id.values() if is_unwanted(job)]
        for job in unwanted:
            self._remove(job)
        return unwanted

    def _fill(self, batch: list[Waiting[W]], lane: Lane) -> int:
        """Add the first jobs of a lane while the batch stays within the budget; returns how many."""
        longest = max((job.tokens for job in batch), default=0)
        before = len(batch)
        for _, _, job in self._lanes.get(lane, ()):
            longest = max(longest, job.tokens)
            if batch and (job.alone or longest * (len(batch) + 1) > self._token_budget):
                break
            batch.append(job)
        return len(batch) - before

    def _insert(self, job: Waiting[W]) -> None:
        key = job.owner, job.id
        if key in self._by_id:
            raise ValueError(f"job {key} waits already")
        job.order = next(self._orders)
        self._by_id[key] = job
        insort(self._lanes.setdefault(job.lane, []), (job.deadline, job.order, job))

    def _remove(self, job: Waiting[W]) -> None:
        del self._by_id[job.owner, job.id]
        entries = self._lanes[job.lane]
        # A shorter tuple sorts before the entry it begins.
        del entries[bisect_left(entries, (job.deadline, job.order))]
        if not entries:
            del self._lanes[job.lane]
