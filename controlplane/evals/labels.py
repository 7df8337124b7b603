"""The labels that cases are judged by, which may be coarser than a bundle's own."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.datasets.rows import Case, DataInvalid
from controlplane.evals.control import fit_control
from controlplane.evals.engine import Scores
from controlplane.evals.metrics import Floats, Ints
from controlplane.evals.registry import Answers
from controlplane.packs.example import Example
from protos.contract.task import TaskSpec


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels that cases are judged by, and how the bundle's own map onto them."""

    names: tuple[str, ...]
    matrix: Floats | None  # [bundle's labels, groups]; None without groups
    score_index: int

    @classmethod
    def of(cls, task: TaskSpec, groups: Mapping[str, tuple[str, ...]]) -> "Labels":
        """Check that the groups part the task's labels; raises DataInvalid."""
        if not groups:
            return cls(task.labels, None, task.score_index)
        said = Counter(label for members in groups.values() for label in members)
        if unknown := sorted(set(said) - set(task.labels)):
            raise DataInvalid(f"group label is {unknown[0]!r}, expected one of {', '.join(task.labels)}")
        odd = [label for label in task.labels if said[label] != 1]
        if odd:
            raise DataInvalid(f"label {odd[0]!r} is in {said[odd[0]]} groups, expected in exactly one")
        matrix = np.array([[float(label in members) for members in groups.values()] for label in task.labels])
        return cls(tuple(groups), matrix, int(matrix[task.score_index].argmax()))

    def answers(self, task: TaskSpec, cases: Sequence[Case], labels: Ints, scores: Scores) -> Answers:
        """Put a model's scores and the cases together."""
        columns = {name: [case.kept[name] for case in cases] for name in cases[0].kept}
        return Answers(
            names=self.names,
            labels=labels,
            probabilities=scores.probabilities if self.matrix is None else scores.probabilities @ self.matrix,
            score_index=self.score_index,
            decisions=scores.decisions if self.matrix is None else None,
            cost=np.array(task.cost, dtype=np.float64) if self.matrix is None else None,
            case_weights=np.array([case.weight for case in cases]),
            columns=columns,
            decides_labels=task.decisions == task.labels,
        )

    def control(self, task: TaskSpec, learned: Sequence[Case], cases: Sequence[Case], labels: Ints) -> Answers:
        """Have the classical control learn from cases, labelled all by the task or all by groups, and answer others."""
        names = task.labels if all(case.label in task.labels for case in learned) else self.names
        model = fit_control(task, [Example(case.text, case.label) for case in learned], names)
        found = model.probabilities([case.text for case in cases])
        decisions = np.zeros(len(cases), dtype=np.int64)
        if names == task.labels:
            decisions = np.array([task.decide(row) for row in found.tolist()], dtype=np.int64)
        direct = self if names == task.labels else Labels(self.names, None, self.score_index)
        made = direct.answers(task, cases, labels, Scores(found, decisions, np.zeros(len(cases))))
        return made if self.matrix is None else made.without_decisions()
