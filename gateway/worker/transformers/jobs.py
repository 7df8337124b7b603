"""One batch over a base: a forward pass for all of it, then each bundle's own way from vectors to logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gateway.worker.transformers.resident import Resident, Row


class Owner(Protocol):
    """A bundle on the base."""

    def logits(self, states: Tensor) -> NDArray[np.float32]:
        """Score vectors, shapes [rows, hidden] to [rows, labels]."""


@dataclass(frozen=True, slots=True)
class Job:
    """One row and whose it is."""

    owner: Owner
    row: Row


def score_rows(resident: Resident, jobs: Sequence[Job], pool: str = "last") -> list[NDArray[np.float32]]:
    """Score rows of one base together; return each one's logits, shape [labels of its task].

    A row whose numbers overflow spoils every row that is packed with it: what attention blanks it still multiplies
    by zero, and zero times infinity is no number. Such a batch is computed again row by row, so that it fails alone.
    """
    states = resident.states([job.row for job in jobs], pool)
    found: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(jobs)
    for owner in {id(job.owner): job.owner for job in jobs}.values():
        places = [i for i, job in enumerate(jobs) if job.owner is owner]
        for i, row in zip(places, owner.logits(states[places]), strict=True):
            found[i] = row
    if len(jobs) > 1 and not all(np.isfinite(row).all() for row in found):
        return [score_rows(resident, [job], pool)[0] for job in jobs]
    return found
