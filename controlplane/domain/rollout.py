"""One attempt to replace a primary: where it stands, where it may go, and what should happen next."""

import enum
from dataclasses import dataclass
from datetime import datetime

from protos.contract.digest import parse_digest
from protos.contract.draws import BASIS_POINTS


class Phase(enum.Enum):
    """Where a rollout stands. Held is not among them: a rollout is held where it stands, and its traffic with it."""

    CANDIDATE = "candidate"
    EVALUATED = "evaluated"
    SHADOW = "shadow"
    CANARY = "canary"
    PRIMARY = "primary"
    RETIRED = "retired"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"


# Every move there is. Staying in an open phase is legal too; CANARY to CANARY is the next stage.
LEGAL_MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.CANDIDATE: frozenset({Phase.EVALUATED, Phase.REJECTED}),
    # A specialist's first bundle has nobody to shadow.
    Phase.EVALUATED: frozenset({Phase.SHADOW, Phase.PRIMARY, Phase.REJECTED}),
    # Backwards is where the gateways are, when they refused the step.
    Phase.SHADOW: frozenset({Phase.CANARY, Phase.REJECTED, Phase.ROLLED_BACK, Phase.EVALUATED}),
    Phase.CANARY: frozenset({Phase.PRIMARY, Phase.ROLLED_BACK, Phase.SHADOW, Phase.EVALUATED}),
    Phase.PRIMARY: frozenset({Phase.RETIRED, Phase.ROLLED_BACK}),
    # Whoever took its place was rolled back.
    Phase.RETIRED: frozenset({Phase.PRIMARY}),
    Phase.REJECTED: frozenset(),
    Phase.ROLLED_BACK: frozenset(),
}
OPEN = frozenset({Phase.CANDIDATE, Phase.EVALUATED, Phase.SHADOW, Phase.CANARY})


class IllegalTransition(Exception):
    """A rollout may not go from one phase to another."""

    def __init__(self, rollout: str, source: Phase, target: Phase) -> None:
        super().__init__(f"rollout {rollout!r} is {source.value} and may not become {target.value}")
        self.rollout = rollout
        self.source = source
        self.target = target


class ApprovalMissing(ValueError):
    """A move of live traffic was built without an approval."""


class Verdict(enum.Enum):
    """What a gate says: only FAIL is harm; ERROR could not measure, NOT_YET cannot tell."""

    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "fail"
    NOT_YET = "not_yet"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class GateReading:
    """One gate's number, the interval it is known to, and the limit it is held against."""

    gate: str
    verdict: Verdict
    value: float
    lower: float
    upper: float
    limit: float
    sample: int
    sample_missing: int  # further observations needed for a verdict, 0 when there is one
    summary: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """The readings of every gate over one stage."""

    readings: tuple[GateReading, ...]

    @property
    def verdict(self) -> Verdict:
        """Return the worst reading's verdict; no reading at all is NOT_YET, never a pass."""
        said = {reading.verdict for reading in self.readings}
        for worst in (Verdict.FAIL, Verdict.ERROR, Verdict.NOT_YET):
            if worst in said:
                return worst
        return Verdict.PASS if said else Verdict.NOT_YET

    @property
    def summary(self) -> str:
        """Name what the verdict rests on, for a person."""
        verdict = self.verdict
        return "; ".join(r.summary for r in self.readings if r.verdict is verdict) or "no gate has been read"


@dataclass(frozen=True, slots=True)
class Rollout:
    """One candidate's way to become the primary.

    Attributes:
        primary: Digest of the bundle serving now; None before the specialist's first.
        stage: Index into ``stages_bp`` of the canary stage in force; read in CANARY only.
        stages_bp: Canary weights in basis points, rising.
        shadow_bp: Basis points of the primary's requests copied to the candidate.
        held: A person, or a step that gateways refused, keeps it where it is; harm still rolls it back.
        evaluation: What its suite says of the candidate beside this primary; NOT_YET while nothing does.
    """

    id: str
    specialist: str
    phase: Phase
    held: bool
    primary: str | None
    candidate: str
    stage: int
    stages_bp: tuple[int, ...]
    shadow_bp: int
    evaluation: Verdict

    def __post_init__(self) -> None:
        where = f"rollout {self.id!r}"
        parse_digest(self.candidate, f"{where}: candidate")
        if self.primary is not None:
            parse_digest(self.primary, f"{where}: primary")
        elif self.phase in (Phase.SHADOW, Phase.CANARY):
            raise ValueError(f"{where}: phase is {self.phase.value} without a primary, expected one to compare with")
        rising = all(a < b for a, b in zip(self.stages_bp, self.stages_bp[1:], strict=False))
        if not self.stages_bp or not rising or self.stages_bp[0] < 1 or self.stages_bp[-1] > BASIS_POINTS:
            raise ValueError(f"{where}: stages_bp is {self.stages_bp}, expected rising weights in 1..{BASIS_POINTS}")
        if not 0 <= self.stage < len(self.stages_bp):
            raise ValueError(f"{where}: stage is {self.stage}, expected 0 to {len(self.stages_bp) - 1}")
        if not 0 <= self.shadow_bp <= BASIS_POINTS:
            raise ValueError(f"{where}: shadow_bp is {self.shadow_bp}, expected 0 to {BASIS_POINTS}")

    @property
    def salt(self) -> str:
        """Return what callers are drawn by: a new rollout draws new ones."""
        return self.id

    @property
    def canary_bp(self) -> int:
        """Return the weight in force, in basis points; 0 outside CANARY."""
        return self.stages_bp[self.stage] if self.phase is Phase.CANARY else 0


@dataclass(frozen=True, slots=True)
class Approvals:
    """How far enough people have let this candidate go, and the digests of what they signed.

    Which statements count and who may sign is checked where the statements are read.
    """

    ceiling_bp: int = 0
    statements: tuple[str, ...] = ()
    expires: datetime | None = None  # when the first of the statements lapses

    def __post_init__(self) -> None:
        if not 0 <= self.ceiling_bp <= BASIS_POINTS:
            raise ValueError(f"ceiling_bp is {self.ceiling_bp}, expected 0 to {BASIS_POINTS}")
        if self.ceiling_bp and not self.statements:
            raise ApprovalMissing(f"ceiling_bp is {self.ceiling_bp} without a statement that grants it")
        for statement in self.statements:
            parse_digest(statement, "approvals: statement")

    def covers(self, weight_bp: int) -> bool:
        """Say whether a positive weight is within what was granted."""
        return 0 < weight_bp <= self.ceiling_bp

    def in_force(self, now: datetime) -> "Approvals":
        """Return these approvals, or none of them once they have lapsed."""
        return Approvals() if self.expires is not None and now >= self.expires else self


@dataclass(frozen=True, slots=True)
class Hold:
    """Change nothing, for a reason; ``awaits_approval`` when only a person's yes is missing."""

    reason: str
    awaits_approval: bool = False


@dataclass(frozen=True, slots=True)
class Accept:
    """Take the candidate's evaluation, which accepts it, for what later steps rest on."""


@dataclass(frozen=True, slots=True)
class Reject:
    """End a rollout that reached no request."""

    reason: str


@dataclass(frozen=True, slots=True)
class Shadow:
    """Copy some of the primary's requests to the candidate; its answers reach nobody."""

    shadow_bp: int


@dataclass(frozen=True, slots=True)
class Shift:
    """Let the candidate answer ``canary_bp`` of the requests. Cannot be built without an approval."""

    canary_bp: int
    stage: int
    approvals: tuple[str, ...]

    def __post_init__(self) -> None:
        _require(self.approvals, f"a shift to {self.canary_bp} bp")


@dataclass(frozen=True, slots=True)
class Promote:
    """Make the candidate the primary. Cannot be built without an approval."""

    approvals: tuple[str, ...]

    def __post_init__(self) -> None:
        _require(self.approvals, "a promotion")


@dataclass(frozen=True, slots=True)
class RollBack:
    """Return every request to the primary; approved in advance, so it waits for nobody."""

    reason: str


Decision = Hold | Accept | Reject | Shadow | Shift | Promote | RollBack


def _require(statements: tuple[str, ...], what: str) -> None:
    if not statements:
        raise ApprovalMissing(f"{what} names no approval, expected at least one statement digest")
    for statement in statements:
        parse_digest(statement, f"{what}: approval")


def check_move(rollout: Rollout, target: Phase) -> None:
    """Refuse an illegal move; raises IllegalTransition. Staying in a phase that is still open is legal."""
    if target not in LEGAL_MOVES[rollout.phase] and not (rollout.phase in OPEN and target is rollout.phase):
        raise IllegalTransition(rollout.id, rollout.phase, target)


def phase_after(rollout: Rollout, decision: Decision) -> Phase:
    """Return the phase a decision leads to."""
    match decision:
        case Hold():
            return rollout.phase
        case Accept():
            return Phase.EVALUATED
        case Reject():
            return Phase.REJECTED
        case Shadow():
            return Phase.SHADOW
        case Shift():
            return Phase.CANARY
        case Promote():
            return Phase.PRIMARY
        case RollBack():
            return Phase.ROLLED_BACK


def decide(rollout: Rollout, evidence: Evidence, approvals: Approvals, now: datetime) -> Decision:
    """Say what should happen to a rollout next; change nothing.

    Harm comes first: neither an approval nor a hold excuses a failure.

    Args:
        evidence: Readings of the stage in force; those of an earlier stage say nothing about this one.
        now: When approvals have to be in force.
    """
    if rollout.phase in (Phase.SHADOW, Phase.CANARY) and evidence.verdict is Verdict.FAIL:
        return RollBack(evidence.summary)
    if rollout.held:
        return Hold("held by a person")
    if rollout.phase is Phase.CANDIDATE and rollout.evaluation is Verdict.FAIL:
        return Reject("the candidate's evaluation rejects it")
    if rollout.phase in OPEN and rollout.evaluation is not Verdict.PASS:
        return Hold("waiting for the candidate's evaluation")
    approvals = approvals.in_force(now)
    match rollout.phase:
        case Phase.CANDIDATE:
            return Accept()
        case Phase.EVALUATED:
            return _start(rollout, evidence, approvals)
        case Phase.SHADOW:
            return _raise_to(rollout, 0, evidence, approvals)
        case Phase.CANARY if rollout.stage + 1 < len(rollout.stages_bp):
            return _raise_to(rollout, rollout.stage + 1, evidence, approvals)
        case Phase.CANARY:
            return _unless_passed(evidence) or _promote(approvals)
        case Phase.PRIMARY | Phase.RETIRED | Phase.REJECTED | Phase.ROLLED_BACK:
            return Hold(f"the rollout is {rollout.phase.value}")


def _start(rollout: Rollout, evidence: Evidence, approvals: Approvals) -> Decision:
    if evidence.verdict is Verdict.FAIL:
        return Hold(f"evidence is {Verdict.FAIL.value}: {evidence.summary}")
    if rollout.primary is not None:
        return Shadow(rollout.shadow_bp)
    # A specialist's first bundle has no primary to be compared with: its evaluation and people decide.
    return _promote(approvals)


def _unless_passed(evidence: Evidence) -> Hold | None:
    if evidence.verdict is Verdict.PASS:
        return None
    return Hold(f"evidence is {evidence.verdict.value.replace('_', ' ')}: {evidence.summary}")


def _raise_to(rollout: Rollout, stage: int, evidence: Evidence, approvals: Approvals) -> Decision:
    held = _unless_passed(evidence)
    if held is not None:
        return held
    weight = rollout.stages_bp[stage]
    if not approvals.covers(weight):
        return _wait("the canary", weight, approvals)
    return Shift(weight, stage, approvals.statements)


def _promote(approvals: Approvals) -> Decision:
    if not approvals.covers(BASIS_POINTS):
        return _wait("the primary", BASIS_POINTS, approvals)
    return Promote(approvals.statements)


def _wait(step: str, weight: int, approvals: Approvals) -> Hold:
    # The same wait gives the same words, so that a repeated decision is recorded once.
    said = f"waiting for an approval of {step}: {weight / 100:g} %, {approvals.ceiling_bp / 100:g} % are approved"
    return Hold(said, awaits_approval=True)
