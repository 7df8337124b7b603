"""Keys that segments are sealed for on their way from a gateway: changed daily, and destroyed once nobody needs them.

The control plane publishes the public half in a file that gateways read for every new segment; private halves are in
the vault, so that a backup of segments cannot be opened for long, and after an erasure not at all.
"""

from base64 import b64encode
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from controlplane.store.files import replace_file
from controlplane.store.vault import Vault
from protos.contract.seal import Opener, RecordCipher, SealBroken, opener

DAY_MS = 86_400_000
LEAVES_MS = 2 * 3_600_000  # a gateway begins a new segment at least hourly, and so has read the newer key by then


def publish(vault: Vault, path: Path, now_ms: int) -> None:
    """Draw a key, keep it, and put its public half where gateways read it, as a whole."""
    key = X25519PrivateKey.generate()
    vault.add_seal(now_ms, key.private_bytes_raw())
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, b"x25519:%s\n" % b64encode(key.public_key().public_bytes_raw()))


def renew(vault: Vault, path: Path, folder: Path, now_ms: int, oldest_ms: int) -> int:
    """Publish a new key each day, and destroy those that no segment of ``folder`` can need any more.

    Args:
        oldest_ms: Keys from before it are destroyed whatever is left unread.
    Returns:
        How many were destroyed.
    """
    made = vault.seals()
    if not made or not path.exists() or now_ms - max(made) >= DAY_MS:
        publish(vault, path, now_ms)
        made = vault.seals()
    begun = [int(name) for p in folder.glob("*.seg") if (name := p.name.partition("-")[0]).isdigit()]
    gone = 0
    for this, following in zip(sorted(made), sorted(made)[1:], strict=False):
        is_left = now_ms - following >= LEAVES_MS and not any(at < following + LEAVES_MS for at in begun)
        if is_left or following < oldest_ms:
            vault.forget_seal(this)
            gone += 1
    return gone


def opener_of(vault: Vault) -> Opener:
    """Return what opens segments sealed for any key that is still kept; it raises SealBroken."""

    def unwrap(wrapped: bytes) -> RecordCipher:
        for _, raw in sorted(vault.seals().items(), reverse=True):
            try:
                return opener(X25519PrivateKey.from_private_bytes(raw))(wrapped)
            except SealBroken:
                continue
        raise SealBroken("the segment was sealed for another key, or one that was destroyed")

    return unwrap
