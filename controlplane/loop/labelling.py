"""The label queue: which cases people should see next, and what becomes of what they say."""

from dataclasses import dataclass
from typing import Any

from controlplane.datasets.agreement import majority
from controlplane.errors import RequestInvalid
from controlplane.loop.deployment import LOOP, Deployment
from controlplane.store import labels
from controlplane.store import outcomes as stored_outcomes
from controlplane.store.store import Unit

SOURCE = "label-queue"
_SCORES_APART = 0.15  # of one half: a score nearer than this is a close call


@dataclass(frozen=True, slots=True)
class QueuedCase:
    """One case and why it is asked about."""

    row: Any
    why: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row of an import that was not kept."""

    row: int
    problem: str


def next_cases(unit: Unit, deployment: Deployment, specialist: str, person: str, limit: int) -> list[QueuedCase]:
    """Return what would teach most first: disagreements, then fallbacks, then close calls, then the rest, newest first.

    Cases that others have labelled once come before untouched ones of their kind, so that agreement can be measured.

    Raises:
        UnknownSpecialist, RequestInvalid: Nobody is named, so that nothing they say could be kept.
    """
    deployment.pack(specialist)
    if not person.strip():
        raise RequestInvalid(f"person is {person!r}, expected who is going to label")
    ranks = {"disagreement": 0, "fallback": 1, "margin": 2, "random": 3}
    found = [QueuedCase(row, _why(row)) for row in labels.candidates(unit, specialist, person, SOURCE)]
    found.sort(key=lambda case: (ranks[case.why], case.row.labels != 1))
    return found[:limit]


def import_labels(
    unit: Unit, deployment: Deployment, specialist: str, rows: list[tuple[str, str, str]]
) -> tuple[int, list[Refusal]]:
    """Keep (decision id, person, label) rows; what most people say of a case becomes its outcome, a split leaves none.

    Returns:
        How many were kept, and the rows that were not, with reasons; both go into the ledger.
    """
    known = deployment.pack(specialist).task.labels
    kept: set[str] = set()
    refused: list[Refusal] = []
    for number, (decision_id, person, label) in enumerate(rows, 1):
        text = labels.text_of(unit, specialist, decision_id)
        if not person.strip():
            refused.append(Refusal(number, "person is empty, expected who says so"))
        elif label not in known:
            refused.append(Refusal(number, f"label is {label[:60]!r}, expected one of {', '.join(known)}"))
        elif text is None:
            refused.append(Refusal(number, f"decision_id is {decision_id[:60]!r}, expected one that was captured"))
        else:
            labels.give(unit, specialist, decision_id, person, label, text)
            kept.add(decision_id)
    said: dict[str, list[str]] = {}
    for row in labels.given(unit, specialist):
        said.setdefault(row.decision_id, []).append(row.label)
    agreed = {name: found for name in kept if (found := majority(said[name])) is not None}
    outcomes = [
        {
            "specialist": specialist,
            "decision_id": name,
            "label": label,
            "source": SOURCE,
            "observed_ms": unit.now_ms,
            "received_ms": unit.now_ms,
        }
        for name, label in sorted(agreed.items())
    ]
    stored_outcomes.add(unit, outcomes)
    stored_outcomes.withdraw(unit, specialist, kept - set(agreed), SOURCE)
    detail = {"specialist": specialist, "kept": len(rows) - len(refused), "outcomes": len(outcomes)}
    unit.record(LOOP, "labels.imported", {**detail, "refused": [f"{r.row}: {r.problem}" for r in refused[:50]]})
    return len(rows) - len(refused), refused


def _why(row: Any) -> str:
    if row.disagrees:
        return "disagreement"
    if row.fallback:
        return "fallback"
    return "margin" if abs(float(row.score) - 0.5) < _SCORES_APART else "random"
