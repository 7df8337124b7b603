"""What sets two rollouts apart: their bundles, data and suite, and every score of their candidates."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from controlplane.report.files import read_json


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact that is not the same in both; None where one of them has no such fact."""

    what: str
    before: str | float | None
    after: str | float | None


def difference(before: Path, after: Path) -> list[Difference]:
    """Compare two folders that ``interlock evidence show`` wrote, by the last step each was approved for.

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
