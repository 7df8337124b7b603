"""Suites: the thresholds a candidate must meet, locked by digest before it is trained."""

import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from controlplane.errors import Unusable
from controlplane.evals import registry
from controlplane.evals.robustness import CHANGES
from protos.contract.digest import digest_json
from protos.contract.fields import FieldInvalid, Reader

LIVE = "live"  # captured traffic with known outcomes, kept out of training: only where a suite asks for it
PARTS = ("core", "shifted", LIVE)
RIVALS = ("primary", "control")
CAUSES = ("bootstrap", "drift", "schedule", "labels", "suite", "operator")


class SuiteInvalid(Unusable):
    """A suite cannot be read, or is not the one that was locked."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One requirement: a bound on the candidate's value, or on its advantage over a rival.

    A ``vs`` gate passes when the low end of the paired interval of the advantage reaches ``margin``;
    advantage is positive where the candidate is better, whichever way the metric points. With ``when`` a
    gate is asked only of candidates made for that cause: a retraining for drift has to bring something. With
    ``slice`` it is asked of the part's cases of that slice.
    """

    metric: str
    part: str
    min: float | None = None
    max: float | None = None
    vs: str | None = None
    margin: float | None = None
    when: str | None = None
    slice: str | None = None

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Read one gate; raises FieldInvalid."""
        read = Reader(value, where)
        metric = read.text("metric")
        try:
            registry.higher_is_better(metric)
        except registry.MetricUnknown as error:
            raise FieldInvalid(f"{where}.{error}") from error
        part = read.text("part", choices=PARTS)
        kinds = [kind for kind in ("min", "max", "vs") if isinstance(value, dict) and kind in value]
        if len(kinds) != 1:
            raise FieldInvalid(f"{where} has {', '.join(kinds) or 'no bound'}, expected one of min, max, vs")
        when = read.text("when", None, choices=CAUSES)
        inside = read.maybe_text("slice")
        if inside is not None and metric == registry.LATENCY:
            raise FieldInvalid(f"{where}.slice is {inside!r}, expected none with {metric}")
        if kinds == ["vs"]:
            margin = read.number("margin", -1e6, 1e6)
            gate = cls(metric, part, vs=read.text("vs", choices=RIVALS), margin=margin, when=when, slice=inside)
            if metric == registry.LATENCY:
                raise FieldInvalid(f"{where}.metric is {metric!r}, expected min or max: it has no paired interval")
        elif kinds == ["min"]:
            gate = cls(metric, part, min=read.number("min", -1e6, 1e6), when=when, slice=inside)
        else:
            gate = cls(metric, part, max=read.number("max", -1e6, 1e6), when=when, slice=inside)
        read.done()
        return gate

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that ``from_json`` reads."""
        names = ("metric", "part", "min", "max", "vs", "margin", "when", "slice")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def bound(self) -> float:
        """What the value, or the advantage, is held against."""
        return next(bound for bound in (self.margin, self.min, self.max) if bound is not None)

    @property
    def text(self) -> str:
        """The requirement, for people."""
        what = f"{self.part} {self.metric}" + (f" of {self.slice}" if self.slice is not None else "")
        if self.vs is not None:
            return f"{what}: advantage over {self.vs} at least {self.margin:g}"
        return f"{what}: " + (f"at least {self.min:g}" if self.min is not None else f"at most {self.max:g}")


@dataclass(frozen=True, slots=True)
class Robustness:
    """What holds when a part's cases are changed (`robustness.CHANGES`).

    At most this share of the decisions changes, or a metric of the changed cases keeps its bound.
    """

    change: str
    part: str
    max_changed: float | None = None
    metric: str | None = None
    min: float | None = None
    max: float | None = None

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Read one; raises FieldInvalid."""
        read = Reader(value, where)
        change, part = read.text("change", choices=tuple(CHANGES)), read.text("part", choices=PARTS)
        metric = read.maybe_text("metric")
        if metric is None:
            one = cls(change, part, read.number("max_changed", 0, 1))
        else:
            bounds = {kind: read.number(kind, -1e6, 1e6) for kind in ("min", "max") if kind in value}
            if len(bounds) != 1:
                raise FieldInvalid(f"{where} has {', '.join(bounds) or 'no bound'}, expected one of min, max")
            try:
                registry.find(metric)
            except registry.MetricUnknown as error:
                raise FieldInvalid(f"{where}.{error}") from error
            one = cls(change, part, metric=metric, **bounds)
        read.done()
        return one

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that ``from_json`` reads."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Contract:
    """So many of a part's cases, made hostile (`robustness.hostile`), are answered, or refused as the task says."""

    part: str
    cases: int

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Read the table; raises FieldInvalid."""
        read = Reader(value, where)
        one = cls(read.text("part", "core", choices=PARTS), read.integer("cases", 1, 100, 5))
        read.done()
        return one


@dataclass(frozen=True, slots=True)
class Fairness:
    """The worst slice's value of a metric is at least this share of the best one's (0.8: the four-fifths rule)."""

    metric: str
    part: str
    slices: tuple[str, ...]
    min_ratio: float

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Read one; raises FieldInvalid."""
        read = Reader(value, where)
        metric = read.text("metric")
        try:
            registry.find(metric)
        except registry.MetricUnknown as error:
            raise FieldInvalid(f"{where}.{error}") from error
        one = cls(metric, read.text("part", choices=PARTS), read.texts("slices"), read.number("min_ratio", 0, 1))
        read.done()
        if len(one.slices) < 2:
            raise FieldInvalid(f"{where}.slices is {list(one.slices)}, expected at least two")
        return one


@dataclass(frozen=True, slots=True)
class Callers:
    """What callers of a real gateway must see of the candidate, asked one decision after the other.

    Attributes:
        budget_us: The time each caller gives, such as an auction's ``tmax``; None: the task's own deadline.
        min_in_time: Share that the engine itself answers within that time.
        max_fallbacks: Share that gets the fallback, or no answer at all.
    """

    part: str
    cases: int
    budget_us: int | None
    min_in_time: float | None
    max_fallbacks: float | None

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Read the table; raises FieldInvalid."""
        read = Reader(value, where)

        def maybe(name: str) -> float | None:
            return read.number(name, 0, 1) if name in value else None

        one = cls(
            part=read.text("part", "core", choices=PARTS),
            cases=read.integer("cases", 20, 100_000, 200),
            budget_us=read.integer("budget_us", 1_000, 60_000_000) if "budget_us" in value else None,
            min_in_time=maybe("min_in_time"),
            max_fallbacks=maybe("max_fallbacks"),
        )
        read.done()
        if one.min_in_time is None and one.max_fallbacks is None:
            raise FieldInvalid(f"{where} has no bound, expected min_in_time, max_fallbacks or both")
        return one

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that ``from_json`` reads."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Suite:
    """Gates, how many regressions are bearable, and how intervals are drawn."""

    gates: tuple[Gate, ...]
    regressions_part: str
    regressions_max_share: float
    rounds: int
    confidence: float
    seed: int
    robustness: tuple[Robustness, ...] = ()
    fairness: tuple[Fairness, ...] = ()
    gateway: Callers | None = None
    contract: Contract | None = None

    @property
    def parts(self) -> set[str]:
        """The parts that anything is asked of."""
        callers = [one.part for one in (self.gateway, self.contract) if one is not None]
        asked = {one.part for one in self.gates} | {one.part for one in self.robustness}
        return {self.regressions_part, *callers} | asked | {one.part for one in self.fairness}

    @property
    def digest(self) -> str:
        """The suite's name: it changes with any threshold."""
        return digest_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that ``from_json`` reads."""
        return {
            "version": 1,
            "gates": [gate.to_json() for gate in self.gates],
            "regressions": {"part": self.regressions_part, "max_share": self.regressions_max_share},
            "bootstrap": {"rounds": self.rounds, "confidence": self.confidence, "seed": self.seed},
            **({"robustness": [one.to_json() for one in self.robustness]} if self.robustness else {}),
            **(
                {"fairness": [asdict(one) | {"slices": list(one.slices)} for one in self.fairness]}
                if self.fairness
                else {}
            ),
            **({"gateway": self.gateway.to_json()} if self.gateway else {}),
            **({"contract": asdict(self.contract)} if self.contract else {}),
        }

    @classmethod
    def from_json(cls, value: Any, where: str = "suite") -> Self:
        """Read and check a suite; raises FieldInvalid."""
        read = Reader(value, where)
        read.integer("version", 1, 1)
        gates = tuple(Gate.from_json(item, f"{where}.gates[{i}]") for i, item in enumerate(read.items("gates")))
        if not gates:
            raise FieldInvalid(f"{where}.gates is empty, expected at least one")
        regressions = Reader(read.object("regressions"), f"{where}.regressions")
        bootstrap = Reader(read.object("bootstrap"), f"{where}.bootstrap")
        gateway = read.object("gateway", {})
        suite = cls(
            gates=gates,
            regressions_part=regressions.text("part", choices=PARTS),
            regressions_max_share=regressions.number("max_share", 0, 1),
            rounds=bootstrap.integer("rounds", 100, 100_000),
            confidence=bootstrap.number("confidence", 0.5, 0.999),
            seed=bootstrap.integer("seed", 0, 2**31 - 1),
            robustness=tuple(
                Robustness.from_json(item, f"{where}.robustness[{i}]")
                for i, item in enumerate(read.items("robustness", []))
            ),
            fairness=tuple(
                Fairness.from_json(item, f"{where}.fairness[{i}]") for i, item in enumerate(read.items("fairness", []))
            ),
            gateway=Callers.from_json(gateway, f"{where}.gateway") if gateway else None,
            contract=Contract.from_json(read.object("contract"), f"{where}.contract") if "contract" in value else None,
        )
        for reader in (regressions, bootstrap, read):
            reader.done()
        return suite


def load_suite(path: Path) -> Suite:
    """Read a ``suite.toml``; raises SuiteInvalid."""
    try:
        return Suite.from_json(tomllib.loads(path.read_text("utf-8")), path.name)
    except (OSError, ValueError) as error:
        raise SuiteInvalid(f"{path}: {error}") from error
