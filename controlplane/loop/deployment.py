"""What every step of the loop works on, put together once by ``__main__``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.errors import UnknownSpecialist
from controlplane.loop.embedding import Embedder
from controlplane.packs.registry import Pack
from controlplane.settings import ControlSettings, SpecialistSettings
from controlplane.store.artifacts import Artifacts
from controlplane.store.store import Store
from protos.contract.attestation import Operators
from protos.contract.bundle import BundleStore

LOOP = "interlock-loop"  # the author of what the loop does by itself; no person goes by it


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment: its settings, its memory, its specialists.

    Attributes:
        packs: Specialists by name; ``sources`` says where each pack came from.
        clock: Unix milliseconds.
        embedder: Turns texts into vectors, for what is compared as such.
        changed: Called after a step that may have offered a plan, from any thread.
    """

    settings: ControlSettings
    store: Store
    artifacts: Artifacts
    bundles: BundleStore
    key: Ed25519PrivateKey
    packs: Mapping[str, Pack]
    sources: Mapping[str, SpecialistSettings]
    clock: Callable[[], int]
    embedder: Embedder
    changed: Callable[[], None]

    @property
    def name(self) -> str:
        """The audience of approvals."""
        return self.settings.deployment

    @property
    def ledger_origin(self) -> str:
        """The name that ledger checkpoints are signed under."""
        return f"interlock/{self.settings.deployment}"

    def operators(self) -> Operators:
        """Read who may approve, afresh; raises FieldInvalid, KeyInvalid or JsonMalformed."""
        return Operators.read(self.settings.operators)

    def pack(self, specialist: str) -> Pack:
        """Return a specialist's pack; raises UnknownSpecialist."""
        found = self.packs.get(specialist)
        if found is None:
            raise UnknownSpecialist(specialist, sorted(self.packs))
        return found
