"""How a pack's bundles do on its own scenarios: ``python -m controlplane.packs.measure PACK``.

Additive bundles only, because those take seconds; the figures of the packs' READMEs.
"""

import sys
from collections import defaultdict

import numpy as np

from controlplane.evals import registry
from controlplane.evals.registry import Answers
from controlplane.packs.registry import load_metrics, load_pack
from controlplane.training.additive import fit
from protos.contract.additive import Additive

SEEDS = (1, 2, 3, 4)
CASES = 1000


def main() -> None:
    """Print every metric that the suite names, on steady cases and on the wave, before and after retraining."""
    load_metrics()
    pack = load_pack(sys.argv[1])
    names = list(dict.fromkeys(gate.metric for gate in pack.suite.gates if gate.metric != registry.LATENCY))
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for seed in SEEDS:
        dev, steady = pack.held_out(200, 100 + seed), pack.training_set(1500, seed)
        for model, training in (("first", steady), ("retrained", steady + pack.shifted(350, seed))):
            fitted = fit(pack.task, training, dev, seed=seed, analysers=pack.analysers)
            additive = Additive.from_json(pack.task, fitted.body, "model")
            for part, cases in (("steady", pack.held_out(CASES, seed)), ("wave", pack.held_out_shifted(CASES, seed))):
                told = fitted.head.probabilities(additive.logits([case.text for case in cases]))
                labels = np.array([pack.task.labels.index(case.label) for case in cases])
                answers = Answers.of(pack.task, labels, told, fitted.head.decisions(pack.task, told))
                for name in names:
                    found[model, part, name].append(float(registry.find(name).value(answers)[0]))
    for (model, part, name), values in found.items():
        sys.stdout.write(
            f"{model:10} {part:7} {name:24} {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})\n"
        )


if __name__ == "__main__":
    main()
