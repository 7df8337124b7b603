"""Boosted trees: the classical control where fields act together, served with reasons found by deletion."""

from collections.abc import Sequence

import numpy as np

from gateway.worker.backend import BackendFailed, Prepared, Scores
from protos.contract.bundle import Bundle
from protos.contract.digest import JsonMalformed, parse_json_object
from protos.contract.features import CHARACTERS_PER_TOKEN
from protos.contract.fields import Reader
from protos.contract.trees import Trees

MODEL = "trees.json"


class TreesBackend:
    """Answers from ``trees.json``; with ``reasons``, says which fields the score would fall without."""

    def __init__(self, bundle: Bundle) -> None:
        read = Reader(bundle.manifest.engine, "manifest.engine")
        read.text("backend")
        self._most_reasons = read.integer("reasons", 0, 16, 0)
        read.done()
        if MODEL not in bundle.contents:
            raise BackendFailed(f"{MODEL} is missing from the bundle, expected boosted trees")
        try:
            body = parse_json_object(bundle.contents[MODEL])
        except JsonMalformed as error:
            raise BackendFailed(f"{MODEL}: {error}") from error
        self._model = Trees.from_json(bundle.manifest.task, body, MODEL)
        self._resident_bytes = len(bundle.contents[MODEL])

    @property
    def resident_bytes(self) -> int:
        """Size of the model's file."""
        return self._resident_bytes

    def prepare(self, text: str) -> Prepared:
        """Only count: the work is the device thread's."""
        tokens, most = len(text) // CHARACTERS_PER_TOKEN + 1, self._model.most
        return Prepared(min(tokens, most), tokens > most, text)

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

    def warm(self) -> None:
        """See that an empty text gets an answer."""
        self.score([Prepared(1, False, "")])

    def close(self) -> None:
        """Nothing to free."""
