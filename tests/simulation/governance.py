"""A deployment's governance, simulated from a seed: operators, a control plane, a thief with its key, crashes, clocks.

The gateway's plan is the real one, with real signatures, a real ledger and real files. Everything else does what the
seed says. After every event the invariants are checked against a model that shares no code with the rules.

    python -m tests.simulation.governance --seeds 5000
    python -m tests.simulation.governance --seed 1234        # replays one, and says what happened
"""

import argparse
import logging
import random
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from controlplane.domain.rollout import (
    Approvals,
    Evidence,
    GateReading,
    Hold,
    Phase,
    Promote,
    RollBack,
    Rollout,
    Shadow,
    Shift,
    Verdict,
    check_move,
    decide,
    phase_after,
)
from gateway.errors import GatewayError
from protos import traffic_pb2
from protos.contract.attestation import Approval
from protos.contract.plan import Split
from tests.gateway.serving.plans import STAGES, Site

EVENTS = 24
PEOPLE = ("ann", "bob", "eve")
START = 1_000_000


class InvariantBroken(AssertionError):
    """What must never happen did; the message names the seed that shows it."""


@dataclass
class Model:
    """What an observer knows of the gateway, by its own means."""

    generation: int = 0
    head: int = 0
    weights: dict[str, int] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)  # statements whose weight was taken back
    ever_primary: set[str] = field(default_factory=set)


class Simulation:
    """One run. ``log`` says what happened, in order."""

    def __init__(self, seed: int, root: Path) -> None:
        self.seed = seed
        self.draw = random.Random(seed)
        self.site = Site(root)
        self.model = Model()
        self.log: list[str] = []
        self.offers: list[traffic_pb2.PlanOffer] = []
        self.rollouts = 0
        self.verdict = Verdict.NOT_YET
        self.rollout: Rollout | None = None
        self.bundles = [self.site.old, self.site.new, self.site.bundle(3, author="ann")]

    def run(self) -> "Simulation":
        """Play every event; raises InvariantBroken."""
        self.event(self.bootstrap)
        events = (
            *(self.forward,) * 4,
            *(self.approve,) * 3,
            *(self.tick, self.evidence, self.thief) * 2,
            *(self.start_rollout, self.replay, self.crash, self.clock, self.roll_back_locally, self.old_backup),
        )
        for _ in range(EVENTS):
            self.event(self.draw.choice(events))
        return self

    def event(self, work: Any) -> None:
        before = dict(self.model.weights)
        try:
            self.log.append(f"{work.__name__}: {work()}")
            self.check(before)
        except AssertionError as broken:
            story = "\n".join(self.log)
            raise InvariantBroken(f"seed {self.seed}: {broken}\n{story}") from broken

    # What happens

    def bootstrap(self) -> str:
        first = self.site.split()
        self.site.approve(first, self.site.old, "ann", "bob")
        return self.offer(first)

    def start_rollout(self) -> str:
        if self.rollout is not None and self.rollout.phase in (Phase.EVALUATED, Phase.SHADOW, Phase.CANARY):
            return "one is open"
        self.rollouts += 1
        primary = self.site.in_force().primary
        candidate = self.draw.choice([b for b in self.bundles if b != primary])
        self.rollout = Rollout(
            f"r-{self.rollouts}", "brand", Phase.EVALUATED, False, primary, candidate, 0, STAGES, 5_000, Verdict.PASS
        )
        self.verdict = Verdict.NOT_YET
        return self.rollout.id

    def tick(self) -> str:
        """Decide as the control plane does, and offer what was decided."""
        if self.rollout is None:
            return "no rollout"
        state = self.rollout
        decision = decide(state, self.read(), self.given(), _moment(self.site.now))
        if isinstance(decision, Hold):
            return "hold"
        target = phase_after(state, decision)
        check_move(state, target)
        now = self.site.in_force()
        if now.candidate != state.candidate and not isinstance(decision, Shadow):
            self.rollout = replace(state, phase=Phase.ROLLED_BACK)
            return "the gateway has left it: followed"
        match decision:
            case Shadow(shadow_bp):
                wanted = replace(now, candidate=state.candidate, canary_bp=0, shadow_bp=shadow_bp, salt=state.id)
            case Shift(canary_bp, _, _):
                wanted = replace(now, canary_bp=canary_bp)
            case Promote():
                wanted = Split("brand", state.candidate, None, now.primary, 0, 0, 100, 0, state.id)
            case RollBack():
                wanted = replace(now, candidate=None, canary_bp=0, shadow_bp=0)
        said = self.offer(wanted)
        if said == "applied":
            stage = decision.stage if isinstance(decision, Shift) else state.stage
            self.rollout = replace(state, phase=target, stage=stage)
            self.verdict = Verdict.NOT_YET
        return f"{type(decision).__name__} {said}"

    def forward(self) -> str:
        """Everybody does as they should: the stage passes, two people sign its next step, the control plane ticks."""
        if self.rollout is None or self.rollout.phase not in (Phase.EVALUATED, Phase.SHADOW, Phase.CANARY):
            self.start_rollout()
        state, now = self.rollout, self.site.in_force()
        assert state is not None
        self.verdict = Verdict.PASS
        if now.candidate == state.candidate and now.salt == state.id:
            target, ceiling = now, STAGES[-1]
            if state.phase is Phase.CANARY and state.stage + 1 == len(STAGES):
                target, ceiling = Split("brand", state.candidate, None, now.primary, 0, 0, 100, 0, state.id), 10_000
            who = self.draw.choice((("ann", "bob"), ("bob", "eve")))
            self.site.approve(target, state.candidate, *who, ceiling_bp=ceiling, rollout=state.id)
        return self.tick()

    def evidence(self) -> str:
        self.verdict = self.draw.choice((Verdict.PASS, Verdict.PASS, Verdict.PASS, Verdict.FAIL, Verdict.ERROR))
        return self.verdict.value

    def approve(self) -> str:
        """Somebody signs, mostly as they should."""
        now, bundle = self.site.in_force(), self.draw.choice(self.bundles)
        state = self.rollout
        target = now
        if state is not None and self.draw.random() < 0.8:
            bundle = state.candidate
            if state.phase is Phase.CANARY and self.draw.random() < 0.6:
                target = Split("brand", bundle, None, now.primary, 0, 0, 100, 0, state.id)
        odd: dict[str, Any] = self.draw.choice(
            ({}, {}, {}, {"audience": "staging"}, {"expires": int(self.site.now)}, {"author": "nobody"})
        )
        who = self.draw.choice((("ann", "bob"), ("bob", "eve"), ("ann",), ("bob",), ("eve",), ("oli",)))
        ceiling = self.draw.choice((10_000, 2_000, 500))
        self.site.approve(target, bundle, *who, ceiling_bp=ceiling, **odd)
        return f"{who} {odd or ''} up to {ceiling}"

    def thief(self) -> str:
        """Somebody with the plan key offers whatever they like, resting on every approval there ever was."""
        pick = self.draw.choice
        candidate = pick([*self.bundles, None])
        wanted = Split(
            "brand",
            pick(self.bundles),
            candidate,
            pick([*self.bundles, None]),
            pick((0, 500, 2_000, 9_999)) if candidate else 0,
            pick((0, 5_000)) if candidate else 0,
            100,
            0,
            pick((self.site.in_force().salt, "r-1", f"r-{self.rollouts}", "stolen")),
        )
        return self.offer(wanted)

    def replay(self) -> str:
        return self.site.said(self.draw.choice(self.offers))

    def crash(self) -> str:
        before = self.site.in_force(), self.site.plan.generation, self.site.plan.witness.head
        self.site.restarted()
        after = self.site.in_force(), self.site.plan.generation, self.site.plan.witness.head
        assert before == after, f"a restart changed {before} to {after}"
        return "restarted with everything else away"

    def clock(self) -> str:
        self.site.now = max(START, self.site.now + self.draw.choice((-7_200, -60, 60, 1_800, 7_200, 90_000)))
        return f"{self.site.now - START:+.0f} s"

    def roll_back_locally(self) -> str:
        now = self.site.in_force()
        bundle = self.draw.choice([now.candidate or now.primary, now.primary])
        try:
            self.site.plan.roll_back(self.site.order(bundle, self.draw.choice(("oli", "ann", "won", "nobody"))))
        except GatewayError as refused:
            return f"refused: {refused}"
        assert self.site.in_force().primary != bundle or bundle == now.candidate, "it still serves"
        return "left"

    def old_backup(self) -> str:
        """The control plane comes back with a ledger that forgot its last entries, and then mends it."""
        kept = list(self.site.ledger.bodies), dict(self.site.ledger.seqs), self.site.ledger.shown
        cut = self.draw.randrange(1, len(kept[0]) + 1)
        self.site.ledger.bodies = kept[0][:cut]
        self.site.ledger.seqs = {digest: seq for digest, seq in kept[1].items() if seq < cut}
        said = self.site.publish(self.site.in_force())
        if cut < len(kept[0]):
            assert said.startswith("ledger_"), f"a cut ledger was {said}"
            self.site.ledger.bodies, self.site.ledger.seqs, self.site.ledger.shown = kept
        return f"{cut} of {len(kept[0])} entries: {said}"

    # What the control plane knows

    def offer(self, *splits: Split) -> str:
        made = self.site.offer_of(*splits)
        self.offers.append(made)
        return self.site.said(made)

    def read(self) -> Evidence:
        reading = GateReading("gate", self.verdict, 0.0, 0.0, 0.0, 0.0, 1, 0, "as drawn")
        return Evidence((reading,))

    def given(self) -> Approvals:
        state = self.rollout
        assert state is not None
        mine = [a for a in self.statements() if a.bundle == state.candidate and a.rollout == state.id]
        people = {a.person: a for a in mine if self.site.now < a.expires and a.person != "oli"}
        if len(people) < 2:
            return Approvals()
        ceiling = sorted((a.ceiling_bp for a in people.values()), reverse=True)[1]
        return Approvals(ceiling, tuple(a.digest for a in people.values()))

    def statements(self) -> list[Approval]:
        return [Approval.from_statement(e.payload) for e in self.site.approvals]

    # What must hold

    def check(self, before: dict[str, int]) -> None:
        split, plan = self.site.in_force(), self.site.plan
        weights = {split.primary: 10_000}
        if split.candidate and split.canary_bp:
            weights[split.candidate] = max(split.canary_bp, weights.get(split.candidate, 0))
        assert plan.generation >= self.model.generation, "the generation fell"
        head = plan.witness.head
        assert head is not None and head.size >= self.model.head, "the ledger's head went back"
        self.model.generation, self.model.head = plan.generation, head.size
        for bundle, weight in weights.items():
            self.check_approved(bundle, weight, before)
        for bundle in before:
            if bundle not in weights and bundle != split.previous:
                self.model.dead |= {a.digest for a in self.statements() if a.bundle == bundle}
        if self.rollout is not None and self.rollout.phase is Phase.ROLLED_BACK:
            assert split.primary in self.model.ever_primary | {self.rollout.candidate}, "rolled back to a stranger"
        self.model.ever_primary.add(split.primary)
        self.model.weights = weights

    def check_approved(self, bundle: str, weight: int, before: dict[str, int]) -> None:
        author = {self.bundles[2]: "ann"}.get(bundle, "trainer")
        good = [
            a
            for a in self.statements()
            if a.bundle == bundle
            and a.ceiling_bp >= weight
            and a.audience == "test"
            and a.person in PEOPLE
            and a.person not in (author, a.author)
        ]
        assert len({a.person for a in good}) >= 2, f"{bundle[:14]} answers {weight} bp, approved by {len(good)}"
        if weight > before.get(bundle, 0) and bundle not in self.model.ever_primary and before:
            fresh = [a for a in good if self.site.now < a.expires and a.digest not in self.model.dead]
            assert len({a.person for a in fresh}) >= 2, f"{bundle[:14]} rose to {weight} bp on what had lapsed"


def _moment(now: float) -> Any:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(now, UTC)


def play(seed: int) -> Simulation:
    """Run one seed in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return Simulation(seed, Path(folder)).run()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("python -m tests.simulation.governance")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if chosen.seed is not None:
        print("\n".join(play(chosen.seed).log))
        return
    applied = rises = 0
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        log = play(seed).log
        applied += sum(line.endswith("applied") for line in log)
        rises += sum("Shift applied" in line or "Promote applied" in line for line in log)
    print(f"{chosen.seeds} seeds, {chosen.seeds * EVENTS} events: {applied} plans applied, {rises} of them forward")


if __name__ == "__main__":
    main()
