"""What scikit-learn fitted, as a bundle holds it: the model's file and the calibration beside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from controlplane.packs.example import Example
from controlplane.training.calibration import fit_head
from controlplane.training.dataset import dataset_digest
from protos.contract.additive import Additive
from protos.contract.bundle import BundleStore
from protos.contract.digest import canonical_json
from protos.contract.head import HEAD, Head
from protos.contract.statements import statements_file
from protos.contract.task import TaskSpec
from protos.contract.trees import Trees

REASONS = 4  # Regulation B: a statement of four principal reasons is usually enough (12 CFR 1002.9, comment 9(b)(2)-1)


class Model(Protocol):
    """The arithmetic that answers."""

    def logits(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Score rendered texts, shape [texts, labels]."""
        ...


MODELS: Mapping[str, Callable[[TaskSpec, Any, str], Model]] = {
    "additive": Additive.from_json,
    "trees": Trees.from_json,
}


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model and its calibration.

    Attributes:
        backend: What serves it, one of ``MODELS``; the file that holds ``body`` is named after it.
    """

    backend: str
    body: Mapping[str, Any]
    head: Head = Head()

    def model(self, task: TaskSpec) -> Model:
        """Read the body as the worker does."""
        return MODELS[self.backend](task, self.body, "model")

    def calibrated(self, task: TaskSpec, dev: Sequence[Example]) -> Self:
        """Fit the head on cases that the model has not seen; without any, leave it as it is."""
        if not dev:
            return self
        logits = self.model(task).logits([example.text for example in dev])
        labels = np.array([task.labels.index(example.label) for example in dev])
        return replace(self, head=fit_head(logits, labels, task, dataset_digest(dev)))

    def export(
        self,
        task: TaskSpec,
        store: BundleStore,
        lineage: Mapping[str, Any],
        statements: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """Write a bundle, with what notices say of its fields, and return its digest."""
        manifest = store.add(
            task=task,
            engine={"backend": self.backend, "reasons": REASONS},
            contents={
                f"{self.backend}.json": canonical_json(self.body),
                HEAD: self.head.to_bytes(),
                **statements_file(statements),
            },
            base={},
            lineage=lineage,
        )
        return manifest.digest
