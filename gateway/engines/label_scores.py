"""Label scores out of what engines return: the best few tokens, or exactly the labels' own."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from gateway.engines.ports import Broken, EngineProblem, LabelScores, ScoreJob

T = TypeVar("T")

SMALLEST = 1e-30  # a probability of exactly 0 has no logarithm
ROUNDING = 1e-6  # what probabilities in single precision, summed, may fall short of 1 by


def from_best(ids: Sequence[int], best: Mapping[int, float], prompt_tokens: int = 0) -> LabelScores:
    """Find the labels among an engine's most likely tokens.

    A label that is not among them gets the highest log-probability it can have: that of the last one
    returned, or what all of them leave, whichever is less.

    Raises:
        Broken: No label is among them, or a value is no log-probability.
    """
    if not all(value <= 1e-3 for value in best.values()):  # also false for NaN
        raise Broken(f"a log-probability of the best {len(best)} tokens is {max(best.values()):g}, expected at most 0")
    found = [best[i] for i in ids if i in best]
    if not found:
        raise Broken(f"no label is among the best {len(best)} tokens: the model wants to write something else")
    if len(found) == len(ids):
        return LabelScores(tuple(best[i] for i in ids), vocabulary_mass=_mass(found), prompt_tokens=prompt_tokens)
    rest = 1.0 - math.fsum(map(math.exp, best.values()))
    bound = min(*best.values(), math.log(max(rest, ROUNDING)))
    values = tuple(best.get(i, bound) for i in ids)
    return LabelScores(values, is_bounded=True, vocabulary_mass=_mass(found), prompt_tokens=prompt_tokens)


def from_logprobs(values: Sequence[float], prompt_tokens: int = 0) -> LabelScores:
    """Take exact log-probabilities in label order; raises Broken for what is none."""
    if not all(value <= 1e-3 for value in values):
        raise Broken(f"log-probabilities {[f'{v:.4g}' for v in values]}, expected at most 0")
    return LabelScores(
        tuple(max(v, math.log(SMALLEST)) for v in values), vocabulary_mass=_mass(values), prompt_tokens=prompt_tokens
    )


def from_probabilities(values: Sequence[float], *, prompt_tokens: int = 0) -> LabelScores:
    """Take the probabilities of all classes in label order; raises Broken."""
    total = math.fsum(values)
    if not all(v >= 0 for v in values) or not abs(total - 1) <= 0.01:
        raise Broken(f"probabilities {[f'{v:.4g}' for v in values[:8]]} sum to {total:.4g}, expected 1")
    logprobs = tuple(math.log(max(v / total, SMALLEST)) for v in values)
    return LabelScores(logprobs, prompt_tokens=prompt_tokens)


def each(
    jobs: Sequence[ScoreJob], rows: Sequence[T], read: Callable[[ScoreJob, T], LabelScores]
) -> list[LabelScores | EngineProblem]:
    """Read every text's row of one answer; what is wrong with a row is wrong for that text alone."""
    found: list[LabelScores | EngineProblem] = []
    for job, row in zip(jobs, rows, strict=True):
        try:
            found.append(read(job, row))
        except Broken as error:
            found.append(error)
    return found


def only(found: Sequence[LabelScores | EngineProblem]) -> LabelScores:
    """Return the scores of a request for one text; raises what is wrong with them."""
    (one,) = found
    if isinstance(one, EngineProblem):
        raise one
    return one


def _mass(logprobs: Sequence[float]) -> float:
    return min(1.0, math.fsum(map(math.exp, logprobs)))
