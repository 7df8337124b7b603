"""What a rollout's gates are worth, simulated: ``python -m perf.gates [--runs N]`` writes ``gates.json`` and a picture.

Every run looks after every observation, which is the hardest case: a control plane looks once a tick. Harmless
candidates sit exactly at a limit, harmful ones beyond it. Beside each gate stands a z-test of fixed sample size, looked
at as often: what is lost by looking. Vectorised twins of ``controlplane/detectors/sequential.py`` compute the same
evidence (``tests/perf/test_gates.py`` compares them).
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, xlog1py, xlogy
from scipy.stats import norm

from controlplane.detectors.sequential import INWARD, PRIOR, log_capital
from controlplane.loop.gates import CANARY_GATES, SHADOW_GATES, fail_alpha
from controlplane.settings import RolloutSettings
from perf.results import FOLDER, commit, machine

Array = npt.NDArray[np.float64]
ALPHA = 0.05
BATCH = 100  # runs at a time, for memory
LEAST_Z = 30  # observations before anybody would trust a normal approximation
SETTINGS = RolloutSettings((100, 500, 2000, 5000), 2000, 0, ALPHA, 0.02, 0.02, 0.05, 0.5)
STAGE = 1500  # observations of one stage in the simulated rollout


def mixture(total: Array, n: Array) -> Array:
    """Return the log of the beta mixture, as ``sequential._log_mixture``."""
    a, b = PRIOR + total, PRIOR + n - total
    return np.asarray(gammaln(a) + gammaln(b) - gammaln(a + b) - math.log(math.pi))


def share_evidence(total: Array, n: Array, mean: float) -> Array:
    """Return the log evidence of ``sequential.Share`` against a mean."""
    return mixture(total, n) - xlogy(total, mean) - xlog1py(n - total, -mean)


def difference_evidence(a: Array, b: Array, n: Array, mean: float) -> Array:
    """Return the log evidence of ``sequential.Difference`` against a difference, arms of equal size."""
    top = np.logaddexp(mixture(a, n) + mixture(b, n), mixture(a + b, 2 * n)) - math.log(2)
    low, high = np.full(a.shape, max(0.0, -mean)), np.full(a.shape, min(1.0, 1.0 - mean))
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(INWARD // 2):
            p = (low + high) / 2
            slope = a / (p + mean) - (n - a) / (1 - p - mean) + b / p - (n - b) / (1 - p)
            low, high = np.where(slope > 0, p, low), np.where(slope > 0, high, p)
    p = (low + high) / 2
    q = np.clip(p + mean, 0.0, 1.0)
    return top - xlogy(a, q) - xlog1py(n - a, -q) - xlogy(b, p) - xlog1py(n - b, -p)


@dataclass(frozen=True)
class Gate:
    """One kind of gate and the candidates it is tried on.

    Attributes:
        limit: What the mean is held against; ``effects`` are added to it.
        draw: (generator, runs, length, mean) → cumulated observations, shape [parts, runs, length].
        evidence: (cumulated, numbers, limit) → the log evidence that the mean is above it.
        z: (cumulated, numbers, limit) → the z statistic of the same data.
    """

    name: str
    words: str
    limit: float
    effects: tuple[float, ...]
    harmless: float  # a good candidate's mean: how soon it passes
    length: int
    draw: Callable[[np.random.Generator, int, int, float], Array]
    evidence: Callable[[Array, Array, float], Array]
    value: Callable[[Array, Array], Array]
    z: Callable[[Array, Array, float], Array]


PAIR_VALUES = np.array([-1.0, -0.2, 0.0, 0.2, 1.0])  # shares of the largest cost, as brand safety's matrix has them
BETTER = np.array([0.02, 0.06, 0.0, 0.0, 0.0])  # what the candidate gets right that the primary did not
BASELINE = 0.05  # share of requests that the primary fails


def _draw_share(rng: np.random.Generator, runs: int, length: int, mean: float) -> Array:
    return np.cumsum(rng.random((1, runs, length)) < mean, axis=-1, dtype=np.float64)


def _draw_arms(rng: np.random.Generator, runs: int, length: int, mean: float) -> Array:
    means = np.array([BASELINE + mean, BASELINE])[:, None, None]
    return np.cumsum(rng.random((2, runs, length)) < means, axis=-1, dtype=np.float64)


def _draw_pairs(rng: np.random.Generator, runs: int, length: int, mean: float) -> Array:
    gained = float(BETTER @ PAIR_VALUES)
    worse = mean - gained  # added by mistakes: small ones three times as often as large ones
    chances = BETTER + np.array([0.0, 0.0, 0.0, 3 * worse / 1.6, worse / 1.6])
    chances[2] = 1 - chances.sum()
    drawn = rng.choice(len(PAIR_VALUES), (runs, length), p=chances)
    return np.stack([np.cumsum(drawn == i, axis=-1, dtype=np.float64) for i in range(len(PAIR_VALUES))])


def _pairs_evidence(found: Array, n: Array, limit: float, *, is_above: bool = True) -> Array:
    return log_capital(np.moveaxis(found, 0, -1), PAIR_VALUES, limit, is_above=is_above)


def _pair_mean(found: Array, n: Array) -> Array:
    return np.tensordot(PAIR_VALUES, found, 1) / n


def _share_z(found: Array, n: Array, limit: float) -> Array:
    return (found[0] / n - limit) / np.sqrt(limit * (1 - limit) / n)


def _arms_z(found: Array, n: Array, limit: float) -> Array:
    a, b = found / n
    spread = np.sqrt(np.maximum(a * (1 - a) + b * (1 - b), 1e-9) / n)
    return (a - b - limit) / spread


def _pairs_z(found: Array, n: Array, limit: float) -> Array:
    mean = _pair_mean(found, n)
    square = np.tensordot(PAIR_VALUES**2, found, 1) / n
    return (mean - limit) / np.sqrt(np.maximum(square - mean**2, 1e-9) / n)


GATES = (
    Gate(
        "share",
        "shadow_unanswered: a share against 2 %",
        0.02,
        (0.01, 0.02, 0.04, 0.08),
        0.002,
        4000,
        _draw_share,
        lambda found, n, limit: share_evidence(found[0], n, limit),
        lambda found, n: found[0] / n,
        _share_z,
    ),
    Gate(
        "pairs",
        "shadow_cost: paired cost added, against 0.02",
        0.02,
        (0.01, 0.02, 0.04, 0.08),
        0.0,
        4000,
        _draw_pairs,
        _pairs_evidence,
        _pair_mean,
        _pairs_z,
    ),
    Gate(
        "arms",
        "canary_unanswered: two arms, against 2 % more",
        0.02,
        (0.02, 0.04, 0.08, 0.16),
        0.0,
        4000,
        _draw_arms,
        lambda found, n, limit: difference_evidence(found[0], found[1], n, limit),
        lambda found, n: (found[0] - found[1]) / n,
        _arms_z,
    ),
)


def batches(gate: Gate, rng: np.random.Generator, runs: int, length: int, mean: float) -> Iterator[tuple[Array, Array]]:
    """Draw runs in batches: cumulated observations and their numbers."""
    n = np.arange(1, length + 1, dtype=np.float64)
    for start in range(0, runs, BATCH):
        yield gate.draw(rng, min(BATCH, runs - start), length, mean), n


def first_look(is_out: npt.NDArray[np.bool_]) -> Array:
    """Return the first look that says so for each run, infinity where none does."""
    return np.where(is_out.any(axis=-1), is_out.argmax(axis=-1) + 1.0, np.inf)


def failing(gate: Gate, found: Array, n: Array, alpha: float) -> npt.NDArray[np.bool_]:
    """Say for every look whether the gate fails there."""
    return (gate.value(found, n) > gate.limit) & (gate.evidence(found, n, gate.limit) >= -math.log(alpha))


def passing(gate: Gate, found: Array, n: Array, alpha: float) -> npt.NDArray[np.bool_]:
    """Say for every look whether the gate passes there."""
    if gate.name == "pairs":
        evidence = _pairs_evidence(found, n, gate.limit, is_above=False)
    else:
        evidence = gate.evidence(found, n, gate.limit)
    return (gate.value(found, n) <= gate.limit) & (evidence >= -math.log(alpha))


def try_gate(gate: Gate, runs: int, seed: int) -> dict[str, Any]:
    """Measure one gate: false alarms at the limit, detection beyond it, and how soon a good candidate passes."""
    rng = np.random.default_rng(seed)
    to_fail = fail_alpha(SETTINGS)
    z_line = norm.ppf(1 - ALPHA)
    ours, shared, passed, peeked, once = [], [], [], [], []
    for found, n in batches(gate, rng, runs, gate.length, gate.limit):
        ours.append(first_look(failing(gate, found, n, ALPHA)))
        shared.append(first_look(failing(gate, found, n, to_fail)))
        passed.append(first_look(passing(gate, found, n, ALPHA)))
        z = gate.z(found, n, gate.limit)
        peeked.append(first_look((z > z_line) & (n >= LEAST_Z)))
        once.append(z[:, -1] > z_line)
    at_limit = {
        "fails_ever": _rate(ours),
        "fails_ever_at_shared_level": _rate(shared),
        "passes_ever": _rate(passed),
        "z_test_peeked_fails_ever": _rate(peeked),
        "z_test_once_fails": float(np.concatenate(once).mean()),
        "z_test_peeked_by_look": _curve(peeked, gate.length),
        "fails_by_look": _curve(ours, gate.length),
    }
    beyond = []
    for effect in gate.effects:
        looks = [
            first_look(failing(gate, found, n, to_fail))
            for found, n in batches(gate, rng, runs // 4, gate.length, gate.limit + effect)
        ]
        first = np.concatenate(looks)
        beyond.append(
            {
                "effect": effect,
                "detected": _rate(looks),
                "median_sample": _finite(np.median(first)),
                "p90_sample": _finite(np.quantile(first, 0.9, method="higher")),
                "detected_by_look": _curve(looks, gate.length),
            }
        )
    looks = [
        first_look(passing(gate, found, n, ALPHA))
        for found, n in batches(gate, rng, runs // 4, gate.length, gate.harmless)
    ]
    good = {"mean": gate.harmless, "passed": _rate(looks), "median_sample": _finite(np.median(np.concatenate(looks)))}
    return {"gate": gate.words, "limit": gate.limit, "at_limit": at_limit, "beyond": beyond, "harmless": good}


def try_rollouts(runs: int, seed: int) -> dict[str, Any]:
    """Play whole rollouts whose candidate sits at the limit of every gate in every stage: the worst harmless one.

    Gates are read after each observation; a stage that does not fail goes on to the next.
    """
    rng = np.random.default_rng(seed)
    alpha = fail_alpha(SETTINGS)
    share, pairs, arms = GATES
    shadow = (share, share, share, pairs, pairs)
    canary = (arms, arms, arms, arms)
    assert (len(shadow), len(canary)) == (len(SHADOW_GATES), len(CANARY_GATES))
    rolled_back = np.zeros(runs, dtype=bool)
    n = np.arange(1, STAGE + 1, dtype=np.float64)
    for start in range(0, runs, BATCH):
        size = min(BATCH, runs - start)
        for gates in (shadow, *[(*shadow, *canary)] * len(SETTINGS.stages_bp)):
            for gate in gates:
                found = gate.draw(rng, size, STAGE, gate.limit)
                rolled_back[start : start + size] |= failing(gate, found, n, alpha).any(axis=-1)
    return {
        "runs": runs,
        "stages": 1 + len(SETTINGS.stages_bp),
        "looks_a_stage": STAGE,
        "rolled_back": float(rolled_back.mean()),
    }


def _rate(looks: list[Array]) -> float:
    return float(np.isfinite(np.concatenate(looks)).mean())


def _curve(looks: list[Array], length: int) -> list[list[float]]:
    first = np.concatenate(looks)
    at = np.unique(np.geomspace(10, length, 60).astype(int))
    return [[int(look), round(float((first <= look).mean()), 4)] for look in at]


def _finite(value: float) -> int | None:
    return int(value) if math.isfinite(value) else None


def measure(runs: int, rollouts: int) -> dict[str, Any]:
    """Return everything that is recorded."""
    began = time.process_time()
    return {
        "alpha": ALPHA,
        "fail_alpha": fail_alpha(SETTINGS),
        "runs": runs,
        "gates": {gate.name: try_gate(gate, runs, seed) for seed, gate in enumerate(GATES)},
        "rollout": try_rollouts(rollouts, len(GATES)),
        "machine": machine(),
        "commit": commit(),
        "cpu_s": round(time.process_time() - began, 1),
    }


def draw(result: dict[str, Any]) -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "interlock", "font.size": 9, "axes.spines.top": False})
    matplotlib.rcParams.update({"axes.spines.right": False, "svg.fonttype": "none"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(12, 6.4), layout="constrained", sharex="col")
    colours = ("#9bbccb", "#5b98b0", "#1f6f8b", "#0d3f52")
    for column, found in enumerate(result["gates"].values()):
        top, bottom = axes[0][column], axes[1][column]
        for name, colour, words in (
            ("z_test_peeked_by_look", "#d1603d", "z-test, looked at each time"),
            ("fails_by_look", "#1f6f8b", "this gate, looked at each time"),
        ):
            top.plot(*zip(*found["at_limit"][name], strict=True), color=colour, label=words)
        top.axhline(result["alpha"], color="#444444", lw=0.8, ls=":")
        top.set_ylim(0, 0.6)
        top.set_title(found["gate"], fontsize=9)
        for one, colour in zip(found["beyond"], colours, strict=True):
            words = f"{one['effect']:g} beyond, median {one['median_sample'] or '–'}"
            bottom.plot(*zip(*one["detected_by_look"], strict=True), color=colour, label=words)
        bottom.set_ylim(0, 1.02)
        bottom.set_xscale("log")
        bottom.set_xlabel("observations (each arm's)" if column == 2 else "observations")
        bottom.legend(fontsize=8, loc="upper left", framealpha=0.85, edgecolor="none")
    axes[0][0].legend(frameon=False, fontsize=8, loc="upper left")
    axes[0][0].set_ylabel("false alarms at the limit so far")
    axes[1][0].set_ylabel("harm found so far")
    figure.savefig(FOLDER / "gates.svg", metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("python -m perf.gates", description=__doc__)
    parser.add_argument("--runs", type=int, default=4000, help="runs at a limit; a quarter of them beyond it")
    parser.add_argument("--rollouts", type=int, default=2000, help="whole rollouts")
    parser.add_argument("--draw", action="store_true", help="only draw the last result")
    chosen = parser.parse_args()
    path = FOLDER / "gates.json"
    if not chosen.draw:
        path.write_text(json.dumps(measure(chosen.runs, chosen.rollouts), indent=1) + "\n")
    result = json.loads(path.read_text())
    draw(result)
    for found in result["gates"].values():
        at_limit = found["at_limit"]
        print(
            f"{found['gate']}: at the limit fails {at_limit['fails_ever']:.4f}, passes {at_limit['passes_ever']:.4f}; "
            f"z-test peeked {at_limit['z_test_peeked_fails_ever']:.3f}; "
            + ", ".join(
                f"{one['effect']:g}: {one['detected']:.2f} at {one['median_sample']}" for one in found["beyond"]
            )
            + f"; harmless passes {found['harmless']['passed']:.2f} at {found['harmless']['median_sample']}"
        )
    print(f"rollouts at every limit: {result['rollout']['rolled_back']:.4f} rolled back; {result['cpu_s']} s")


if __name__ == "__main__":
    main()
