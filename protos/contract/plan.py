"""The traffic plan: all weights at one moment, as values and as canonical JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from protos.contract.digest import digest_json, parse_digest
from protos.contract.fields import FieldInvalid, Reader

BASIS_POINTS = 10_000

SCHEMA = "interlock.plan/1"
MAX_HOLDBACK_BP = 1_000  # a plan, which nobody needs to approve for this, may keep a model from a tenth at most


@dataclass(frozen=True, slots=True)
class Split:
    """How one specialist's live traffic is divided between bundles.

    Attributes:
        primary: Digest of the bundle that answers what nothing else answers.
        candidate: Digest of the bundle that may replace it, if a rollout is open.
        previous: Digest of the bundle to return to; was the primary before.
        canary_bp: Basis points of units the candidate answers.
        shadow_bp: Basis points of units copied to the candidate, its answer never returned.
        capture_bp: Basis points of units recorded.
        holdback_bp: Basis points of units kept from every model: they get the task's holdback decision, so that
            what the model is worth can be measured against them.
        salt: The rollout's id: a new rollout draws new units.
    """

    specialist: str
    primary: str
    candidate: str | None
    previous: str | None
    canary_bp: int
    shadow_bp: int
    capture_bp: int
    holdback_bp: int
    salt: str

    def __post_init__(self) -> None:
        where = f"split of {self.specialist!r}"
        for name in ("primary", "candidate", "previous"):
            digest = getattr(self, name)
            if digest is not None or name == "primary":
                parse_digest(str(digest), f"{where}: {name}")
        for name in ("canary_bp", "shadow_bp", "capture_bp", "holdback_bp"):
            weight = getattr(self, name)
            most = MAX_HOLDBACK_BP if name == "holdback_bp" else BASIS_POINTS
            if not 0 <= weight <= most:
                raise FieldInvalid(f"{where}: {name} is {weight}, expected 0 to {most}")
        if self.candidate is None and (self.canary_bp or self.shadow_bp):
            raise FieldInvalid(f"{where}: canary_bp or shadow_bp is above 0 without a candidate")

    def shape(self) -> dict[str, Any]:
        """Return who could answer, without weights: what a person approves moving from and to."""
        return {
            "specialist": self.specialist,
            "primary": self.primary,
            "candidate": self.candidate,
            "previous": self.previous,
            "salt": self.salt,
        }

    def shape_digest(self) -> str:
        """Name the shape."""
        return digest_json(self.shape())

    def exposure(self) -> dict[str, int]:
        """Return, for each bundle that may answer a caller, the most basis points it may answer."""
        answers = {self.primary: BASIS_POINTS}
        if self.candidate is not None and self.canary_bp:
            answers[self.candidate] = max(self.canary_bp, answers.get(self.candidate, 0))
        return answers

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Read one split; raises FieldInvalid or DigestMalformed."""
        read = Reader(value, where)
        split = cls(
            specialist=read.text("specialist"),
            primary=read.text("primary"),
            candidate=read.maybe_text("candidate"),
            previous=read.maybe_text("previous"),
            canary_bp=read.integer("canary_bp", 0, BASIS_POINTS),
            shadow_bp=read.integer("shadow_bp", 0, BASIS_POINTS),
            capture_bp=read.integer("capture_bp", 0, BASIS_POINTS),
            holdback_bp=read.integer("holdback_bp", 0, BASIS_POINTS),
            salt=read.text("salt"),
        )
        read.done()
        return split


@dataclass(frozen=True, slots=True)
class TrafficPlan:
    """All splits at one moment. ``generation`` only ever rises within a deployment."""

    deployment: str
    generation: int
    created_at: int  # Unix seconds
    splits: tuple[Split, ...]
    approvals: tuple[str, ...]  # digests of the statements the weights rest on

    def __post_init__(self) -> None:
        names = [split.specialist for split in self.splits]
        if names != sorted(set(names)):
            raise FieldInvalid(f"plan.splits names {names}, expected each specialist once, in order")

    def split_for(self, specialist: str) -> Split | None:
        """Return a specialist's split, if the plan has one."""
        return next((split for split in self.splits if split.specialist == specialist), None)

    @property
    def digest(self) -> str:
        """The plan's name."""
        return digest_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that ``from_json`` reads."""
        return {
            "schema": SCHEMA,
            "deployment": self.deployment,
            "generation": self.generation,
            "created_at": self.created_at,
            "splits": [asdict(split) for split in self.splits],
            "approvals": list(self.approvals),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read and check a plan; raises FieldInvalid or DigestMalformed."""
        read = Reader(value, "plan")
        read.text("schema", choices=(SCHEMA,))
        plan = cls(
            deployment=read.text("deployment"),
            generation=read.integer("generation", 1, 2**53),
            created_at=read.integer("created_at", 0, 2**40),
            splits=tuple(Split.from_json(v, f"plan.splits[{i}]") for i, v in enumerate(read.items("splits"))),
            approvals=tuple(parse_digest(d, "plan.approvals") for d in read.texts("approvals")),
        )
        read.done()
        return plan
