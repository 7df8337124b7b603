"""What sets two rollouts apart: their bundles, data and suite, and every score of their candidates."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from controlplane.report.files import read_json
from protos.contract.attestation import Approval
from protos.contract.operators import signed_payload


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact that is not the same in both; None where one of them has no such fact."""

    what: str
    before: str | float | None
    after: str | float | None


def difference(before: Path, after: Path) -> list[Difference]:
    """Compare two folders that ``interlock evidence build`` wrote, by the last step each was approved for.

    Raises:
        JsonMalformed, KeyError, OSError, ValueError: A file is missing or malformed.
    """
    old, new = dict(_facts(before)), dict(_facts(after))
    names = list(dict.fromkeys([*old, *new]))
    return [Difference(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def _facts(folder: Path) -> Iterator[tuple[str, str | float | None]]:
    manifest = read_json(folder / "manifest.json")
    for name in ("rollout", "phase", "end_reason", "bundle", "primary", "suite"):
        yield name, manifest[name]
    steps = sorted((folder / "steps").glob("*"))
    if not steps:
        return
    bundle, evaluation = read_json(steps[-1] / "bundle.json"), read_json(steps[-1] / "evaluation.json")
    for name, value in bundle["lineage"].items():
        yield f"lineage {name}", value if isinstance(value, str) else str(value)
    for part, models in evaluation["values"].items():
        for metric, said in models["candidate"].items():
            yield f"{part} {metric}", said["value"]
    for gate in evaluation["gates"]:
        yield f"demand: {gate['text']}", {True: "pass", False: "fail", None: "not asked"}[gate["passed"]]


def overview(folder: Path) -> dict[str, str | float | None]:
    """Return the facts of one folder that ``interlock evidence build`` wrote, by name; raises as ``difference``."""
    found = dict(_facts(folder))
    names = sorted(path.name for path in (folder / "steps").glob("*"))
    found["steps"] = ", ".join(names) or "none"
    for path in sorted((folder / "approvals").glob("*.json")):
        said = Approval.from_statement(signed_payload(read_json(path)).payload)
        if said.rollout == found["rollout"]:
            what = f"approval by {said.person} of {said.step}"
            told = f"up to {said.ceiling_bp / 100:g} %: {said.reason}"
            found[what] = f"{found[what]}; {told}" if what in found else told
    return found
