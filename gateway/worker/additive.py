"""Additive models: what a boosted or linear control learns, served with its reasons."""

from collections.abc import Sequence

import numpy as np

from gateway.worker.backend import BackendFailed, Prepared, Scores
from protos.contract.additive import Additive
from protos.contract.bundle import Bundle
from protos.contract.digest import JsonMalformed, parse_json_object
from protos.contract.features import CHARACTERS_PER_TOKEN
from protos.contract.fields import Reader

MODEL = "additive.json"


class AdditiveBackend:
    """Answers from ``additive.json``; with ``reasons``, says which fields speak for the score label."""

    def __init__(self, bundle: Bundle) -> None:
        read = Reader(bundle.manifest.engine, "manifest.engine")
        read.text("backend")
        self._most_reasons = read.integer("reasons", 0, 16, 0)
        read.done()
        if MODEL not in bundle.contents:
            raise BackendFailed(f"{MODEL} is missing from the bundle, expected an additive model")
        try:
            body = parse_json_object(bundle.contents[MODEL])
        except JsonMalformed as error:
            raise BackendFailed(f"{MODEL}: {error}") from error
        self._model = Additive.from_json(bundle.manifest.task, body, MODEL)
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
        """Add up, row by row."""
        logits = np.empty((len(batch), len(self._model.intercept)), dtype=np.float32)
        reasons = []
        for i, prepared in enumerate(batch):
            shares = self._model.shares(prepared.data)
            logits[i] = self._model.intercept + shares.sum(0)
            reasons.append(self._model.reasons(shares, self._most_reasons) if self._most_reasons else ())
        return Scores(logits, reasons=reasons)

    def warm(self) -> None:
        """See that an empty text gets an answer."""
        self.score([Prepared(1, False, "")])

    def close(self) -> None:
        """Nothing to free."""
