"""Which bases and adapters stay on the device: shared while bundles use them, bounded, dropped when room is needed.

An adapter whose bundle went stays until its place is needed, so that a bundle that comes back, as after a
rollback, is ready at once.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.worker.backend import NoRoom, Residents
from gateway.worker.transformers.adapters import Adapter
from gateway.worker.transformers.resident import Resident


@dataclass(slots=True)
class _Base:
    resident: Resident
    users: int = 0
    adapters: OrderedDict[str, int] = field(default_factory=OrderedDict)  # name → users, least recently used first


class Residency:
    """The bases of one worker. Callable from the thread that loads and the one that computes."""

    def __init__(self, max_adapters: int) -> None:
        self._max_adapters = max_adapters
        self._bases: dict[str, _Base] = {}
        self._lock = threading.Lock()

    def base(self, key: str, build: Callable[[], Resident]) -> Resident:
        """Return the base of this key, built unless it is here; pair with ``release_base``."""
        with self._lock:
            if key not in self._bases:
                self._bases[key] = _Base(build())
            self._bases[key].users += 1
            return self._bases[key].resident

    def release_base(self, key: str) -> None:
        """One user less; the last one takes the base along."""
        with self._lock:
            base = self._bases[key]
            base.users -= 1
            if not base.users:
                del self._bases[key]

    def share(self, key: str) -> int:
        """Return how many bundles share a base."""
        base = self._bases.get(key)
        return base.users if base is not None else 1

    def adapter(self, key: str, name: str, adapter: Adapter) -> None:
        """Have an adapter resident on a base; pair with ``release_adapter``.

        Raises:
            NoRoom: Every place is taken by an adapter in use.
            BackendFailed: The adapter does not fit the base.
        """
        with self._lock:
            base = self._bases[key]
            if name not in base.adapters:
                self._make_room(key, base)
                base.resident.add_adapter(name, adapter)
                base.adapters[name] = 0
            base.adapters[name] += 1
            base.adapters.move_to_end(name)

    def release_adapter(self, key: str, name: str) -> None:
        """One user less; the adapter stays until its place is needed."""
        with self._lock:
            self._bases[key].adapters[name] -= 1

    def residents(self) -> list[Residents]:
        """Describe every base here."""
        with self._lock:
            return [
                Residents(
                    name=base.resident.name,
                    bundles=base.users,
                    bytes=base.resident.bytes,
                    extra_bytes=base.resident.extra_bytes,
                    adapters=len(base.adapters),
                    adapters_in_use=sum(users > 0 for users in base.adapters.values()),
                    max_adapters=self._max_adapters,
                )
                for base in self._bases.values()
            ]

    def resident_adapters(self, key: str) -> list[str]:
        """Name the adapters on a base, in use or not, least recently used first."""
        with self._lock:
            return list(self._bases[key].adapters) if key in self._bases else []

    def _make_room(self, key: str, base: _Base) -> None:
        while len(base.adapters) >= self._max_adapters:
            idle = next((name for name, users in base.adapters.items() if not users), None)
            if idle is None:
                raise NoRoom(f"{self._max_adapters} adapters are in use on this base, the most allowed", key)
            base.resident.remove_adapter(idle)
            del base.adapters[idle]
