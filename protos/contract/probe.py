"""A bundle's self-test: inputs recorded with the answers they had when the bundle was made.

Whoever serves a bundle asks them first. Another arithmetic may move a probability a little; a wrong
model, adapter, tokenizer or label order moves it far.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protos.contract.digest import canonical_json
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.task import TaskSpec

PROBES = "probes.json"
SCHEMA = "interlock.probes/1"
DEFAULT_TOLERANCE = 0.02
MAX_PROBES = 64


class ProbeFailed(Exception):
    """An engine answers a recorded input otherwise than when the bundle was made."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One rendered text, the probabilities it must get in label order, and how far they may be off."""

    text: str
    probabilities: tuple[float, ...]
    tolerance: float = DEFAULT_TOLERANCE


def probes_json(probes: Sequence[Probe]) -> bytes:
    """Write ``probes.json``."""
    rows = [{"text": p.text, "probabilities": list(p.probabilities), "tolerance": p.tolerance} for p in probes]
    return canonical_json({"schema": SCHEMA, "probes": rows})


def read_probes(contents: Mapping[str, Any], task: TaskSpec) -> tuple[Probe, ...]:
    """Read a bundle's probes; none is fine. Raises FieldInvalid."""
    data = contents.get(PROBES)
    if data is None:
        return ()
    try:
        value = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise FieldInvalid(f"{PROBES} is not JSON: {error}") from error
    read = Reader(value, "probes")
    read.text("schema", choices=(SCHEMA,))
    items = read.items("probes")
    read.done()
    if len(items) > MAX_PROBES:
        raise FieldInvalid(f"probes has {len(items)} entries, expected at most {MAX_PROBES}")
    return tuple(_read_probe(item, f"probes[{i}]", task) for i, item in enumerate(items))


def _read_probe(item: Any, where: str, task: TaskSpec) -> Probe:
    read = Reader(item, where)
    text = read.text("text")
    row = read.items("probabilities")
    tolerance = read.number("tolerance", 0.0, 1.0, DEFAULT_TOLERANCE)
    read.done()
    numbers = all(isinstance(p, int | float) and not isinstance(p, bool) and 0 <= p <= 1 for p in row)
    if len(row) != len(task.labels) or not numbers or not abs(sum(row) - 1) <= 0.01:
        raise FieldInvalid(f"{where}.probabilities is {row!r}, expected {len(task.labels)} that sum to 1")
    return Probe(text, tuple(map(float, row)), tolerance)


def check_probes(probes: Sequence[Probe], found: Sequence[Sequence[float]]) -> None:
    """Compare answers with what was recorded.

    Raises:
        ProbeFailed: Names the probe, the probability found, and the one expected.
    """
    for i, (probe, row) in enumerate(zip(probes, found, strict=True)):
        for label, (expected, seen) in enumerate(zip(probe.probabilities, row, strict=True)):
            if not abs(seen - expected) <= probe.tolerance:
                raise ProbeFailed(
                    f"self-test {i}: label {label} has probability {seen:.4f}, "
                    f"expected {expected:.4f} within {probe.tolerance:g}"
                )
