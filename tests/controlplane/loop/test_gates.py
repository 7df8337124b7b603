import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.rollout import GateReading, Verdict
from controlplane.loop.gates import ArmCost, ArmCount, PairCount, canary_gates, cost_share, shadow_gates
from controlplane.packs.registry import load_pack
from controlplane.settings import RolloutSettings

TASK = load_pack("brand-safety").task
LIMITS = RolloutSettings((100, 1000), 5000, 0, 0.05, 0.05, 0.05, 0.5)


def verdicts(*pairs: PairCount) -> dict[str, Verdict]:
    return {r.gate: r.verdict for r in shadow_gates(TASK, pairs, LIMITS)}


def test_nothing_seen_is_not_yet_and_never_a_pass() -> None:
    assert set(verdicts().values()) == {Verdict.NOT_YET}
    nothing = canary_gates(ArmCount(0, 0, 0), ArmCount(0, 0, 0), ArmCost(0, 0), ArmCost(0, 0), LIMITS)
    assert {r.verdict for r in nothing} == {Verdict.NOT_YET}
    assert all(r.sample_missing > 0 for r in nothing)


def test_agreement_on_time_passes() -> None:
    assert set(verdicts(PairCount("allow", "allow", True, "safe", 400)).values()) == {Verdict.PASS}


@pytest.mark.parametrize(
    ("pair", "gate"),
    [
        (PairCount("block", "allow", True, "unsafe", 200), "shadow_cost"),
        (PairCount("block", "allow", True, None, 200), "shadow_disagreement"),
        (PairCount("block", "", False, None, 200), "shadow_failures"),
        (PairCount("block", "block", False, None, 200), "shadow_failures"),
    ],
    ids=["costly", "different", "silent", "late"],
)
def test_each_harm_fails_its_own_gate(pair: PairCount, gate: str) -> None:
    assert verdicts(pair)[gate] is Verdict.FAIL


def test_a_better_candidate_may_disagree_within_the_limit() -> None:
    found = verdicts(PairCount("allow", "block", True, "unsafe", 100), PairCount("allow", "allow", True, "safe", 300))
    assert set(found.values()) == {Verdict.PASS}


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300))
def test_a_candidate_that_only_improves_never_fails_on_cost(better: int, same: int, unknown: int) -> None:
    found = verdicts(
        PairCount("allow", "block", True, "unsafe", better),
        PairCount("block", "block", True, "unsafe", same),
        PairCount("allow", "allow", True, None, unknown),
    )
    assert found["shadow_cost"] is not Verdict.FAIL


def test_a_canary_worse_than_its_baseline_fails_and_an_equal_one_does_not() -> None:
    equal = canary_gates(ArmCount(500, 20, 20), ArmCount(500, 20, 20), ArmCost(50, 500), ArmCost(50, 500), LIMITS)
    assert Verdict.FAIL not in {r.verdict for r in equal}
    worse = canary_gates(ArmCount(500, 200, 0), ArmCount(500, 5, 0), ArmCost(250, 500), ArmCost(50, 500), LIMITS)
    assert {r.gate: r.verdict for r in worse}["canary_unanswered"] is Verdict.FAIL
    assert {r.gate: r.verdict for r in worse}["canary_cost"] is Verdict.FAIL


@given(st.integers(0, 60), st.integers(1, 60), st.booleans())
def test_the_sample_said_to_be_missing_brings_the_verdict(differ: int, same: int, is_cost: bool) -> None:
    label = "unsafe" if is_cost else None
    gate = "shadow_cost" if is_cost else "shadow_disagreement"

    def read(times: int) -> GateReading:
        pairs = (
            PairCount("block", "allow", True, label, times * differ),
            PairCount("block", "block", True, label, times * same),
        )
        return next(r for r in shadow_gates(TASK, pairs, LIMITS) if r.gate == gate)

    now = read(1)
    if now.verdict is not Verdict.NOT_YET or not now.sample_missing:
        return
    expected = Verdict.PASS if now.value <= now.limit else Verdict.FAIL
    assert f"about {now.sample_missing} more to {expected.value}" in now.summary
    needed = now.sample + now.sample_missing
    assert read(-(-needed // now.sample)).verdict is expected
    assert read((needed - 1) // now.sample).verdict is Verdict.NOT_YET


def test_a_cost_is_a_share_of_the_largest() -> None:
    assert cost_share(TASK, "unsafe", "allow") == 1.0
    assert cost_share(TASK, "safe", "allow") == 0.0
