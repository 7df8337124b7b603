"""The simulation of gates computes what the gates compute, and they alarm no more often than they say."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from controlplane.detectors.sequential import Difference, Paired, Share
from perf.gates import GATES, PAIR_VALUES, Gate, try_gate, try_rollouts


def sample(gate: Gate, found: np.ndarray, run: int, look: int) -> Share | Difference | Paired:
    seen = found[:, run, look].tolist()
    if gate.name == "share":
        return Share(seen[0], look + 1)
    if gate.name == "arms":
        return Difference(seen[0], look + 1, seen[1], look + 1)
    return Paired.of(dict(zip(PAIR_VALUES.tolist(), seen, strict=True)))


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.name)
def test_the_simulation_computes_the_gates_evidence(gate: Gate) -> None:
    found = gate.draw(np.random.default_rng(1), 5, 400, gate.limit + gate.effects[1])
    n = np.arange(1, 401, dtype=float)
    evidence, value = gate.evidence(found, n, gate.limit), gate.value(found, n)
    for run in range(5):
        for look in (0, 9, 150, 399):
            one = sample(gate, found, run, look)
            assert one.value == pytest.approx(value[run, look])
            if one.value > gate.limit:
                assert one.log_evidence(gate.limit) == pytest.approx(evidence[run, look], abs=1e-3)


@pytest.mark.parametrize("gate", GATES[:2], ids=lambda gate: gate.name)
def test_a_candidate_at_its_limit_fails_no_more_often_than_stated_and_harm_is_found(gate: Gate) -> None:
    runs = 200
    found = try_gate(replace(gate, length=700, effects=gate.effects[-1:]), runs, seed=5)
    most = binom.ppf(0.9999, runs, 0.05) / runs  # a true rate of the stated level stays below it
    assert found["at_limit"]["fails_ever"] <= most and found["at_limit"]["passes_ever"] <= most
    assert found["at_limit"]["z_test_peeked_fails_ever"] > most
    assert found["beyond"][0]["detected"] == 1.0 and found["harmless"]["passed"] > 0.05


def test_a_whole_rollout_at_every_limit_is_rolled_back_no_more_often_than_stated() -> None:
    assert try_rollouts(20, seed=2)["rolled_back"] <= 0.05
