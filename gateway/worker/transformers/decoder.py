"""A decoder that scores labels as next tokens in one forward pass, and writes text within a constraint."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gateway.worker.backend import BackendFailed, Prepared, Scores
from gateway.worker.constraint import KINDS, read_constraint
from gateway.worker.transformers.jobs import Job, score_rows
from gateway.worker.transformers.loading import end_tokens, last_position
from gateway.worker.transformers.resident import Row
from gateway.worker.transformers.tenant import Tenant
from gateway.worker.writing import Writer
from protos import decide_pb2, engine_pb2
from protos.contract.bundle import Bundle
from protos.contract.prompt import Prompt


class DecoderBackend:
    """A bundle's adapter, prompt, labels and constraint on a resident decoder."""

    def __init__(self, bundle: Bundle, tenant: Tenant) -> None:
        self._tenant = tenant
        self._resident = tenant.resident
        settings, task = tenant.settings, bundle.manifest.task
        self._positions = last_position(self._resident.model)
        verbalizers = {str(label): str(text) for label, text in settings.verbalizers.items()}
        self._prompt = Prompt(tenant.tokenizer, task, settings.overlong, self._positions)
        self._labels = self._prompt.label_tokens(verbalizers)
        vocabulary = int(self._resident.config.vocab_size)
        if max(self._labels) >= vocabulary:
            raise BackendFailed(f"a label's token is {max(self._labels)}, expected below {vocabulary}")
        self._prefix = self._prompt.prefix if settings.has_prefix_cache else ()
        self._resident.keep_prefix(tenant.adapter, self._prefix)
        ends = end_tokens(self._resident.config)
        self._writer = Writer(tenant.tokenizer, vocabulary, ends, read_constraint(settings.generate))

    @property
    def group(self) -> str:
        """The base, for bundles that share it."""
        return self._tenant.group

    @property
    def resident_bytes(self) -> int:
        """This bundle's adapter and its share of the base."""
        return self._tenant.bytes

    def prepare(self, text: str) -> Prepared:
        """Tokenise; counted are the tokens that have to be computed, which a kept prefix's have not.

        Raises:
            InputInvalid: The prompt is over the limit and the bundle wants such refused.
        """
        ids, truncated = self._prompt.encode(text)
        kept = len(self._prefix)
        is_kept = kept and tuple(ids[:kept]) == self._prefix and len(ids) > kept
        row = Row(ids[kept:], self._prefix, self._tenant.adapter) if is_kept else Row(ids, (), self._tenant.adapter)
        return Prepared(len(row.ids), truncated, Job(self, row))

    def score(self, batch: Sequence[Prepared]) -> Scores:
        """Run one forward pass over rows of this bundle and of others on the same base."""
        logits = score_rows(self._resident, [prepared.data for prepared in batch])
        if self._tenant.settings.head == "rows":
            return Scores(logits)
        return Scores(logits, [min(1.0, float(np.exp(row.astype(np.float64)).sum())) for row in logits])

    def logits(self, states: Tensor) -> NDArray[np.float32]:
        """Score the labels, shapes [rows, hidden] to [rows, labels]; log-probabilities with the full head."""
        full = self._tenant.settings.head == "full"
        score = self._resident.label_logprobs if full else self._resident.label_logits
        with torch.inference_mode():
            return score(states, self._labels).cpu().numpy()

    def capabilities(self) -> engine_pb2.Capabilities:
        """Say what gateways may ask."""
        settings = self._tenant.settings
        return engine_pb2.Capabilities(
            label_logprobs="exact",
            lora="static" if settings.merged else "per_request",
            prefix_cache=bool(self._prefix),
            constraints=list(KINDS) if self._writer.constrains else [],
            vocabulary_mass=settings.head == "full",
        )

    def generate(self, text: str, max_tokens: int) -> Iterator[str]:
        """Write greedily, token by token, within the bundle's constraint; stopping the iterator stops the work."""
        return self._write(text, max_tokens)

    def generate_within(self, text: str, max_tokens: int, constraint: decide_pb2.Constraint) -> Iterator[str]:
        """Write within a request's own constraint, which takes the place of the bundle's; raises BackendFailed."""
        return self._write(text, max_tokens, constraint)

    def _write(self, text: str, max_tokens: int, constraint: decide_pb2.Constraint | None = None) -> Iterator[str]:
        job: Job = self.prepare(text).data
        room = min(max_tokens, self._positions - len(job.row.prefix) - len(job.row.ids))
        return self._writer.write(self._resident.decode(job.row), room, constraint)

    def warm(self) -> None:
        """Run one row and several, whose kernels differ."""
        one = self.prepare("warm")
        for rows in (1, 4):
            if not all(np.isfinite(row).all() for row in self.score([one] * rows).logits):
                raise BackendFailed("logits are not finite")

    def close(self) -> None:
        """Leave the base."""
        self._tenant.leave()
