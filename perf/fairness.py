"""Credit decisions by protected groups: ``python -m perf.fairness``.

Asks the bundles that ``make results`` recorded, or fits them again, on the whole dev parts of the sets that know their
applicants' sex, age and status. No model reads these. Writes ``perf/results/fairness.json`` and the table in the pack's
README.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from controlplane.evals.labelled import LabelledRun
from controlplane.evals.labelled_run import run_labelled
from controlplane.evals.published_run import as_published
from controlplane.evals.tables import LEAST_SLICE
from controlplane.packs.published import PublishedSet
from controlplane.packs.registry import load_metrics, load_pack
from perf.marked import replace_marked
from perf.processes import ROOT
from perf.specialists import RESULTS as SPECIALISTS
from perf.specialists import kept_bundles, parts_of, rounded, train

RESULTS = ROOT / "perf" / "results" / "fairness.json"
README = ROOT / "controlplane" / "packs" / "credit_risk" / "README.md"
BEGIN, END = "<!-- perf/results/fairness.json begins -->", "<!-- perf/results/fairness.json ends -->"
PACK, ENGINE_NAMES = "credit-risk", ("additive", "trees")
METRICS = ("approval_rate", "false_denial_rate", "auc", "ece")
# What the codes of a set's codebook mean.
MEANINGS = {
    "SEX": {"1": "men", "2": "women"},
    "MARRIAGE": {"1": "married", "2": "single", "3": "other", "0": "unknown"},
    "sex": {"male": "men", "female": "women"},
    "foreign_worker": {"yes": "foreign workers", "no": "others"},
}


def audited(one: PublishedSet) -> tuple[str, ...]:
    """Return a set's columns of protected attributes."""
    return tuple(column for column in (*one.columns.slices, *one.columns.bands) if column != "EDUCATION")


def bundle_of(one: PublishedSet, engine: str, data: Path, bundles: Path) -> str:
    """Return the recorded bundle, or one that is fitted as it was."""
    rows = [r for r in json.loads(SPECIALISTS.read_text("utf-8")) if (r["set"], r["engine"]) == (one.name, engine)]
    if kept := kept_bundles(rows, bundles):
        return kept[one.name, engine]
    return train(one, engine, data, bundles, threads=1)


def measure(one: PublishedSet, engine: str, data: Path, bundles: Path) -> list[dict[str, Any]]:
    """Return a row a group of one set, as one engine decides."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        digest = bundle_of(one, engine, data, bundles)
        asked = LabelledRun(bundles, digest, parts_of(data / one.name)["dev"], gateway_cases=0)
        report = run_labelled(as_published(PACK, asked, scratch)[0])
    rows = []
    for column in audited(one):
        groups = [group for group in report["slices"][column] if group["cases"] >= LEAST_SLICE]
        most = max(group["metrics"]["approval_rate"]["value"] for group in groups)
        for group in groups:
            rate = group["metrics"]["approval_rate"]["value"]
            rows.append(
                {
                    "set": one.name,
                    "engine": engine,
                    "attribute": column,
                    "group": MEANINGS.get(column, {}).get(group["value"], group["value"]),
                    "n": group["cases"],
                    "to_the_most_approved": round(rate / most, 4),
                    **{m: {k: rounded(v) for k, v in group["metrics"][m].items()} for m in METRICS},
                    "bundle": digest,
                }
            )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the README's table."""
    heads = (
        "set",
        "engine",
        "attribute",
        "group",
        "n",
        "approved",
        "of the most approved",
        "repay and not approved",
        "AUC",
    )
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        ratio = f"{row['to_the_most_approved']:.2f}"
        cells = [row["set"], row["engine"], row["attribute"].lower(), row["group"], f"{row['n']:,}"]
        cells += [_cell(row["approval_rate"]), f"**{ratio}**" if row["to_the_most_approved"] < 0.8 else ratio]
        lines.append("| " + " | ".join([*cells, _cell(row["false_denial_rate"]), _cell(row["auc"])]) + " |")
    return "\n".join(lines)


def _cell(found: dict[str, float | None]) -> str:
    if found["value"] is None:
        return ""
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser("python -m perf.fairness", description="Credit decisions by protected groups.")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="where the sets lie")
    parser.add_argument("--bundles", type=Path, default=ROOT / "var" / "results" / "bundles")
    chosen = parser.parse_args()
    load_metrics()
    sets = [one for one in load_pack(PACK).sets if audited(one)]
    rows = [row for one in sets for engine in ENGINE_NAMES for row in measure(one, engine, chosen.data, chosen.bundles)]
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    replace_marked(README, BEGIN, END, table(rows))


if __name__ == "__main__":
    main()
