"""An encoder with a linear head: one forward pass, one vector a text, one logit a label."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from torch import Tensor

from gateway.worker.backend import BackendFailed, Prepared, Scores
from gateway.worker.transformers.loading import last_position
from gateway.worker.transformers.resident import Resident, Row
from gateway.worker.transformers.tenant import Tenant
from protos import engine_pb2
from protos.contract.bundle import Bundle

CLASSIFIER = "classifier.safetensors"


class EncoderBackend:
    """A bundle's adapter and classifier on a resident encoder."""

    def __init__(self, bundle: Bundle, tenant: Tenant) -> None:
        self._tenant = tenant
        self._labels = len(bundle.manifest.task.labels)
        if tenant.settings.generate:
            raise BackendFailed("manifest.engine.generate is set, expected a decoder")
        self._classifier = _classifier(bundle.contents.get(CLASSIFIER), self._labels, tenant.resident)
        positions = last_position(tenant.resident.model)
        tenant.tokenizer.enable_truncation(max_length=min(bundle.manifest.task.max_tokens, positions))

    @property
    def group(self) -> str:
        """The base, for bundles that share it."""
        return self._tenant.group

    @property
    def resident_bytes(self) -> int:
        """This bundle's adapter and its share of the base."""
        return self._tenant.bytes

    def prepare(self, text: str) -> Prepared:
        """Tokenise, cutting at the limit."""
        encoding = self._tenant.tokenizer.encode(text)
        ids = list(encoding.ids) or [0]
        return Prepared(len(ids), bool(encoding.overflowing), _Job(self, Row(ids, (), self._tenant.adapter)))

    def score(self, batch: Sequence[Prepared]) -> Scores:
        """Run one forward pass over rows of this bundle and of others on the same base."""
        jobs: list[_Job] = [prepared.data for prepared in batch]
        states = self._tenant.resident.states([job.row for job in jobs], self._tenant.settings.pool)
        logits: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(jobs)
        for owner in {id(job.owner): job.owner for job in jobs}.values():
            places = [i for i, job in enumerate(jobs) if job.owner is owner]
            for i, row in zip(places, owner.logits(states[places]), strict=True):
                logits[i] = row
        return Scores(logits)

    def logits(self, states: Tensor) -> NDArray[np.float32]:
        """Apply the classifier, shapes [rows, hidden] to [rows, labels]."""
        weight, bias = self._classifier
        with torch.inference_mode():
            return torch.nn.functional.linear(states.float(), weight, bias).cpu().numpy()

    def capabilities(self) -> engine_pb2.Capabilities:
        """Say what gateways may ask."""
        lora = "static" if self._tenant.settings.merged else "per_request"
        return engine_pb2.Capabilities(label_logprobs="exact", lora=lora)

    def warm(self) -> None:
        """Run one row and several, whose kernels differ."""
        one = self.prepare("warm")
        for rows in (1, 4):
            if not all(np.isfinite(row).all() for row in self.score([one] * rows).logits):
                raise BackendFailed("logits are not finite")

    def close(self) -> None:
        """Leave the base."""
        self._tenant.leave()


@dataclass(frozen=True, slots=True)
class _Job:
    owner: EncoderBackend
    row: Row


def _classifier(data: bytes | None, labels: int, resident: Resident) -> tuple[Tensor, Tensor]:
    """Read the head: ``weight`` [labels, hidden] and ``bias`` [labels]; raises BackendFailed."""
    if data is None:
        raise BackendFailed(f"{CLASSIFIER} is missing from the bundle, expected an encoder's head")
    try:
        tensors = read_safetensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise BackendFailed(f"{CLASSIFIER}: {error}") from error
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    expected = {"weight": [labels, int(resident.config.hidden_size)], "bias": [labels]}
    if shapes != expected:
        raise BackendFailed(f"{CLASSIFIER} has shapes {shapes}, expected {expected}")
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise BackendFailed(f"{CLASSIFIER} is not finite")
    return tensors["weight"].float().to(resident.device), tensors["bias"].float().to(resident.device)
