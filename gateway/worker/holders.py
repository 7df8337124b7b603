"""Who holds which bundle in a worker: gateways whose plans need it, or only a wish to have it ready."""

from typing import Generic, TypeVar

H = TypeVar("H")


class Holders(Generic[H]):
    """Bundles and their holders. A bundle that only preloads hold makes room for one that a plan needs."""

    def __init__(self) -> None:
        self._needs: dict[str, set[H]] = {}
        self._wishes: dict[tuple[str, H], None] = {}  # in the order in which they were said last

    def hold(self, bundle: str, holder: H, *, is_preload: bool) -> None:
        """Note that a holder needs a bundle, or from now on only wants it ready."""
        if is_preload:
            self._drop(bundle, holder)
            self._wishes.pop((bundle, holder), None)
            self._wishes[bundle, holder] = None
        else:
            self._wishes.pop((bundle, holder), None)
            self._needs.setdefault(bundle, set()).add(holder)

    def release(self, bundle: str, holder: H) -> bool:
        """Let go of a bundle; return whether somebody else still holds it."""
        self._drop(bundle, holder)
        self._wishes.pop((bundle, holder), None)
        return bundle in self.held()

    def leave(self, holder: H) -> None:
        """Let go of everything: a holder is gone, and what it needed stays until it says otherwise again."""
        for bundle in list(self._needs):
            self._drop(bundle, holder)
        self._wishes = {wish: None for wish in self._wishes if wish[1] != holder}

    def forget(self, bundle: str) -> None:
        """Nobody holds a bundle that is not here."""
        self._needs.pop(bundle, None)
        self._wishes = {wish: None for wish in self._wishes if wish[0] != bundle}

    def held(self) -> set[str]:
        """Return the bundles that somebody holds."""
        return {*self._needs, *(bundle for bundle, _ in self._wishes)}

    def is_preload(self, bundle: str) -> bool:
        """Say whether a bundle is only kept ready."""
        return bundle in self.preloads()

    def preloads(self) -> list[str]:
        """Return the bundles that are only kept ready, the one whose last wish is oldest first."""
        newest_first = dict.fromkeys(bundle for bundle, _ in reversed(self._wishes))
        return [bundle for bundle in reversed(newest_first) if bundle not in self._needs]

    def _drop(self, bundle: str, holder: H) -> None:
        if bundle in self._needs:
            self._needs[bundle].discard(holder)
            if not self._needs[bundle]:
                del self._needs[bundle]
