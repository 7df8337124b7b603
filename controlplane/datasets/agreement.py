"""How far people agree on labels, beyond what chance would give them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np


@dataclass(frozen=True, slots=True)
class Pair:
    """Two people's agreement on the cases both labelled."""

    first: str
    second: str
    cases: int
    kappa: float | None  # None where both gave one and the same label throughout: chance leaves nothing to beat


def cohen_pairs(given: Mapping[str, Mapping[str, str]]) -> list[Pair]:
    """Return Cohen's kappa for every two people with a case in common.

    Args:
        given: Case to person to label.
    Source: Cohen (1960).
    """
    from sklearn.metrics import cohen_kappa_score  # two seconds to import, and rarely needed

    people = sorted({person for labels in given.values() for person in labels})
    found = []
    for first, second in combinations(people, 2):
        both = [(labels[first], labels[second]) for labels in given.values() if first in labels and second in labels]
        if both:
            ours, theirs = [a for a, _ in both], [b for _, b in both]
            kappa = None if len(set(ours + theirs)) == 1 else float(cohen_kappa_score(ours, theirs))
            found.append(Pair(first, second, len(both), kappa))
    return found


def krippendorff_alpha(given: Mapping[str, Mapping[str, str]], labels: Sequence[str]) -> float | None:
    """Return Krippendorff's nominal alpha over all people and cases, any number of labels a case.

    1 is full agreement, 0 what chance gives. None where fewer than two labels or people can be compared.
    Source: Krippendorff (2004).
    """
    import krippendorff

    people = sorted({person for said in given.values() for person in said})
    compared = [said for said in given.values() if len(said) > 1]
    if len({label for said in compared for label in said.values()}) < 2:
        return None
    rows = np.full((len(people), len(compared)), np.nan)
    for column, said in enumerate(compared):
        for person, label in said.items():
            rows[people.index(person), column] = labels.index(label)
    return float(krippendorff.alpha(reliability_data=rows, level_of_measurement="nominal"))


def majority(labels: Iterable[str]) -> str | None:
    """Return the label of more than half of those given, or None."""
    said = list(labels)
    found = max(sorted(set(said)), key=said.count, default=None)
    return found if found is not None and 2 * said.count(found) > len(said) else None
