"""What is recorded may be uneven, but never in a way that estimates cannot undo."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.detectors.weighting import weighted_mean
from gateway.domain.decision import Decision
from gateway.serving.sampling import CLOSE, ExtraRates, Sampler
from protos.contract.draws import Draw, bucket

N = 8_000
RATES = ExtraRates(novelty_bp=300, margin_bp=2_000, fallback_bp=4_000, disagreement_bp=5_000)


def answer(label: str, probability: float, *, is_fallback: bool = False) -> Decision:
    probabilities, fallback = (probability, 1 - probability), int(is_fallback)
    return Decision("", 1, "", 1, 0, "", probability, label, (label, "other"), probabilities, fallback)


@given(st.integers(0, 10**9), st.integers(1, 9_000))
@settings(max_examples=12, deadline=None)
def test_estimates_from_what_is_recorded_are_those_of_all_traffic(seed: int, rate_bp: int) -> None:
    """Horvitz-Thompson: total and mean of a value that goes with what requests stand out for."""
    sampler = Sampler(RATES)
    truth, values, chances = 0.0, [], []
    variance = 0.0
    for i in range(N):
        key = f"{seed}-{i}"
        close, fell_back, disagreed = i % 7 == 0, i % 11 == 0, i % 13 == 0
        said = answer("safe", 0.5 + CLOSE / 4 if close else 0.95, is_fallback=fell_back)
        value = 1.0 + 5 * close + 3 * fell_back + 7 * disagreed
        truth += value
        reason, extra_bp = sampler.stands_out(said, 100)
        is_drawn = bucket("salt", Draw.CAPTURE, key) < rate_bp
        drawn = sampler.draw(rate_bp, is_drawn, key, reason, extra_bp, disagreed)
        shadow_bp = RATES.disagreement_bp if disagreed else 0
        chance = 1 - (1 - rate_bp / 1e4) * (1 - extra_bp / 1e4) * (1 - shadow_bp / 1e4)
        variance += value**2 * (1 - chance) / chance
        if drawn is not None:
            assert drawn[1] == pytest.approx(chance)
            values.append(value)
            chances.append(drawn[1])
    spread = 5 * math.sqrt(variance)
    total = math.fsum(v / p for v, p in zip(values, chances, strict=True))
    assert total == pytest.approx(truth, abs=spread + 1e-6)
    if spread < truth / 4:
        assert weighted_mean(values, chances) == pytest.approx(truth / N, rel=2 * spread / truth + 1e-6)


def test_each_reason_draws_by_its_own_rate_and_rate_goes_first() -> None:
    sampler = Sampler(RATES)
    drawn = Counter[str]()
    for i in range(20_000):
        found = sampler.draw(0, False, f"d-{i}", "margin", RATES.margin_bp, i % 2 == 0)
        drawn[found[0] if found else ""] += 1
    assert drawn["margin"] == pytest.approx(4_000, rel=0.1)
    assert drawn["disagreement"] == pytest.approx(0.8 * 0.5 * 10_000, rel=0.1)
    assert sampler.draw(1, True, "d-1", "margin", RATES.margin_bp, False) is not None
    assert sampler.draw(1, True, "d-1", "margin", RATES.margin_bp, False)[0] == "rate"  # type: ignore[index]


def test_a_fallback_a_close_call_and_a_rare_kind_stand_out_and_the_usual_does_not() -> None:
    sampler = Sampler(RATES)
    usual = answer("safe", 0.97)
    said = [sampler.stands_out(usual, 120) for _ in range(500)]
    assert said[0][0] == "novelty" and said[-1] == ("", 0)
    assert sampler.stands_out(answer("unsafe", 0.91), 120) == ("novelty", 300)
    assert sampler.stands_out(usual, 9_000) == ("novelty", 300)
    assert sampler.stands_out(answer("safe", 0.52), 120) == ("margin", 2_000)
    assert sampler.stands_out(answer("safe", 0.97, is_fallback=True), 120) == ("fallback", 4_000)


def test_what_it_remembers_is_bounded_and_fades() -> None:
    sampler = Sampler(RATES)
    usual = answer("safe", 0.97)
    for _ in range(200_000):
        sampler.stands_out(usual, 120)
    assert sampler._total < 1 << 17 and len(sampler._seen) == 1 << 12
