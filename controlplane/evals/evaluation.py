"""What an evaluation found: everything an approver is shown, as values that survive JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from controlplane.evals.bootstrap import Interval
from protos.contract.digest import digest_json
from protos.contract.fields import Reader


@dataclass(frozen=True, slots=True)
class Value:
    """A metric's value, with an interval where it has one."""

    value: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class GateResult:
    """What one gate asked and found; ``passed`` is None when it is not applicable."""

    text: str
    passed: bool | None
    found: float | None
    low: float | None
    high: float | None
    needed: float


@dataclass(frozen=True, slots=True)
class Regression:
    """A case the primary had right and the candidate has wrong."""

    text: str
    label: str
    slice: str
    primary_decision: str
    candidate_decision: str
    added_cost: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything an approver is shown.

    Attributes:
        values: By part, model and metric.
        slices: The candidate's, by part and slice: cases and metrics.
        regressions: Cases the primary had right and the candidate has wrong; ``regression_ids`` names them by the keys
            of their texts, as the fence does, and ``worst_regressions`` shows three.
        reliability: By part and model: how sure it was and how often right, in bins (``Measured.reliability``).
        elsewhere: By model, for those that servers elsewhere answered for: which, and whose the weights are
            (``Engines.elsewhere``); a worker, started for the evaluation, answered for the others.
        refused: How many cases an engine refused, by part and model, where it did; the fallback stands for them.
    """

    suite_digest: str
    candidate: str
    primary: str | None
    sizes: Mapping[str, int]
    values: Mapping[str, Mapping[str, Mapping[str, Value]]]
    gates: tuple[GateResult, ...]
    accepted: bool
    regressions_share: float | None
    worst_regressions: tuple[Regression, ...]
    slices: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    regressions: int | None = None
    regression_ids: tuple[str, ...] = ()
    reliability: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    elsewhere: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refused: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The evaluation's name."""
        return digest_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that ``from_json`` reads."""
        return {
            "suite_digest": self.suite_digest,
            "candidate": self.candidate,
            "primary": self.primary,
            "sizes": dict(self.sizes),
            "values": {
                part: {model: {name: asdict(value) for name, value in found.items()} for model, found in models.items()}
                for part, models in self.values.items()
            },
            "gates": [asdict(gate) for gate in self.gates],
            "accepted": self.accepted,
            "regressions_share": self.regressions_share,
            "worst_regressions": [asdict(case) for case in self.worst_regressions],
            "slices": {part: {name: dict(found) for name, found in by.items()} for part, by in self.slices.items()},
            "regressions": self.regressions,
            "regression_ids": list(self.regression_ids),
            "reliability": {part: dict(models) for part, models in self.reliability.items()},
            "elsewhere": {model: dict(about) for model, about in self.elsewhere.items()},
            "refused": {part: dict(models) for part, models in self.refused.items()},
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read an evaluation; raises FieldInvalid, or TypeError or KeyError for a malformed inner record."""
        given = dict(value)
        share, regressions = given.pop("regressions_share"), given.pop("regressions", None)
        read = Reader(given, "evaluation")
        evaluation = cls(
            suite_digest=read.text("suite_digest"),
            candidate=read.text("candidate"),
            primary=read.maybe_text("primary"),
            sizes=read.object("sizes"),
            values={
                part: {
                    model: {
                        name: Value(v["value"], None if v["interval"] is None else Interval(**v["interval"]))
                        for name, v in found.items()
                    }
                    for model, found in models.items()
                }
                for part, models in read.object("values").items()
            },
            gates=tuple(GateResult(**gate) for gate in read.items("gates")),
            accepted=read.flag("accepted"),
            regressions_share=share,
            worst_regressions=tuple(Regression(**case) for case in read.items("worst_regressions")),
            slices=read.object("slices", {}),
            regressions=regressions,
            regression_ids=tuple(read.items("regression_ids", [])),
            reliability=read.object("reliability", {}),
            elsewhere=read.object("elsewhere", {}),
            refused=read.object("refused", {}),
        )
        read.done()
        return evaluation
