"""A decoder in OpenVINO that also writes text: its graph gives every token's logit beside the labels'."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gateway.worker.backend import BackendFailed
from gateway.worker.constraint import KINDS, read_constraint
from gateway.worker.openvino import OpenVinoBackend, Row
from gateway.worker.writing import Steps, Writer
from protos import decide_pb2, engine_pb2
from protos.contract.bundle import Bundle


class OpenVinoWriter(OpenVinoBackend):
    """A graph that gives ``next``, logits of the token that follows, and ``present``, what a step goes on from."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        super().__init__(bundle, threads)
        writes = self.settings.writes
        assert writes is not None
        self._positions = writes.positions
        vocabulary = self.vocabulary
        tokens = (*writes.end_tokens, *self.settings.label_tokens)
        if max(tokens, default=0) >= vocabulary or self.tokenizer.get_vocab_size() > vocabulary:
            raise BackendFailed(f"the graph's output next has {vocabulary} tokens, expected those of the tokenizer")
        grammar = read_constraint(self.settings.generate)
        self._writer = Writer(self.tokenizer, vocabulary, writes.end_tokens, grammar)

    def capabilities(self) -> engine_pb2.Capabilities:
        """Say what texts can be held to, beside what a scorer says."""
        found = super().capabilities()
        found.constraints.extend(KINDS if self._writer.constrains else ())
        return found

    def generate(self, text: str, max_tokens: int) -> Iterator[str]:
        """Write greedily, token by token, within the bundle's constraint; stopping the iterator stops the work."""
        return self._write(text, max_tokens)

    def generate_within(self, text: str, max_tokens: int, constraint: decide_pb2.Constraint) -> Iterator[str]:
        """Write within a request's own constraint, which takes the place of the bundle's; raises BackendFailed."""
        return self._write(text, max_tokens, constraint)

    def _write(self, text: str, max_tokens: int, constraint: decide_pb2.Constraint | None = None) -> Iterator[str]:
        row: Row = self.prepare(text).data
        room = min(max_tokens, self._positions - len(row.ids) - self.kept_tokens(row))
        return self._writer.write(self._steps(row), room, constraint)

    def _steps(self, row: Row) -> Steps:
        past, ids = self.past_of(row), row.ids[None]
        while True:
            found = self.step(ids, past)
            past = found["present"]
            token = yield found["next"][0]
            ids = np.array([[token]], dtype=np.int64)

    def warm(self) -> None:
        """Warm the scorer, and see that a label's logit is the same wherever the graph gives it."""
        super().warm()
        ids = np.zeros((1, 2), dtype=np.int64)
        found: dict[str, Any] = self.step(ids, self.past_of(Row(ids[0], False)))
        labels, row = found["next"][0, list(self.settings.label_tokens)], found["logits"][0]
        if not np.isfinite(found["next"]).all():
            raise BackendFailed("logits are not finite")
        difference = float(np.abs(labels - row).max())
        if not difference <= self.tolerance * max(1.0, float(np.ptp(found["next"]))):
            raise BackendFailed(f"a label's logit differs by {difference:.4g} between the graph's outputs")
