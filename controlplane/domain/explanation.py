"""Why one decision was the cheapest, and at which score another would have been."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

from protos.contract.task import TaskSpec


@dataclass(frozen=True, slots=True)
class Weighed:
    """What each decision was expected to cost.

    Attributes:
        costs: Of the task's decisions, in their order, offsets of the bundle's head included.
        threshold: The score nearest to the found one at which another decision costs as little, the other labels
            keeping their proportions; None where no score in 0..1 would have changed the decision.
        beyond: The decision on the far side of it.
    """

    costs: tuple[float, ...]
    threshold: float | None
    beyond: str


def weigh(task: TaskSpec, offsets: Sequence[float], probabilities: Sequence[float], decision: str) -> Weighed | None:
    """Weigh a decision by the probabilities it was made from.

    Args:
        offsets: One a decision, added to its expected cost; empty for none.
        probabilities: Of the task's labels, in their order.
    Returns:
        None where the probabilities or the decision do not fit the task: a fallback weighs nothing.
    """
    if len(probabilities) != len(task.labels) or decision not in task.decisions:
        return None
    added = tuple(offsets) or (0.0,) * len(task.decisions)
    columns = list(zip(*task.cost, strict=True))
    costs = tuple(sum(map(mul, probabilities, column)) + more for column, more in zip(columns, added, strict=True))
    # With q the others' shares, a decision costs s * cost[score label] + (1 - s) * (q . cost) + offset: a line in s.
    at = task.score_index
    score = probabilities[at]
    rest = sum(probabilities) - score
    others = [0.0 if i == at or rest <= 0 else p / rest for i, p in enumerate(probabilities)]
    lines = [
        (sum(map(mul, others, column)) + more, column[at] - sum(map(mul, others, column)))
        for column, more in zip(columns, added, strict=True)
    ]
    chosen = task.decisions.index(decision)
    found: tuple[float, float, str] | None = None
    for i, (start, slope) in enumerate(lines):
        across = slope - lines[chosen][1]
        if i == chosen or across == 0:
            continue
        place = (lines[chosen][0] - start) / across
        if 0.0 <= place <= 1.0:
            nearest = (abs(place - score), place, task.decisions[i])
            found = nearest if found is None else min(found, nearest)
    return Weighed(costs, None, "") if found is None else Weighed(costs, found[1], found[2])
