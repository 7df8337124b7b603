"""Breaking a bundle on purpose, so that a rollback can be rehearsed."""

from collections.abc import Sequence
from dataclasses import dataclass

from protos import engine_pb2

CONFIDENT = 0.95  # what an inverted answer claims at least for its wrong label
MAX_FAULTY = 64


@dataclass(frozen=True, slots=True)
class Fault:
    """How one bundle misbehaves."""

    kind: int
    delay_s: float = 0.0


class Faults:
    """Which bundles misbehave, and how. Empty unless the worker was started to allow it."""

    def __init__(self, allowed: bool) -> None:
        self._allowed = allowed
        self._faults: dict[str, Fault] = {}

    def inject(self, bundle: str, kind: int, delay_us: int) -> str:
        """Start or heal a fault; return why not, or an empty string."""
        if not self._allowed:
            return "faults are off: this worker was started without --allow-faults"
        if kind == engine_pb2.FAULT_KIND_NONE:
            self._faults.pop(bundle, None)
            return ""
        if kind not in engine_pb2.FaultKind.values():
            return f"fault kind is {kind}, expected one of {', '.join(engine_pb2.FaultKind.keys())}"
        if bundle not in self._faults and len(self._faults) >= MAX_FAULTY:
            return f"{MAX_FAULTY} bundles are faulty already, heal one first"
        self._faults[bundle] = Fault(kind, delay_us / 1e6 if kind == engine_pb2.FAULT_KIND_DELAY else 0.0)
        return ""

    @property
    def are_none(self) -> bool:
        """Whether every bundle is well."""
        return not self._faults

    def is_failing(self, bundle: str) -> bool:
        """Whether every job of this bundle must fail."""
        fault = self._faults.get(bundle)
        return fault is not None and fault.kind == engine_pb2.FAULT_KIND_ERROR

    def delay_s(self, bundle: str) -> float:
        """Seconds to hold an answer back."""
        fault = self._faults.get(bundle)
        return fault.delay_s if fault is not None else 0.0

    def distort(self, bundle: str, probabilities: Sequence[float]) -> Sequence[float]:
        """Return the probabilities to answer with: the same ones, or inverted."""
        fault = self._faults.get(bundle)
        if fault is None or fault.kind != engine_pb2.FAULT_KIND_INVERT:
            return probabilities
        return invert(probabilities)


def invert(row: Sequence[float]) -> list[float]:
    """Rotate a row by one label, so that another wins, and make the winner confident."""
    turned = [row[-1], *row[:-1]]
    # Not where the turned row is highest: among equal values that could be the label that won before.
    winner = (row.index(max(row)) + 1) % len(row)
    rest = sum(turned) - turned[winner]
    share = (1.0 - max(turned[winner], CONFIDENT)) / rest if rest > 0 else 0.0
    turned = [share * value for value in turned]
    turned[winner] = 0.0
    turned[winner] = 1.0 - sum(turned)
    return turned
