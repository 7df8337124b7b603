"""Traffic never moves without an approval, never towards harm, and only along legal moves."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.rollout import (
    LEGAL_MOVES,
    OPEN,
    Accept,
    ApprovalMissing,
    Approvals,
    Evidence,
    GateReading,
    Hold,
    IllegalTransition,
    Phase,
    Promote,
    Reject,
    RollBack,
    Rollout,
    Shadow,
    Shift,
    Verdict,
    check_move,
    decide,
    phase_after,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)
OLD, NEW, SIGNED = ("sha256:" + c * 64 for c in "abc")
STAGES = (100, 500, 2500)
BASE = Rollout("r1", "brand_safety", Phase.EVALUATED, False, OLD, NEW, 0, STAGES, 1000, Verdict.PASS)


def said(*verdicts: Verdict) -> Evidence:
    return Evidence(tuple(GateReading(f"g{i}", v, 0, 0, 1, 1, 9, 0, f"{v.value}!") for i, v in enumerate(verdicts)))


def granted(ceiling: int) -> Approvals:
    return Approvals(ceiling, (SIGNED,)) if ceiling else Approvals()


PASSED, FAILED = said(Verdict.PASS), said(Verdict.PASS, Verdict.FAIL)
EVIDENCE = st.lists(st.sampled_from(Verdict), max_size=3).map(lambda v: said(*v))
APPROVALS = st.sampled_from([0, 99, 100, 500, 2499, 2500, 9999, 10_000]).map(granted)


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    phase = draw(st.sampled_from(Phase))
    primary = None if phase is Phase.EVALUATED and draw(st.booleans()) else OLD
    stage = draw(st.integers(0, len(STAGES) - 1))
    held, evaluation = draw(st.booleans()), draw(st.sampled_from([Verdict.PASS, Verdict.FAIL, Verdict.NOT_YET]))
    return replace(BASE, phase=phase, primary=primary, stage=stage, held=held, evaluation=evaluation)


@pytest.mark.parametrize(
    "verdicts, combined",
    [
        ((), Verdict.NOT_YET),
        ((Verdict.PASS, Verdict.PASS), Verdict.PASS),
        ((Verdict.PASS, Verdict.NOT_YET), Verdict.NOT_YET),
        ((Verdict.NOT_YET, Verdict.ERROR), Verdict.ERROR),
        ((Verdict.ERROR, Verdict.NOT_YET, Verdict.FAIL, Verdict.PASS), Verdict.FAIL),
    ],
    ids=str,
)
def test_the_worst_gate_speaks_for_all(verdicts: tuple[Verdict, ...], combined: Verdict) -> None:
    assert said(*verdicts).verdict is combined
    assert said(*verdicts).summary


AT_LAST = replace(BASE, phase=Phase.CANARY, stage=2)
SHADOWING = replace(BASE, phase=Phase.SHADOW)
FIRST = replace(BASE, primary=None)


@pytest.mark.parametrize(
    "rollout, evidence, ceiling, decision",
    [
        pytest.param(BASE, said(), 0, Shadow(1000), id="shadow-needs-no-approval"),
        pytest.param(FIRST, said(), 10_000, Promote((SIGNED,)), id="bootstrap"),
        pytest.param(SHADOWING, PASSED, 100, Shift(100, 0, (SIGNED,)), id="first-stage"),
        pytest.param(replace(AT_LAST, stage=0), PASSED, 500, Shift(500, 1, (SIGNED,)), id="next-stage"),
        pytest.param(AT_LAST, PASSED, 10_000, Promote((SIGNED,)), id="promote"),
        pytest.param(replace(BASE, phase=Phase.CANDIDATE), said(), 0, Accept(), id="evaluated"),
        pytest.param(
            replace(BASE, phase=Phase.CANDIDATE, evaluation=Verdict.FAIL),
            said(),
            10_000,
            Reject("the candidate's evaluation rejects it"),
            id="rejected-by-its-evaluation",
        ),
        pytest.param(SHADOWING, FAILED, 10_000, RollBack("fail!"), id="harm-in-shadow"),
        pytest.param(AT_LAST, FAILED, 10_000, RollBack("fail!"), id="harm-in-canary"),
        pytest.param(replace(AT_LAST, held=True), FAILED, 0, RollBack("fail!"), id="harm-while-held"),
        pytest.param(replace(AT_LAST, evaluation=Verdict.FAIL), FAILED, 0, RollBack("fail!"), id="harm-unaccepted"),
    ],
)
def test_what_happens_next(rollout: Rollout, evidence: Evidence, ceiling: int, decision: object) -> None:
    assert decide(rollout, evidence, granted(ceiling), NOW) == decision


@pytest.mark.parametrize(
    "rollout, evidence, ceiling, reason",
    [
        pytest.param(
            replace(BASE, phase=Phase.CANDIDATE, evaluation=Verdict.NOT_YET),
            PASSED,
            10_000,
            "evaluation",
            id="unjudged",
        ),
        pytest.param(replace(BASE, evaluation=Verdict.FAIL), PASSED, 10_000, "evaluation", id="not-accepted"),
        pytest.param(replace(AT_LAST, held=True), PASSED, 10_000, "held", id="held"),
        pytest.param(FIRST, PASSED, 9_999, "waiting for an approval of the primary", id="bootstrap"),
        pytest.param(FIRST, FAILED, 10_000, "evidence is fail", id="failed-bootstrap"),
        pytest.param(SHADOWING, PASSED, 99, "waiting for an approval of the canary", id="first-stage"),
        pytest.param(AT_LAST, PASSED, 9_999, "waiting for an approval of the primary", id="last-stage"),
        pytest.param(SHADOWING, said(Verdict.NOT_YET), 10_000, "evidence is not yet", id="cannot-tell"),
        pytest.param(AT_LAST, said(Verdict.ERROR), 10_000, "evidence is error", id="could-not-measure"),
        pytest.param(AT_LAST, said(), 10_000, "no gate", id="nothing-measured"),
        pytest.param(replace(BASE, phase=Phase.REJECTED), PASSED, 10_000, "rejected", id="over"),
    ],
)
def test_what_a_rollout_waits_for(rollout: Rollout, evidence: Evidence, ceiling: int, reason: str) -> None:
    decision = decide(rollout, evidence, granted(ceiling), NOW)
    assert isinstance(decision, Hold) and reason in decision.reason


def test_a_lapsed_approval_covers_nothing() -> None:
    approvals = Approvals(10_000, (SIGNED,), expires=NOW)
    assert isinstance(decide(AT_LAST, PASSED, approvals, NOW - timedelta(seconds=1)), Promote)
    assert isinstance(decide(AT_LAST, PASSED, approvals, NOW), Hold)


@given(rollouts(), EVIDENCE, APPROVALS)
def test_no_move_without_an_approval_that_covers_it(rollout: Rollout, evidence: Evidence, approvals: Approvals) -> None:
    decision = decide(rollout, evidence, approvals, NOW)
    if isinstance(decision, Shift):
        assert approvals.covers(decision.canary_bp) and decision.approvals == approvals.statements
        assert decision.canary_bp > rollout.canary_bp and decision.canary_bp == STAGES[decision.stage]
    if isinstance(decision, Promote):
        assert approvals.covers(10_000) and decision.approvals == approvals.statements
    if isinstance(decision, Shift | Promote):
        assert rollout.evaluation is Verdict.PASS and not rollout.held
        assert evidence.verdict is Verdict.PASS or rollout.primary is None


@given(rollouts(), EVIDENCE, APPROVALS)
def test_an_approval_does_not_excuse_a_failure(rollout: Rollout, evidence: Evidence, approvals: Approvals) -> None:
    decision = decide(rollout, evidence, approvals, NOW)
    if evidence.verdict is Verdict.FAIL:
        assert not isinstance(decision, Shift | Promote)
        assert isinstance(decision, RollBack) == (rollout.phase in (Phase.SHADOW, Phase.CANARY))
    else:
        assert not isinstance(decision, RollBack)


@given(rollouts(), EVIDENCE, APPROVALS)
def test_every_decision_is_a_legal_move(rollout: Rollout, evidence: Evidence, approvals: Approvals) -> None:
    decision = decide(rollout, evidence, approvals, NOW)
    after = phase_after(rollout, decision)
    stays = after is rollout.phase and (isinstance(decision, Hold) or rollout.phase in OPEN)
    assert stays or after in LEGAL_MOVES[rollout.phase]


@given(st.lists(st.tuples(EVIDENCE, APPROVALS, st.booleans()), max_size=25))
def test_the_weight_only_rises_and_only_while_evidence_passes(
    steps: list[tuple[Evidence, Approvals, bool]],
) -> None:
    rollout = BASE
    for evidence, approvals, held in steps:
        rollout = replace(rollout, held=held)
        decision = decide(rollout, evidence, approvals, NOW)
        before, weight = rollout.phase, rollout.canary_bp
        stage = decision.stage if isinstance(decision, Shift) else rollout.stage
        rollout = replace(rollout, phase=phase_after(rollout, decision), stage=stage)
        if rollout.canary_bp > weight:
            assert evidence.verdict is Verdict.PASS and approvals.covers(rollout.canary_bp)
        elif rollout.canary_bp < weight:
            assert rollout.phase in (Phase.ROLLED_BACK, Phase.PRIMARY)
        if before not in OPEN:
            assert rollout.phase is before


def test_a_move_cannot_be_built_without_an_approval() -> None:
    for build in (lambda: Shift(100, 0, ()), lambda: Promote(()), lambda: Approvals(100)):
        with pytest.raises(ApprovalMissing):
            build()
    with pytest.raises(ValueError, match="sha256"):
        Promote(("yes",))


@pytest.mark.parametrize("source", Phase)
@pytest.mark.parametrize("target", Phase)
def test_illegal_moves_are_refused(source: Phase, target: Phase) -> None:
    rollout = replace(BASE, phase=source)
    if target in LEGAL_MOVES[source] or (target is source and source in OPEN):
        check_move(rollout, target)
    else:
        with pytest.raises(IllegalTransition):
            check_move(rollout, target)


@pytest.mark.parametrize(
    "change",
    [
        {"stages_bp": ()},
        {"stages_bp": (500, 100)},
        {"stages_bp": (0, 100)},
        {"stages_bp": (100, 10_001)},
        {"stage": 3},
        {"shadow_bp": -1},
        {"candidate": "latest"},
        {"phase": Phase.CANARY, "primary": None},
    ],
    ids=str,
)
def test_an_impossible_rollout_cannot_be_built(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        replace(BASE, **change)  # type: ignore[arg-type]
