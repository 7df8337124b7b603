"""One page for a person: whether a rollout was right, what speaks for it, who let it through, how to check that."""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from controlplane.report import evidence_bundle as candidate
from controlplane.report import evidence_traffic as traffic
from controlplane.report.files import read_json
from controlplane.report.obligations import obligations
from controlplane.report.sheet import sheet, table, verdict
from controlplane.report.verify import Check
from controlplane.report.words import clock, compact, moment, share, short
from protos.contract.attestation import MEANING, Approval
from protos.contract.digest import parse_json_object

ENDED = {"primary": "good", "retired": "good", "rolled_back": "bad", "rejected": "bad"}
HOW = """interlock evidence verify FOLDER --plan-key plan.key.pub --operators operators.json --deployment {deployment}
interlock ledger verify --help    # the whole ledger, against a checkpoint that you kept"""


WORDS = (
    ("primary", "the model that answers callers"),
    ("candidate", "the model that may take its place"),
    ("control", "a simple, older kind of model trained on the same cases, which has to be beaten to be worth it"),
    ("shadow", "the candidate answers copies of requests; nobody sees its answers"),
    ("canary, baseline", "a small share of callers gets the candidate; as many of the primary's are compared"),
    ("gate", "a limit on measured harm that has to be shown kept before the next step"),
    ("interval", "where the true value lies, given how many cases there were"),
    ("digest", "a fingerprint: two files with the same one are the same file"),
    ("ledger", "the numbered, signed record of what was done; it cannot be changed unnoticed"),
)


def page(folder: Path, checks: Sequence[Check] | None) -> str:
    """Render what ``interlock evidence build`` wrote as one HTML page that needs nothing else.

    Args:
        folder: The whole evidence of a rollout.
        checks: What ``verify_evidence`` found, or None where nobody asked; said at the top either way.
    Raises:
        JsonMalformed, KeyError, OSError, ValueError: A file is missing or malformed.
    """
    manifest = read_json(folder / "manifest.json")
    steps = [(path.name.split(".")[0], path) for path in sorted((folder / "steps").glob("*"))]
    events = [parse_json_object(entry["body"].encode()) for entry in read_json(folder / "ledger.json")["entries"]]
    events = [e for e in events if e["detail"].get("rollout") == manifest["rollout"]]
    last = steps[-1][1] if steps else None
    parts = [_outcome(manifest), _checked(checks), _about(manifest)]
    if last is not None:
        parts += ["<h2>In short</h2>", _in_short(folder, last, manifest, events)]
    parts += [
        "<h2>How traffic moved</h2>",
        traffic.timeline(events),
        "<h2>Who let it through</h2>",
        _approvals(folder, manifest["rollout"]),
    ]
    if last is not None:
        parts += _judged(read_json(last / "evaluation.json"))
        parts += _watched(folder, last, steps, manifest["bundle"])
        parts += ["<h2>Where the candidate comes from</h2>", candidate.origin(last)]
    parts += [
        "<h2>The way back, rehearsed</h2>",
        _drill(folder),
        "<h2>What happened, entry by entry</h2>",
        _events(events),
        "<h2>What rules ask for, and where it is</h2><p>Files of this evidence; no legal advice.</p>",
        obligations(folder, last),
        "<h2>Words used here</h2>",
        table(("", ""), WORDS),
        "<h2>How to verify this</h2><p>On any machine, with no service running and no trust in the one that wrote it: "
        "only the public keys, from a source of your own.</p>",
        f"<pre>{html.escape(HOW.format(deployment=manifest['deployment']))}</pre>",
    ]
    return sheet(f"Evidence of rollout {manifest['rollout']}", parts)


def _judged(evaluation: dict[str, Any]) -> list[str]:
    """Say how the candidate did on cases that nobody trained on."""
    curves = candidate.calibration(evaluation)
    return [
        "<h2>Scores on cases kept away from training</h2>",
        candidate.answered_elsewhere(evaluation),
        candidate.scores(evaluation),
        *(["<h2>Does it know when it is right?</h2><p>Of cases where a model was 80 % sure, 80 % should be right: then "
           "dots lie on the dashed line. Larger dots are more cases.</p>", curves] if curves else []),
        "<h2>What the suite demanded</h2><p>Locked by digest before training.</p>",
        candidate.demands(evaluation),
        "<h2>Worst regressions</h2><p>Cases the primary had right and the candidate has wrong.</p>",
        candidate.regressions(evaluation),
    ]  # fmt: skip


def _watched(folder: Path, last: Path, steps: Sequence[tuple[str, Path]], bundle: str) -> list[str]:
    """Say what live traffic showed; what was measured to the rollout's end, where that was written."""

    def newest(name: str) -> dict[str, Any] | None:
        found = [path for path in (folder / name, last / name) if path.exists()]
        return read_json(found[0]) if found else None

    parts = []
    if (shadow := newest("shadow.json")) is not None:
        parts += ["<h2>Beside the primary, on the same requests</h2>", traffic.shadow(shadow)]
    if (arms := newest("canary.json")) is not None:
        parts += [
            "<h2>What callers got</h2><p>The canary's callers, and as many of the primary's, the baseline.</p>",
            traffic.arms(arms, bundle),
            "<h3>How sure each was, and how often right, on live traffic</h3>",
            traffic.live_reliability(arms),
        ]
    parts += [
        "<h2>Gates on live traffic</h2><p>Dots are measured, bars are intervals that stay valid however often "
        "they are looked at, red ticks are the limits. A step is taken only when every gate has passed.</p>",
        traffic.gates(steps),
    ]
    if (last / "drops.json").exists():
        parts += ["<h2>What was not recorded</h2>", traffic.drops(read_json(last / "drops.json"))]
    return [*parts, "<h2>Drift before it</h2>", traffic.drift(read_json(last / "drift.json"))]


def _in_short(folder: Path, last: Path, manifest: dict[str, Any], events: Sequence[dict[str, Any]]) -> str:
    """Say in a few sentences what a reader without the time for figures has to know."""
    evaluation, bundle = read_json(last / "evaluation.json"), read_json(last / "bundle.json")
    said = [f"What it does: {bundle['task']['description']}"]
    for part, models in evaluation["values"].items():
        right = {name: one["accuracy"]["value"] for name, one in models.items() if "accuracy" in one}
        if "candidate" in right:
            before = f", the primary before it in {share(right['primary'])}" if "primary" in right else ""
            said.append(
                f"On {evaluation['sizes'].get(part, 0):,} cases of “{part}” that nobody trained on, the candidate "
                f"is right in {share(right['candidate'])}{before}."
            )
    gates = [gate["passed"] for gate in evaluation["gates"]]
    said.append(
        f"{gates.count(True)} demands of the suite passed, {gates.count(False)} failed"
        + (f", {gates.count(None)} did not apply." if None in gates else ".")
    )
    people = sorted({e["actor"] for e in events if e["action"] == "approval.given"})
    said.append(f"Approved by {', '.join(people)}." if people else "Nobody has approved it.")
    if manifest["primary"]:
        said.append("The way back to the primary needed, and needs, nobody's further approval.")
    return f"<ul>{''.join(f'<li>{html.escape(one)}</li>' for one in said)}</ul>"


def _about(manifest: dict[str, Any]) -> str:
    specialist, deployment = html.escape(manifest["specialist"]), html.escape(manifest["deployment"])
    candidate, primary = short(manifest["bundle"]), short(manifest["primary"])
    return (
        f"<p>Specialist <b>{specialist}</b> of deployment {deployment}. "
        f"Candidate <code>{candidate}</code> in place of <code>{primary}</code>.</p>"
    )


def _outcome(manifest: dict[str, Any]) -> str:
    phase, reason = manifest["phase"], manifest["end_reason"]
    said = {
        "primary": "Promoted: the candidate answers all traffic.",
        "retired": "Promoted, and retired when another took its place.",
        "rolled_back": f"Rolled back: {reason}.",
        "rejected": f"Rejected: {reason}.",
    }.get(phase, f"Under way: {phase.replace('_', ' ')}.")
    if phase == "rolled_back" and manifest["rollback_ms"]:
        said += f" The primary was back {manifest['rollback_ms']:,} ms after the decision."
    return verdict(said, ENDED.get(phase, "waiting"))


def _checked(checks: Sequence[Check] | None) -> str:
    if checks is None:
        return verdict("Not verified: this page says what the files say. See the end for how to check them.", "waiting")
    good = bool(checks) and all(check.ok for check in checks)
    said = "Verified: every check below holds." if good else "NOT to be relied on: a check below fails."
    rows = [(c.name, ("ok", "good") if c.ok else ("FAILED", "bad"), c.detail) for c in checks]
    return verdict(said, "good" if good else "bad") + table(("check", "", "found"), rows)


def _approvals(folder: Path, rollout: str) -> str:
    found = []
    for path in sorted((folder / "approvals").glob("*.json")):
        payload = base64.b64decode(read_json(path)["payload"])
        approval = Approval.from_statement(payload)
        if approval.rollout == rollout:
            found.append(approval)
    if not found:
        return "<p class='none'>Nobody has approved anything.</p>"
    rows = [
        (a.person, a.step, f"{a.ceiling_bp / 100:g} %", moment(a.not_before), moment(a.expires), a.reason)
        for a in sorted(found, key=lambda a: (a.not_before, a.person))
    ]
    said = f"<p>Each signed: “{html.escape(MEANING)}.”</p>"
    return said + table(("person", "step", "up to", "signed", "valid until", "reason, as typed"), rows)


def _drill(folder: Path) -> str:
    path = folder / "drill.json"
    drills = read_json(path).get("drills", []) if path.exists() else []
    rows = [tuple(compact(value) for value in drill.values()) for drill in drills]
    return table(tuple(drills[0]), rows) if rows else "<p class='none'>Not rehearsed for this rollout.</p>"


def _events(events: Iterable[dict[str, Any]]) -> str:
    hidden = {"rollout", "gates", "approvals", "bundle", "evidence"}
    rows = [
        (e["seq"], clock(e["at"]), e["actor"], e["action"], ", ".join(
            f"{k} {compact(v)}" for k, v in e["detail"].items() if k not in hidden
        ))
        for e in events
    ]  # fmt: skip
    return table(("entry", "at", "who", "what", ""), rows)
