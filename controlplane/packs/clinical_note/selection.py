"""Notes by choosing sentences, learned from references and measured against them, on dialogues as published.

A sentence of a training dialogue belongs into the note where the reference shares enough of its words. The model sees
a sentence and the question before it, never the reference; how sure it must be is chosen on training dialogues too.

``python -m controlplane.packs.clinical_note.selection TRAIN DEV`` prints the figures beside copying the whole dialogue.
"""

import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from controlplane.datasets.rows import DataInvalid, read_rows
from controlplane.evals.rouge import rouge
from controlplane.packs.clinical_note.factuality import Facts, critical_facts, facts_of
from controlplane.packs.clinical_note.note import OMITTED, Turn, turns_of
from controlplane.packs.example import Example
from controlplane.packs.folder import to_input
from controlplane.training.additive import fit
from controlplane.training.classical import Fitted
from protos.contract.additive import Additive
from protos.contract.task import TaskSpec, render

KEPT = "kept"
LEAST_SHARED = 0.5  # of a sentence's words, for it to belong into the note
THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
SEED = 7
Chooser = Callable[[Sequence[Turn]], list[Turn]]


def selection_task(task: TaskSpec, at: float = 0.5) -> TaskSpec:
    """Return the pack's task with one section: whether a sentence belongs into the note at all.

    Keeping costs least from a probability of ``at`` on, at most a half.
    """
    return replace(
        task,
        labels=(OMITTED, KEPT),
        decisions=("omit", "keep"),
        cost=((0.0, at / (1 - at)), (1.0, 0.0)),
        score_label=KEPT,
        fallback_decision="keep",
        fallback_score=1.0,
    )


def belongs(turn: Turn, noted: Facts) -> bool:
    """Say whether a reference shares enough of a sentence's words, or any of its numbers, sides and medicines."""
    ours = facts_of(turn.said)
    if not ours.words | ours.critical:
        return False
    shared = len(ours.words & noted.words) + len(ours.critical & noted.critical)
    return shared / len(ours.words | ours.critical) >= LEAST_SHARED


def case_of(task: TaskSpec, turn: Turn, label: str) -> Example:
    """Render a sentence and the question before it."""
    fields = {"said": turn.said} | ({"asked": turn.asked} if turn.asked else {})
    return Example(render(task, to_input(task, fields)), label)


def learn(task: TaskSpec, rows: Sequence[tuple[str, str]]) -> tuple[Fitted, float]:
    """Fit on pairs of dialogue and reference; return the model and the probability from which a sentence is kept."""
    drawn = random.Random(SEED).sample(list(rows), len(rows))  # noqa: S311 - a draw of cases, not a secret
    held, rest = drawn[: len(drawn) // 6], drawn[len(drawn) // 6 :]
    cases = [[one for row in part for one in _cases(task, *row)] for part in (rest, held)]
    fitted = fit(task, cases[0], cases[1], seed=SEED, analysers={"asked": "spelling", "said": "spelling"})
    model = Additive.from_json(task, fitted.body, "model")
    scored = {at: float(np.mean(rouge1(held, chooser(task, model, fitted, at)))) for at in THRESHOLDS}
    # The threshold is the task's cost from here on; offsets were fitted for another one.
    return replace(fitted, head=replace(fitted.head, offsets=())), max(scored, key=lambda at: scored[at])


def _cases(task: TaskSpec, dialogue: str, note: str) -> list[Example]:
    noted = facts_of(note)
    return [case_of(task, turn, KEPT if belongs(turn, noted) else OMITTED) for turn in turns_of(dialogue)]


def chooser(task: TaskSpec, model: Additive, fitted: Fitted, at: float) -> Chooser:
    """Return the choice of a model; the surest sentence where none is sure enough."""

    def choose(turns: Sequence[Turn]) -> list[Turn]:
        logits = model.logits([case_of(task, turn, KEPT).text for turn in turns])
        told = fitted.head.probabilities(logits)[:, task.score_index]
        kept = [turn for turn, p in zip(turns, told, strict=True) if p >= at]
        return kept or [turns[int(told.argmax())]]

    return choose


def rouge1(rows: Sequence[tuple[str, str]], choose: Chooser) -> list[float]:
    """Score the chosen sentences of each dialogue against its reference."""
    return [rouge(written(dialogue, choose), note).rouge1 for dialogue, note in rows]


def written(dialogue: str, choose: Chooser) -> str:
    """Join the chosen sentences of a dialogue; empty where it has none."""
    turns = list(turns_of(dialogue))
    return " ".join(turn.said for turn in choose(turns)) if turns else ""


def read(path: Path) -> list[tuple[str, str]]:
    """Read dialogues and their references, a section or a whole note; raises DataInvalid."""
    rows = []
    for number, row in read_rows(path):
        reference = "section_text" if "section_text" in row else "note"
        for column in ("dialogue", reference):
            if not isinstance(row.get(column), str) or not row[column].strip():
                raise DataInvalid(f"{path} row {number}: column {column!r} is {row.get(column)!r}, expected text")
        rows.append((row["dialogue"], row[reference]))
    return rows


def measured(notes: Sequence[str], rows: Sequence[tuple[str, str]]) -> dict[str, list[float]]:
    """Return figures of each note: ROUGE, and critical facts against what was said and what should be noted."""
    found: dict[str, list[float]] = {}
    for text, (dialogue, note) in zip(notes, rows, strict=True):
        scores, facts = rouge(text, note), critical_facts(text, note)
        for name, value in (
            ("rouge1", scores.rouge1),
            ("rouge2", scores.rouge2),
            ("rouge_l", scores.rouge_l),
            ("critical_precision", facts["precision"]),
            ("critical_recall", facts["recall"]),
            ("critical_grounded", critical_facts(text, dialogue)["precision"]),
        ):
            found.setdefault(name, []).append(value)
    return found


def main() -> None:
    """Learn on one part, print the figures of the other."""
    from controlplane.packs.registry import load_pack

    train, dev = (read(Path(name)) for name in sys.argv[1:3])
    task = selection_task(load_pack("clinical-note").task)
    fitted, at = learn(task, train)
    model = Additive.from_json(task, fitted.body, "model")
    ways: dict[str, Chooser] = {"chosen": chooser(task, model, fitted, at), "whole dialogue": list}
    for name, choose in ways.items():
        figures = measured([written(dialogue, choose) for dialogue, _ in dev], dev)
        means = {metric: round(float(np.mean(values)), 4) for metric, values in figures.items()}
        sys.stdout.write(json.dumps({"way": name, **means}) + "\n")


if __name__ == "__main__":
    main()
