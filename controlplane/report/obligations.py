"""Where a folder of evidence answers what rules for models, medicine and banks ask to be shown.

Sources: Regulation (EU) 2024/1689 (AI Act), Annex IV and articles 12 and 14; 21 CFR Part 11; the supervisory
guidance on model risk management (SR letters). A pointer to files and no legal advice.
"""

from pathlib import Path

from controlplane.report.sheet import table

# (rule, what it asks, files that answer it, in the folder or in its last step)
ASKED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("AI Act, Annex IV 1", "what the system does and what it runs on", ("bundle.json", "mlbom.cdx.json")),
    (
        "AI Act, Annex IV 2",
        "how it was made, data and their origin",
        ("provenance.intoto.json", "data.json", "training.json"),
    ),
    (
        "AI Act, Annex IV 2 (g)",
        "validation, metrics, test reports, signed and dated",
        ("evaluation.json", "test-result.intoto.json", "suite.json"),
    ),
    (
        "AI Act, Annex IV 3",
        "limits, monitoring and control of its working",
        ("shadow.json", "canary.json", "gates.json"),
    ),
    ("AI Act, Annex IV 6", "changes over its life", ("plans", "ledger.json")),
    ("AI Act, Annex IV 9", "watching it after it is in use", ("drift.json", "drops.json")),
    ("AI Act, article 12", "events recorded without a person's doing", ("ledger.json",)),
    ("AI Act, article 14", "a person who can decide, stop and go back", ("approvals", "operators.json", "drill.json")),
    ("21 CFR 11.10 (e)", "a dated trail that never overwrites", ("ledger.json",)),
    ("21 CFR 11.50", "a signer's name, the time, and what signing meant", ("approvals",)),
    ("21 CFR 11.70", "signatures that cannot be moved to another record", ("approvals", "manifest.json")),
    ("model risk", "conceptual soundness", ("bundle.json", "data.json", "provenance.intoto.json")),
    ("model risk", "validation by others than its makers", ("evaluation.json", "approvals")),
    ("model risk", "outcomes analysis", ("shadow.json", "canary.json")),
    ("model risk", "ongoing monitoring", ("drift.json",)),
    ("model risk", "change control", ("plans", "approvals", "ledger.json")),
)


def obligations(folder: Path, step: Path | None) -> str:
    """Show which files of a folder answer what; where none is there, that is said."""
    rows = []
    for rule, asked, names in ASKED:
        places = [folder, *([step] if step is not None else [])]
        there = [name for name in names if any((place / name).exists() for place in places)]
        rows.append((rule, asked, ", ".join(there) if there else ("nothing here", "none")))
    return table(("rule", "asks for", "answered by"), rows)
