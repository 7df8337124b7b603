"""The gateway as a witness of the ledger: the highest head it saw, and its word that it saw it."""

import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protos import traffic_pb2
from protos.contract.attestation import KeyInvalid, generate_key, public_text, read_private
from protos.contract.checkpoint import Checkpoint, cosign
from protos.contract.ledger_proof import LedgerRefused, next_head, signed_head


def witness_name(gateway_id: str) -> str:
    """Return the name that a gateway cosigns under."""
    return f"gateway/{gateway_id}"


class Witness:
    """Holds the ledger's keeper to every head it ever showed here."""

    def __init__(
        self,
        deployment: str,
        key: Ed25519PublicKey,
        *,
        gateway_id: str = "",
        own_key: Ed25519PrivateKey | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._deployment = deployment
        self._key = key
        self._name = witness_name(gateway_id)
        self._own_key = own_key
        self._clock = clock
        self.head: Checkpoint | None = None
        self.text = ""

    @property
    def public_key(self) -> str:
        """The key that it cosigns with, as text; empty without one."""
        return "" if self._own_key is None else public_text(self._own_key.public_key())

    def restore(self, text: str) -> None:
        """Take up the head that was held before a restart; raises LedgerRefused."""
        if text:
            self.head, self.text = signed_head(text, self._deployment, self._key), text

    def judge(self, offer: traffic_pb2.PlanOffer) -> Checkpoint:
        """Return the head an offer shows, once it continues the one held; raises LedgerRefused."""
        return next_head(
            self.head, offer.checkpoint, offer.consistent_from, offer.consistency, self._deployment, self._key
        )

    def take(self, head: Checkpoint, text: str) -> None:
        """Hold the ledger's keeper to a judged head from now on."""
        self.head, self.text = head, text

    def cosigned(self) -> str:
        """Return the head held with this witness's own signature added; empty without a key or a head."""
        if self._own_key is None or not self.text:
            return ""
        return self.text + cosign(self.text, self._name, self._own_key, int(self._clock()))


def witness_key(directory: Path) -> Ed25519PrivateKey | None:
    """Return the gateway's own key, made at its first start; None where it cannot be kept.

    A gateway without one serves all the same: it holds the keeper to what it saw, and cannot tell others.
    """
    path = directory / "witness.key"
    try:
        if not path.exists():
            generate_key(path)
        return read_private(path)
    except (OSError, KeyInvalid):
        return None


__all__ = ["LedgerRefused", "Witness", "witness_key", "witness_name"]
