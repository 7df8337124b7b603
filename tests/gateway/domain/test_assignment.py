"""Who answers whom, for ever."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.assignment import Arm, assign
from protos.contract.plan import Split

OLD, NEW, BEFORE = ("sha256:" + c * 64 for c in "abc")
SPLIT = Split("brand", OLD, NEW, BEFORE, 500, 2_000, 1_000, 300, "rollout-1")
WEIGHTS = st.integers(0, 10_000)
UNITS = st.text(min_size=1, max_size=30)


@given(UNITS, WEIGHTS, WEIGHTS)
def test_raising_the_canary_never_sends_a_caller_back(unit: str, one: int, other: int) -> None:
    low, high = sorted((one, other))
    if assign(replace(SPLIT, canary_bp=low), unit).arm is Arm.CANARY:
        assert assign(replace(SPLIT, canary_bp=high), unit).arm is Arm.CANARY


@given(UNITS, WEIGHTS)
def test_a_held_back_unit_meets_no_canary_at_any_weight(unit: str, canary_bp: int) -> None:
    if assign(SPLIT, unit).arm is Arm.HOLDBACK:
        found = assign(replace(SPLIT, canary_bp=canary_bp), unit)
        assert (found.arm, found.bundle, found.shadow) == (Arm.HOLDBACK, OLD, None)


@given(UNITS, WEIGHTS, WEIGHTS, WEIGHTS)
def test_the_candidate_never_watches_what_it_answers(unit: str, canary: int, shadow: int, capture: int) -> None:
    found = assign(replace(SPLIT, canary_bp=canary, shadow_bp=shadow, capture_bp=capture), unit)
    assert found.shadow != found.bundle
    assert (found.bundle == NEW) == (found.arm is Arm.CANARY)


def test_the_four_draws_are_independent_and_keep_their_weights() -> None:
    split = replace(SPLIT, canary_bp=2_000, shadow_bp=3_000, capture_bp=4_000, holdback_bp=1_000)
    seen: Counter[object] = Counter()
    for i in range(20_000):
        found = assign(split, f"unit-{i}")
        seen[found.arm] += 1
        seen["captured", found.arm] += found.is_captured
        seen["shadowed", found.arm] += found.shadow is not None
    # 5 standard deviations of a binomial share at these counts is below 0.03.
    assert abs(seen[Arm.HOLDBACK] / 20_000 - 0.1) < 0.02
    assert abs(seen[Arm.CANARY] / 20_000 - 0.9 * 0.2) < 0.02
    assert abs(seen[Arm.BASELINE] / 20_000 - 0.9 * 0.2) < 0.02
    for arm in set(Arm) - {Arm.OVERRIDE}:
        assert abs(seen["captured", arm] / seen[arm] - 0.4) < 0.06
    for arm in (Arm.PRIMARY, Arm.BASELINE):
        assert abs(seen["shadowed", arm] / seen[arm] - 0.3) < 0.06


def test_a_new_rollout_draws_new_units() -> None:
    units = [f"unit-{i}" for i in range(2_000)]
    first = {u for u in units if assign(replace(SPLIT, canary_bp=5_000), u).arm is Arm.CANARY}
    second = {u for u in units if assign(replace(SPLIT, canary_bp=5_000, salt="rollout-2"), u).arm is Arm.CANARY}
    assert 0.3 < len(first & second) / len(first) < 0.7


def test_the_draw_is_the_same_on_every_host_and_after_every_release() -> None:
    assert [assign(SPLIT, unit).bucket for unit in ("", "a", "caller-42")] == [4293, 7067, 1230]
