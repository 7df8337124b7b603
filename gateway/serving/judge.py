"""Whether an offer may be believed: signatures, people, the ledger, and that its plan may follow what was in force."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.serving.witness import LedgerRefused, Witness
from protos import traffic_pb2
from protos.contract.attestation import Approval, AttestationInvalid, Operators
from protos.contract.bundle import BundleInvalid, BundleStore
from protos.contract.digest import JsonMalformed, digest_bytes
from protos.contract.envelope import native
from protos.contract.fields import FieldInvalid
from protos.contract.keys import KeyInvalid
from protos.contract.ledger_proof import Recorded, recorded, signed_head
from protos.contract.operators import follow
from protos.contract.plan import Split, TrafficPlan
from protos.contract.plan_rules import Checked, PlanRefused, check_approvals, check_plan, open_plan, spent_by
from protos.contract.rollback import RollbackOrder, leave

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Judged:
    """An offer whose signatures and proofs are good, and what they say."""

    plan: TrafficPlan
    digest: str  # of the bytes that were signed
    steps: tuple[tuple[TrafficPlan, str], ...]  # recorded plans since the last one heard of, with their digests
    operators: Operators
    recorded: Recorded
    approvals: Checked

    def known_by(self, digest: str) -> tuple[Approval, ...]:
        """Return the approvals that the ledger has before a plan."""
        at = self.recorded.plans.get(digest, 0)
        return tuple(a for a in self.approvals.good if self.recorded.approvals.get(a.digest, at) < at)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the next plan has to follow.

    Attributes:
        plan: The last one that held, as it was signed.
        approvals: What came with it.
        spent: Approvals whose weight was taken back.
        rollbacks: Made here, of bundles that ``plan`` still has.
        untold: Made here, of bundles that it has no more; nobody said yet that the ledger has them.
        current_at: Unix seconds when this gateway last knew that nothing newer stood.
    """

    plan: TrafficPlan | None
    approvals: tuple[Approval, ...]
    spent: tuple[Approval | traffic_pb2.SpentApproval, ...]
    rollbacks: tuple[traffic_pb2.LocalRollback, ...]
    current_at: float
    untold: tuple[traffic_pb2.LocalRollback, ...] = ()

    def then(self, plan: TrafficPlan, approvals: tuple[Approval, ...], known: Sequence[Approval] = ()) -> "Standing":
        """Return what stands once ``plan`` holds; ``known`` are approvals given before it was made."""
        before = {a.digest: a for a in (*self.approvals, *known)}
        spent = (*self.spent, *spent_by(self.plan, plan, tuple(before.values())))
        rollbacks = tuple(made for made in self.rollbacks if _is_of(made, plan))
        carried = tuple(made for made in self.rollbacks if made not in rollbacks)
        return replace(
            self,
            plan=plan,
            approvals=approvals,
            spent=spent,
            rollbacks=rollbacks,
            untold=(*self.untold, *carried),
        )


class Judge:
    """Knows the deployment, its plan key, its people, and what its ledger showed."""

    def __init__(
        self,
        deployment: str,
        key: Ed25519PublicKey,
        own_list: Callable[[], Operators],
        store: BundleStore,
        witness: Witness,
        clock: Callable[[], float],
    ) -> None:
        self.witness = witness
        self._own_list = own_list
        self._deployment = deployment
        self._key = key
        self._store = store
        self._clock = clock
        try:
            self.operators = self._checked(own_list())
        except AttestationInvalid as error:
            raise FieldInvalid(f"operators: {error}") from error

    def look(self) -> None:
        """Take up the next version of the list of people, where this gateway's administrator changed it since.

        One with owners changes by their signatures alone.
        """
        if self.operators.owners():
            return
        try:
            found = self._checked(self._own_list())
        except (FieldInvalid, KeyInvalid, JsonMalformed, AttestationInvalid) as error:
            log.warning("operators_refused", error=str(error))
            return
        if found.version > self.operators.version:
            self.operators = found
            log.warning("operators_changed", version=found.version)
        elif found != self.operators:
            log.warning("operators_refused", error=f"version is {found.version}, expected a later one")

    def restore(self, updates: Sequence[traffic_pb2.Envelope], checkpoint: str) -> None:
        """Take up what was followed and seen before a restart."""
        try:
            self.operators = self._checked(follow(self.operators, updates))
            self.witness.restore(checkpoint)
        except (AttestationInvalid, LedgerRefused) as refused:
            log.error("stored_state_refused", reason=refused.reason, error=str(refused))

    def follow(self, offer: traffic_pb2.PlanOffer) -> Sequence[traffic_pb2.Envelope]:
        """Take the head and the lists of people that come with an offer; return the lists that are news.

        First of all, whatever becomes of the rest: what was shown once has to be shown for ever.
        """
        self.look()
        try:
            self.witness.take(self.witness.judge(offer), offer.checkpoint)
            following = self._checked(follow(self.operators, offer.operators))
        except (AttestationInvalid, LedgerRefused) as refused:
            raise PlanRefused(refused.reason, str(refused)) from refused
        if following.version <= self.operators.version:
            return ()
        self.operators = following
        log.warning("operators_changed", version=following.version)
        return offer.operators

    def judge(self, offer: traffic_pb2.PlanOffer) -> Judged:
        """Verify everything about an offer but whether its plan may follow; raises PlanRefused."""
        plan = open_plan(offer.plan, self._key)
        try:
            found = recorded(offer.records, signed_head(offer.checkpoint, self._deployment, self._key))
        except LedgerRefused as refused:
            raise PlanRefused(refused.reason, str(refused)) from refused
        approvals = check_approvals(offer.approvals, self.operators, found.approvals)
        steps = tuple(self._steps(offer.steps, found))
        return Judged(plan, digest_bytes(offer.plan.payload), steps, self.operators, found, approvals)

    def check(self, standing: Standing, judged: Judged) -> Standing:
        """Return what stands once the offer holds; raises PlanRefused.

        A step that may not follow is passed over, as a gateway that was there would have refused it.
        """
        for plan, digest in judged.steps:
            with suppress(PlanRefused):
                known = judged.known_by(digest)
                self._follows(standing, plan, judged)
                standing = standing.then(plan, known, known)
        self._follows(standing, judged.plan, judged)
        if judged.digest not in judged.recorded.plans:
            raise PlanRefused("plan_not_recorded", f"the ledger is not shown to hold plan {judged.plan.generation}")
        return standing.then(judged.plan, judged.approvals.good)

    def check_stored(self, judged: Judged) -> None:
        """Check a plan that was in force here before a restart; raises PlanRefused."""
        self._follows(Standing(None, (), (), (), 0.0), judged.plan, judged, was_in_force=True)

    def _follows(self, standing: Standing, plan: TrafficPlan, judged: Judged, *, was_in_force: bool = False) -> None:
        now = int(self._clock())
        if standing.plan is not None:
            # Whoever was away judges a plan at the time it was made; whoever was not, now.
            now = min(now, max(plan.created_at, standing.plan.created_at, int(standing.current_at)))
        check_plan(
            standing.plan,
            plan,
            judged.approvals,
            judged.operators,
            self._deployment,
            now,
            was_in_force=was_in_force,
            spent=frozenset(s.digest for s in standing.spent),
            author_of=self._author_of,
            left=lambda split: less(split, standing.rollbacks),
        )

    def _steps(self, envelopes: Iterable[traffic_pb2.Envelope], found: Recorded) -> Iterable[tuple[TrafficPlan, str]]:
        for envelope in envelopes:
            digest = digest_bytes(envelope.payload)
            with suppress(PlanRefused):
                if digest in found.plans:
                    yield open_plan(envelope, self._key), digest

    def _checked(self, operators: Operators) -> Operators:
        if operators.owner(native(self._key)) is not None:
            raise AttestationInvalid("operators_invalid", "the control plane's own key is enrolled as a person's")
        return operators

    def _author_of(self, bundle: str) -> str | None:
        try:
            author = self._store.manifest(bundle).lineage.get("author")
        except BundleInvalid:
            return None  # refused as such, a little later
        return author if isinstance(author, str) else None


def less(split: Split, rollbacks: Iterable[traffic_pb2.LocalRollback]) -> Split:
    """Return a split without the bundles that were left here, under whatever rollout it names them."""
    for made in rollbacks:
        order = RollbackOrder.from_payload(made.order.payload)
        left = leave(split, order.bundle) if split.specialist == order.specialist else None
        split = split if left is None else left
    return split


def _is_of(made: traffic_pb2.LocalRollback, plan: TrafficPlan) -> bool:
    """Say whether a plan still has what was left here, or was made before anybody left it."""
    if plan.created_at < made.at_unix_ms // 1000:
        return True
    order = RollbackOrder.from_payload(made.order.payload)
    split = plan.split_for(order.specialist)
    return split is not None and leave(split, order.bundle) is not None
