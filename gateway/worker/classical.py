"""Classical models, which read fields: additive ones, and boosted trees. Both say which fields were their reasons."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from gateway.worker.backend import BackendFailed, Prepared, Scores
from protos.contract.additive import Additive
from protos.contract.bundle import Bundle
from protos.contract.digest import JsonMalformed, parse_json_object
from protos.contract.features import CHARACTERS_PER_TOKEN
from protos.contract.fields import Reader
from protos.contract.task import TaskSpec
from protos.contract.trees import Trees

Model = TypeVar("Model", Additive, Trees)


class ClassicalBackend(ABC, Generic[Model]):
    """What both have in common: one file of JSON, and texts that are taken apart on the device's thread."""

    def __init__(self, bundle: Bundle, file: str, from_json: Callable[[TaskSpec, dict[str, Any], str], Model]) -> None:
        read = Reader(bundle.manifest.engine, "manifest.engine")
        kind = read.text("backend")
        self._most_reasons = read.integer("reasons", 0, 16, 0)
        read.done()
        if file not in bundle.contents:
            raise BackendFailed(f"{file} is missing from the bundle, expected for backend {kind!r}")
        try:
            body = parse_json_object(bundle.contents[file])
        except JsonMalformed as error:
            raise BackendFailed(f"{file}: {error}") from error
        self._model: Model = from_json(bundle.manifest.task, body, file)
        self._resident_bytes = len(bundle.contents[file])

    @property
    def resident_bytes(self) -> int:
        """Size of the model's file."""
        return self._resident_bytes

    def prepare(self, text: str) -> Prepared:
        """Only count: the work is the device thread's."""
        tokens, most = len(text) // CHARACTERS_PER_TOKEN + 1, self._model.most
        return Prepared(min(tokens, most), tokens > most, text)

    @abstractmethod
    def score(self, batch: Sequence[Prepared]) -> Scores:
        """Score every row."""

    def warm(self) -> None:
        """See that an empty text gets an answer."""
        self.score([Prepared(1, False, "")])

    def close(self) -> None:
        """Nothing to free."""


class AdditiveBackend(ClassicalBackend[Additive]):
    """Answers from ``additive.json``; with ``reasons``, says which fields speak for the score label."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, "additive.json", Additive.from_json)

    def score(self, batch: Sequence[Prepared]) -> Scores:
        """Add up, row by row."""
        logits = np.empty((len(batch), len(self._model.intercept)), dtype=np.float32)
        reasons = []
        for i, prepared in enumerate(batch):
            shares = self._model.shares(prepared.data)
            logits[i] = self._model.intercept + shares.sum(0)
            reasons.append(self._model.reasons(shares, self._most_reasons) if self._most_reasons else ())
        return Scores(logits, reasons=reasons)


class TreesBackend(ClassicalBackend[Trees]):
    """Answers from ``trees.json``; with ``reasons``, says which fields the score would fall without."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, "trees.json", Trees.from_json)

    def score(self, batch: Sequence[Prepared]) -> Scores:
        """Walk the trees for every row, and for every row once more a field."""
        rows = self._model.rows([prepared.data for prepared in batch])
        if not self._most_reasons:
            return Scores(self._model.scores(rows).astype(np.float32))
        each = 1 + len(self._model.fields)
        asked = np.concatenate([np.concatenate([row[None, :], self._model.without(row)]) for row in rows])
        logits = self._model.scores(asked).reshape(len(rows), each, -1)
        reasons = [self._model.reasons(one[0], one[1:], self._most_reasons) for one in logits]
        return Scores(logits[:, 0].astype(np.float32), reasons=reasons)
