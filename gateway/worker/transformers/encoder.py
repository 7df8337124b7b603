"""An encoder with a linear head: one forward pass, one vector a text, one logit a label."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from torch import Tensor

from gateway.worker.backend import BackendFailed, Prepared, Scores
from gateway.worker.transformers.jobs import Job, score_rows
from gateway.worker.transformers.loading import last_position
from gateway.worker.transformers.resident import Resident, Row
from gateway.worker.transformers.tenant import Tenant
from protos import engine_pb2
from protos.contract.bundle import Bundle
from protos.contract.task import InputInvalid

CLASSIFIER = "classifier.safetensors"


class EncoderBackend:
    """A bundle's adapter and classifier on a resident encoder."""

    def __init__(self, bundle: Bundle, tenant: Tenant) -> None:
        self._tenant = tenant
        self._labels = len(bundle.manifest.task.labels)
        for name in ("generate", "verbalizers"):
            if getattr(tenant.settings, name):
                raise BackendFailed(f"manifest.engine.{name} is set, expected a decoder")
        self._classifier = _classifier(bundle.contents.get(CLASSIFIER), self._labels, tenant.resident)
        positions = last_position(tenant.resident.model)
        self._limit = min(bundle.manifest.task.max_tokens, positions)
        self._cuts = tenant.settings.overlong == "cut"
        tenant.tokenizer.enable_truncation(max_length=self._limit)

    @property
    def group(self) -> str:
        """The base, for bundles that share it."""
        return self._tenant.group

    @property
    def resident_bytes(self) -> int:
        """This bundle's adapter and its share of the base."""
        return self._tenant.bytes

    def prepare(self, text: str) -> Prepared:
        """Tokenise, cutting at the limit.

        Raises:
            InputInvalid: The text is over the limit and the bundle wants such refused.
        """
        encoding = self._tenant.tokenizer.encode(text)
        if encoding.overflowing and not self._cuts:
            raise InputInvalid(f"the text is over {self._limit} tokens, expected at most that")
        ids = list(encoding.ids) or [0]
        return Prepared(len(ids), bool(encoding.overflowing), Job(self, Row(ids, (), self._tenant.adapter)))

    def score(self, batch: Sequence[Prepared]) -> Scores:
        """Run one forward pass over rows of this bundle and of others on the same base."""
        jobs = [prepared.data for prepared in batch]
        return Scores(score_rows(self._tenant.resident, jobs, self._tenant.settings.pool))

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
