"""What a report says of pairs and counters, by hand and as laws."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.rollout import Phase, Rollout, Verdict
from controlplane.loop.gates import PairCount, added_cost
from controlplane.loop.observe import observe
from controlplane.loop.shadow_report import (
    QUANTILES,
    Flow,
    Pair,
    ShadowReport,
    mean_difference,
    shadow_report,
    share,
    summarise,
    total_flow,
)
from controlplane.packs.registry import load_pack
from controlplane.settings import RolloutSettings
from controlplane.store import counters
from controlplane.store.rollouts import RolloutRow
from protos import capture_pb2, decide_pb2, traffic_pb2
from tests.controlplane.loop.fixture import NAME, ZERO, World, outcome, world

TASK = load_pack(NAME).task
LIMITS = RolloutSettings((100, 1000), 5000, 0, 0.05, 0.05, 0.05, 0.05, 0.5)
NOTHING = Flow(0, 0, 0, {})
STAGE_MS = 500
differences = st.lists(st.floats(-1, 1, width=32), max_size=200)
decisions = st.sampled_from(TASK.decisions)
counted = st.lists(
    st.builds(
        PairCount,
        decisions,
        st.one_of(st.just(""), decisions),
        st.booleans(),
        st.one_of(st.none(), st.sampled_from(TASK.labels)),
        st.integers(1, 500),
    ),
    max_size=12,
)


def pair(**given: Any) -> Pair:
    nothing: dict[str, Any] = dict.fromkeys(Pair.__dataclass_fields__)
    return Pair(**{**nothing, "failure": "", "is_primary_fallback": False, **given})


@given(differences)
def test_a_mean_difference_lies_in_its_bounds_and_turns_its_sign_with_the_pairs(found: list[float]) -> None:
    estimate = mean_difference(found, 0.05)
    assert -1 <= estimate.lower <= estimate.value <= estimate.upper <= 1
    turned = mean_difference([-d for d in found], 0.05)
    assert (turned.lower, turned.upper) == pytest.approx((-estimate.upper, -estimate.lower), abs=1e-9)
    assert estimate.sample == len(found)
    assert estimate.value == pytest.approx(sum(found) / len(found) if found else 0.0, abs=1e-9)


@given(st.integers(1, 300), st.data())
def test_more_of_the_same_narrows_an_estimate(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    few, many = share(successes, n, 0.05), share(50 * successes, 50 * n, 0.05)
    assert many.upper - many.lower < few.upper - few.lower


@given(counted)
def test_every_pair_is_in_the_table_once_and_the_gates_read_the_same_pairs(pairs: list[PairCount]) -> None:
    found = summarise(TASK, LIMITS, 0, NOTHING, pairs, [])
    assert sum(found.decisions.values()) == found.pairs == sum(p.n for p in pairs)
    gates = {r.gate: r for r in found.gates}
    answered = {key: n for key, n in found.decisions.items() if key[1]}
    differ = sum(n for (primary, candidate), n in answered.items() if primary != candidate)
    assert gates["shadow_disagreement"].sample == sum(answered.values())
    assert gates["shadow_disagreement"].value * gates["shadow_disagreement"].sample == pytest.approx(differ)
    failures = gates["shadow_unanswered"].value + gates["shadow_late"].value
    assert failures == pytest.approx(1 - found.in_time.value if found.pairs else 0.0)
    assert found.known_cost.value == gates["shadow_cost"].value


def test_without_a_pair_nothing_is_claimed() -> None:
    found = summarise(TASK, LIMITS, 0, NOTHING, [], [])
    assert found.score.difference == found.engine_us.primary == ()
    assert (found.in_time.lower, found.in_time.upper, found.in_time.sample) == (0.0, 1.0, 0)
    assert (found.expected_by_primary.lower, found.expected_by_primary.upper) == (-1.0, 1.0)
    assert {g.verdict for g in found.gates} == {Verdict.NOT_YET}


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1, max_size=100))
def test_latencies_are_compared_pair_by_pair(times: list[tuple[int, int]]) -> None:
    pairs = [pair(primary_engine_us=p, candidate_engine_us=c) for p, c in times]
    found = summarise(TASK, LIMITS, 0, NOTHING, [], pairs)
    ordered = sorted(c - p for p, c in times)
    assert list(found.engine_us.difference) == sorted(found.engine_us.difference)
    assert ordered[0] <= found.engine_us.difference[0] <= found.engine_us.difference[-1] <= ordered[-1]
    assert found.engine_us.difference[QUANTILES.index(0.5)] == pytest.approx(
        (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    )
    assert found.slower.value == sum(c > p for p, c in times) / len(times)


def test_the_expected_cost_is_that_of_pairs_without_an_outcome() -> None:
    pairs = [pair(added_by_primary=0.4, added_by_candidate=-0.2, label=None)] * 3
    pairs += [pair(added_by_primary=-1.0, added_by_candidate=-1.0, label="safe"), pair(label=None)]
    found = summarise(TASK, LIMITS, 0, NOTHING, [], pairs)
    assert (found.expected_by_primary.value, found.expected_by_primary.sample) == (pytest.approx(0.4), 3)
    assert (found.expected_by_candidate.value, found.expected_by_candidate.sample) == (pytest.approx(-0.2), 3)


@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), decisions)
def test_no_decision_costs_less_by_probabilities_than_the_one_chosen_by_them(weights: list[float], other: str) -> None:
    probabilities = [w / sum(weights) for w in weights]
    chosen = TASK.decisions[TASK.decide(probabilities)]
    added = added_cost(TASK, probabilities, chosen, other)
    assert added is not None and added >= -1e-12
    assert added_cost(TASK, probabilities, other, chosen) == pytest.approx(-added)


def test_probabilities_that_do_not_fit_the_task_say_nothing_of_cost() -> None:
    assert added_cost(TASK, [1.0], "allow", "block") is None
    assert added_cost(TASK, [0.2, 0.3, 0.5], "allow", "elsewhere") is None


def shadowed(found: World, number: int, **given: Any) -> capture_pb2.CaptureRecord:
    said: dict[str, Any] = {
        "primary_decision": "block",
        "candidate_decision": "allow",
        "primary_score": 0.75,
        "candidate_score": 0.25,
        "primary_engine_us": 3000,
        "candidate_engine_us": 2000,
        "primary_probabilities": [0.25, 0.0, 0.75],
        "candidate_probabilities": [0.75, 0.0, 0.25],
        "candidate_in_time": True,
        "at_unix_ms": STAGE_MS + 1,
        **given,
    }
    return capture_pb2.CaptureRecord(
        shadow_pair=capture_pb2.ShadowPair(decision_id=f"d-{number}", specialist=NAME, salt="r-1", **said)
    )


def read(found: World, phase: Phase = Phase.SHADOW) -> ShadowReport:
    state = Rollout("r-1", NAME, phase, False, ZERO, ZERO, 0, (100,), 5000, Verdict.PASS)
    row = RolloutRow(state, "e", "s", "trainer", "ops", started_ms=0, stage_ms=STAGE_MS)
    with found.deployment.store.reading() as unit:
        return shadow_report(unit, found.deployment, row)


def test_captured_pairs_become_a_report(tmp_path: Path) -> None:
    found = world(tmp_path)
    found.capture(
        [
            shadowed(found, 1),
            shadowed(found, 2),
            outcome(2, "unsafe"),
            shadowed(found, 3, candidate_failure=decide_pb2.FALLBACK_REASON_ENGINE_ERROR, candidate_in_time=False),
            shadowed(found, 4, primary_fallback=True, primary_score=1.0, primary_probabilities=[]),
            shadowed(found, 5, at_unix_ms=STAGE_MS - 1),
        ]
    )
    observe(found.deployment)
    report = read(found)
    assert report.decisions == {("block", "allow"): 3, ("block", ""): 1}
    assert (report.failures, report.primary_fallbacks) == ({"engine_error": 1}, 1)
    assert (report.in_time.value, report.in_time.sample) == (0.75, 4)
    assert (report.score_difference.value, report.score_difference.sample) == (pytest.approx(-0.5), 2)
    assert report.engine_us.difference == (-1000.0,) * len(QUANTILES)
    # Unsafe text allowed costs 1.0 and blocked 0; safe text blocked costs 0.4 and allowed 0.
    assert (report.known_cost.value, report.known_cost.sample) == (1.0, 1)
    assert (report.expected_by_primary.value, report.expected_by_primary.sample) == (
        pytest.approx(0.75 * 1.0 - 0.25 * 0.4),
        1,
    )
    assert report.expected_by_candidate.value == pytest.approx(0.25 * 1.0 - 0.75 * 0.4)
    assert read(found, Phase.REJECTED).pairs == 5


def test_drops_of_every_gateway_and_start_add_up_and_a_newer_count_replaces_an_older(tmp_path: Path) -> None:
    found = world(tmp_path)

    def counted_by(gateway: str, run: str, offered: int, paired: int, salt: str = "r-1", **drops: int) -> None:
        shadow = traffic_pb2.ShadowCounters(
            specialist=NAME, salt=salt, candidate_digest=ZERO, offered=offered, sent=offered, paired=paired, drops=drops
        )
        report = traffic_pb2.GatewayReport(gateway_id=gateway, run_id=run, shadows=[shadow])
        with found.deployment.store.writing(found.clock()) as unit:
            counters.keep(unit, report)

    counted_by("a", "1", 10, 9, shadow_late=1)
    counted_by("a", "1", 20, 15, shadow_late=2, shadow_queue_full=1)
    counted_by("a", "2", 5, 5)
    counted_by("b", "1", 7, 4, shadow_late=3)
    counted_by("c", "1", 99, 99, salt="r-0")
    flow = read(found).flow
    assert flow == Flow(32, 32, 24, {"shadow_late": 5, "shadow_queue_full": 1})
    assert flow.on_their_way == 2


def test_no_report_yet_is_an_empty_flow() -> None:
    assert total_flow([]) == NOTHING
