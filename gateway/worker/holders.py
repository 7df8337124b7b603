"""Who holds which bundle in a worker: gateways whose plans need it, or only a wish to have it ready."""

from typing import Generic, TypeVar

H = TypeVar("H")


class Holders(Generic[H]):
    """Bundles and their holders. A bundle that only preloads hold makes room for one that a plan needs."""

    def __init__(self) -> None:
        self._needs: dict[str, set[H]] = {}
        self._preloads: dict[str, set[H]] = {}  # in the order of their last need

    def hold(self, bundle: str, holder: H, *, is_preload: bool) -> None:
        """Note that a holder needs a bundle, or from now on only wants it ready."""
        if is_preload:
            self._drop(self._needs, bundle, holder)
            self._preloads[bundle] = self._preloads.pop(bundle, set()) | {holder}
        else:
            self._drop(self._preloads, bundle, holder)
            self._needs.setdefault(bundle, set()).add(holder)

    def release(self, bundle: str, holder: H) -> bool:
        """Let go of a bundle; return whether somebody else still holds it."""
        self._drop(self._needs, bundle, holder)
        self._drop(self._preloads, bundle, holder)
        return bundle in self._needs or bundle in self._preloads

    def leave(self, holder: H) -> None:
        """Let go of everything: a holder is gone, and what it needed stays until it says otherwise again."""
        for held in (self._needs, self._preloads):
            for bundle in list(held):
                self._drop(held, bundle, holder)

    def forget(self, bundle: str) -> None:
        """Nobody holds a bundle that is not here."""
        self._needs.pop(bundle, None)
        self._preloads.pop(bundle, None)

    def held(self) -> set[str]:
        """Return the bundles that somebody holds."""
        return {*self._needs, *self._preloads}

    def is_preload(self, bundle: str) -> bool:
        """Say whether a bundle is only kept ready."""
        return bundle in self._preloads and bundle not in self._needs

    def preloads(self) -> list[str]:
        """Return the bundles that are only kept ready, the longest not needed first."""
        return [bundle for bundle in self._preloads if bundle not in self._needs]

    @staticmethod
    def _drop(held: dict[str, set[H]], bundle: str, holder: H) -> None:
        if bundle in held:
            held[bundle].discard(holder)
            if not held[bundle]:
                del held[bundle]
