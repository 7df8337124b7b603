"""How a pack's bundles do on its own scenarios: ``python -m controlplane.packs.measure PACK``.

Additive bundles only, because those take seconds; the figures of the packs' READMEs. For every change of
``robustness.CHANGES``: the share of decisions that change with it.
"""

import sys
from collections import defaultdict
from dataclasses import replace

import numpy as np

from controlplane.evals import registry
from controlplane.evals.inputs import columns_of, input_of
from controlplane.evals.registry import Answers
from controlplane.evals.robustness import CHANGES
from controlplane.packs.registry import load_metrics, load_pack
from controlplane.training.additive import fit
from protos.contract.additive import Additive
from protos.contract.task import render

SEEDS = (1, 2, 3, 4)
CASES = 1000


def main() -> None:
    """Print every metric that the suite names, on steady cases and on the wave, before and after retraining."""
    load_metrics()
    pack = load_pack(sys.argv[1])
    task = pack.task
    names = list(dict.fromkeys(gate.metric for gate in pack.suite.gates if gate.metric != registry.LATENCY))
    sliced = dict.fromkeys((gate.metric, gate.slice) for gate in pack.suite.gates if gate.slice is not None)
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for seed in SEEDS:
        dev, steady = pack.held_out(200, 100 + seed), pack.training_set(1500, seed)
        for model, training in (("first", steady), ("retrained", steady + pack.shifted(350, seed))):
            fitted = fit(pack.task, training, dev, seed=seed, analysers=pack.analysers)
            additive = Additive.from_json(pack.task, fitted.body, "model")
            for part, cases in (("steady", pack.held_out(CASES, seed)), ("wave", pack.held_out_shifted(CASES, seed))):
                told = fitted.head.probabilities(additive.logits([case.text for case in cases]))
                labels = np.array([task.labels.index(case.label) for case in cases])
                answers = Answers.of(task, labels, told, fitted.head.decisions(task, told))
                answers = replace(answers, columns=columns_of(task, [case.text for case in cases]))
                for name in names:
                    found[model, part, name].append(float(registry.find(name).value(answers)[0]))
                for name, where in sliced:
                    inside = np.array([i for i, case in enumerate(cases) if case.slice == where], dtype=np.int64)
                    value = registry.find(name).value(answers.take(inside))[0] if len(inside) else np.nan
                    found[model, part, f"{name} of {where}"].append(float(value))
                for change, changed in CHANGES.items():
                    texts = [render(task, changed(task, input_of(task, case.text))) for case in cases]
                    decisions = fitted.head.decisions(task, fitted.head.probabilities(additive.logits(texts)))
                    found[model, part, f"changed by {change}"].append(float((decisions != answers.decisions).mean()))
    for (model, part, name), values in found.items():
        if np.isnan(values).all():  # a part without such cases
            continue
        sys.stdout.write(
            f"{model:10} {part:7} {name:32} {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})\n"
        )


if __name__ == "__main__":
    main()
