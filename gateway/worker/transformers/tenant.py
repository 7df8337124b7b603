"""A bundle's hold on a resident base: its adapter there, and its tokenizer."""

import hashlib

import torch
from tokenizers import Tokenizer

from gateway.worker.backend import BackendFailed, Host
from gateway.worker.peft import WEIGHTS
from gateway.worker.transformers.adapters import merge, read_adapter
from gateway.worker.transformers.loading import load_model, pick_device, pick_dtype
from gateway.worker.transformers.resident import Resident
from gateway.worker.transformers.settings import Settings
from protos.contract.base import TOKENIZER
from protos.contract.bundle import Bundle


class Tenant:
    """Loads the base or joins those on it, and brings the bundle's adapter; ``leave`` undoes both.

    Attributes:
        adapter: The adapter's name on the base, empty when there is none or it is merged.
    """

    def __init__(self, bundle: Bundle, host: Host) -> None:
        self.settings = settings = Settings.read(bundle.manifest.engine)
        self._residency = host.residency
        if not bundle.manifest.base:
            raise BackendFailed("manifest.base is empty, expected the model to load")
        digest = str(bundle.manifest.base["digest"])
        device = pick_device(settings.device)
        dtype = pick_dtype(settings.dtype, device)
        torch.set_num_threads(host.threads)
        listing = host.bases.listing(digest)
        adapter = read_adapter(bundle.contents, listing.name, digest, host.max_rank)
        if settings.merged and adapter is None:
            raise BackendFailed(f"manifest.engine.merged is true, expected {WEIGHTS} to merge")
        self.tokenizer = _tokenizer(bundle.contents.get(TOKENIZER) or host.bases.read(digest, listing, TOKENIZER))
        own = bundle.digest if settings.merged else "shared"
        shape = (
            f"{settings.kind} {device.type} {dtype} {settings.dtype == 'fp8'} {settings.layout} {settings.has_graphs}"
        )
        self.key = f"{digest} {shape} {own}"

        def build() -> Resident:
            model, name = load_model(host.bases, digest, settings.kind, device, dtype)
            resident = Resident(model, settings.kind, name, layout=settings.layout, graphs=settings.has_graphs)
            resident.check()
            if settings.merged and adapter is not None:
                merge(model, adapter)
            if settings.dtype == "fp8":  # last: what is compared and merged is the base as it was given
                resident.round_weights()
            return resident

        self.resident = self._residency.base(self.key, build)
        self.adapter = ""
        self._adapter_bytes = 0
        if adapter is None or settings.merged:
            return
        # By content: two bundles that differ in their heads only share one adapter.
        name = hashlib.sha256(bundle.contents[WEIGHTS]).hexdigest()
        try:
            self._residency.adapter(self.key, name, adapter)
        except BaseException:
            self._residency.release_base(self.key)
            raise
        self.adapter = name
        itemsize = torch.empty(0, dtype=dtype).element_size()
        self._adapter_bytes = itemsize * sum(t.numel() for pair in adapter.weights.values() for t in pair)

    @property
    def bytes(self) -> int:
        """This bundle's adapter and its share of the base."""
        return self._adapter_bytes + self.resident.bytes // self._residency.share(self.key)

    @property
    def group(self) -> str:
        """The base, for bundles whose rows may share a batch; empty for one that has its own."""
        settings = self.settings
        return "" if settings.merged else f"{self.key} {settings.head} {settings.pool}"

    def leave(self) -> None:
        """Give the adapter back, and the base when nobody else is on it."""
        if self.adapter:
            self._residency.release_adapter(self.key, self.adapter)
        self._residency.release_base(self.key)


def _tokenizer(data: bytes) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises plain Exception
        raise BackendFailed(f"{TOKENIZER}: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
