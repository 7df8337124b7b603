"""What every step of the loop works on, put together once by ``__main__``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.errors import UnknownSpecialist
from controlplane.loop.embedding import Embedder
from controlplane.packs.registry import TrainingPack
from controlplane.settings import ControlSettings, SpecialistSettings
from controlplane.store.artifacts import Artifacts
from controlplane.store.store import Store
from protos import traffic_pb2
from protos.contract.attestation import Operators
from protos.contract.bundle import BundleStore
from protos.contract.digest import parse_json_object
from protos.contract.ledger_proof import ledger_origin
from protos.contract.operators import envelope_from_json
from protos.contract.seal import Opener

LOOP = "interlock-loop"  # the author of what the loop does by itself; no person goes by it


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment: its settings, its memory, its specialists.

    Attributes:
        packs: Specialists by name; ``sources`` says where each pack came from.
        clock: Unix milliseconds.
        embedder: Turns texts into vectors, for what is compared as such.
        opener: Opens sealed capture; None where there is no key for it.
        changed: Called after a step that may have offered a plan, from any thread.
    """

    settings: ControlSettings
    store: Store
    artifacts: Artifacts
    bundles: BundleStore
    key: Ed25519PrivateKey
    packs: Mapping[str, TrainingPack]
    sources: Mapping[str, SpecialistSettings]
    clock: Callable[[], int]
    embedder: Embedder
    opener: Opener | None
    changed: Callable[[], None]

    @property
    def name(self) -> str:
        """The audience of approvals."""
        return self.settings.deployment

    @property
    def ledger_origin(self) -> str:
        """The name that ledger checkpoints are signed under."""
        return ledger_origin(self.settings.deployment)

    def operators(self) -> Operators:
        """Read who may approve, afresh; raises FieldInvalid, KeyInvalid or JsonMalformed."""
        return Operators.read(self.settings.operators)

    def operators_above(self, version: int) -> list[traffic_pb2.Envelope]:
        """Return the signed lists of people above a version, in order, for gateways that go by an older one."""
        found = []
        for path in self.settings.operators_dir.glob("*.json"):
            if path.stem.isdigit() and int(path.stem) > version:
                found.append((int(path.stem), envelope_from_json(parse_json_object(path.read_bytes()))))
        return [envelope for _, envelope in sorted(found, key=lambda one: one[0])]

    def pack(self, specialist: str) -> TrainingPack:
        """Return a specialist's pack; raises UnknownSpecialist."""
        found = self.packs.get(specialist)
        if found is None:
            raise UnknownSpecialist(specialist, sorted(self.packs))
        return found
