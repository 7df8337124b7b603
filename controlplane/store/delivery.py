"""Copying a bundle, with the base it refers to, from one store to another."""

from collections.abc import Callable

from protos.contract.bundle import BundleInvalid, BundleStore
from protos.contract.url_store import bases_of


def copy_bundle(there: BundleStore, digest: str, other: BundleStore, say: Callable[[str], None]) -> None:
    """Copy a bundle that is not in the other store as it should be; what arrived is read back and hashed.

    The base goes first: whoever sees the bundle there can serve it.

    Raises:
        BundleInvalid, BaseInvalid: Missing here, or altered here or on the way.
        OSError: The other store cannot be reached.
    """
    bundle = there.load(digest)
    base = str(bundle.manifest.base.get("digest", ""))
    if base in bases_of(there).digests():
        say(f"base {base}")
        bases_of(other).take(bases_of(there), base)
    try:
        other.load(digest)
    except BundleInvalid:
        if digest in other.digests():  # altered there: what replaces it was verified
            other.remove(digest)
        say(f"bundle {digest}")
        other.write(bundle.manifest, bundle.contents)
        other.load(digest)


def base_missing(store: BundleStore, digest: str) -> str:
    """Return the base that a bundle refers to where it does not lie beside it, else nothing.

    Engines that hold the whole model need none, and workers may be told of bases elsewhere.
    """
    try:
        base = str(store.manifest(digest).base.get("digest", ""))
    except BundleInvalid:
        return ""
    return base if base and base not in bases_of(store).digests() else ""
