"""One evaluation: candidate, primary and control on the same cases, and the suite's verdict."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from controlplane.evals.bootstrap import resample_weights
from controlplane.evals.engine import WORKER
from controlplane.evals.engines import Engines
from controlplane.evals.evaluation import Evaluation, GateResult
from controlplane.evals.gateway_trial import GatewayTrial, Trial
from controlplane.evals.inputs import input_of
from controlplane.evals.judge import (
    Changed,
    Lost,
    callers,
    fair,
    judge,
    regressions,
    regressions_gate,
    robust,
    shown,
    unrefused,
    within_contract,
)
from controlplane.evals.measured import Measured, control_answers, engine_answers, inside, slices
from controlplane.evals.metrics import Floats
from controlplane.evals.suite import LIVE, Callers, Suite
from controlplane.packs.example import Example
from protos import decide_pb2
from protos.contract.servers import RemoteSettings
from protos.contract.task import TaskSpec

MOST_IDS = 1000
Parts = Mapping[str, Sequence[Example]]
ByModel = Mapping[str, Mapping[str, Measured]]  # part, model


class Caller(Protocol):
    """Asks a gateway for decisions, each within a budget."""

    def ask(self, inputs: Sequence[decide_pb2.Input], budget_us: int) -> Trial:
        """Return what callers saw."""
        ...


def evaluate(
    task: TaskSpec,
    suite: Suite,
    parts: Parts,
    training: Sequence[Example],
    candidate: str,
    primary: str | None,
    bundles: Path,
    *,
    cause: str = "operator",
    is_partial: bool = False,
    engines: Sequence[RemoteSettings] = (),
    command: Sequence[str] = WORKER,
    gateway: Callable[..., AbstractContextManager[Caller]] = GatewayTrial,
) -> Evaluation:
    """Compare a candidate with the primary and the control on every part, and apply the suite.

    Args:
        cause: Why the candidate was made, one of ``suite.CAUSES``.
        engines: Servers elsewhere that are declared, for bundles that belong there.
        is_partial: What the suite asks of parts that are not given is left open, instead of refusing them.
    Raises:
        EngineFailed: A worker, server or gateway could not be started, reached, loaded or asked.
        ValueError: A part the suite names is missing or empty.
    """
    _check_parts(suite, parts, is_partial)
    digests = {"candidate": candidate} | ({"primary": primary} if primary is not None else {})
    with Engines(bundles, engines, command) as worker:
        measured = engine_answers(task, worker, digests, parts, {g.part for g in suite.gates if g.metric == "p99_ms"})
        changed = _changed(task, suite, worker, candidate, parts, measured)
        elsewhere = worker.elsewhere_of(digests)
    for part, answers in control_answers(task, parts, training).items():
        measured[part]["control"] = answers
    draws = {part: resample_weights(len(examples), suite.rounds, suite.seed) for part, examples in parts.items()}
    gates = [*_judged(suite, parts, measured, draws, cause), *changed, *_of_candidate(suite, parts, measured)]
    if suite.gateway is not None and suite.gateway.part in parts:
        with gateway(bundles, candidate, engines=engines) as trial:
            gates += _of_callers(task, suite.gateway, parts[suite.gateway.part], trial)
    lost = None if primary is None else _lost(task, suite, parts, measured)
    gates.append(regressions_gate(suite, None if lost is None else lost.share))
    return Evaluation(
        suite_digest=suite.digest,
        candidate=candidate,
        primary=primary,
        sizes={part: len(examples) for part, examples in parts.items()},
        values={
            part: {model: one.values(shown(suite, one), draws[part], suite.confidence) for model, one in models.items()}
            for part, models in measured.items()
        },
        gates=tuple(gates),
        accepted=all(gate.passed is not False for gate in gates),
        regressions_share=None if lost is None else lost.share,
        worst_regressions=() if lost is None else lost.worst,
        slices={part: slices(examples, measured[part]["candidate"]) for part, examples in parts.items()},
        regressions=None if lost is None else len(lost.ids),
        regression_ids=() if lost is None else lost.ids[:MOST_IDS],
        reliability={part: {name: one.reliability() for name, one in m.items()} for part, m in measured.items()},
        elsewhere=elsewhere,
        refused=_refused(measured),
    )


def _check_parts(suite: Suite, parts: Parts, is_partial: bool) -> None:
    """Refuse an evaluation that lacks cases; live ones come with traffic, so what is asked of them may wait."""
    missing = sorted(
        part for part in (set() if is_partial else suite.parts - {LIVE}) | set(parts) if not parts.get(part)
    )
    if missing:
        raise ValueError(f"parts.{missing[0]} is missing or empty, expected examples")


def _refused(measured: ByModel) -> dict[str, dict[str, int]]:
    """Count what was refused, by part and model, where something was."""
    counts = {part: {name: one.refused for name, one in m.items() if one.refused} for part, m in measured.items()}
    return {part: models for part, models in counts.items() if models}


def _of_callers(task: TaskSpec, asked: Callers, examples: Sequence[Example], trial: Caller) -> list[GateResult]:
    inputs = [input_of(task, example.text) for example in examples[: asked.cases]]
    return callers(asked, trial.ask(inputs, asked.budget_us or task.deadline_us))


def _changed(
    task: TaskSpec, suite: Suite, worker: Engines, candidate: str, parts: Parts, measured: ByModel
) -> list[GateResult]:
    asked = {(one.part, one.change) for one in suite.robustness if one.part in parts}
    changed = {(part, name): Changed.asked(name, task, worker, candidate, parts[part]) for part, name in sorted(asked)}
    found = [
        robust(one, task, changed[one.part, one.change], measured[one.part]["candidate"])
        for one in suite.robustness
        if one.part in parts
    ]
    if suite.contract is not None and suite.contract.part in parts:
        found.append(within_contract(suite.contract, task, worker, candidate, parts[suite.contract.part]))
    return found


def _of_candidate(suite: Suite, parts: Parts, measured: ByModel) -> list[GateResult]:
    """Judge what the candidate refused, and whom it serves worse."""
    ours = {part: models["candidate"] for part, models in measured.items()}
    return [unrefused(part, one, len(parts[part])) for part, one in ours.items() if one.refused] + [
        fair(one, ours[one.part], parts[one.part]) for one in suite.fairness if one.part in parts
    ]


def _lost(task: TaskSpec, suite: Suite, parts: Parts, measured: ByModel) -> Lost:
    models = measured[suite.regressions_part]
    return regressions(task, parts[suite.regressions_part], models["primary"], models["candidate"])


def _judged(suite: Suite, parts: Parts, measured: ByModel, draws: Mapping[str, Floats], cause: str) -> list[GateResult]:
    found = []
    for gate in suite.gates:
        if gate.part in parts:
            index = inside(parts[gate.part], gate.slice)
            found.append(judge(gate, suite, measured[gate.part], draws[gate.part], cause, index))
        elif gate.part == LIVE:
            found.append(GateResult(f"{gate.text} (too few live cases yet)", None, None, None, None, gate.bound))
    return found
