"""One page for a person: whether a rollout was right, what speaks for it, who let it through, how to check that."""

import base64
import html
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from controlplane.report.files import read_json
from controlplane.report.sheet import sheet, table, verdict
from controlplane.report.svg import COLOURS, Span, legend, lines, spans
from controlplane.report.verify import Check
from protos.contract.attestation import Approval
from protos.contract.digest import parse_json_object

MODELS = ("primary", "candidate", "control")
NAMES = {"primary": "primary before", "candidate": "candidate", "control": "classical control"}
ENDED = {"primary": "good", "retired": "good", "rolled_back": "bad", "rejected": "bad"}
# On one scale from 0 to 1; costs and times are told in the table.
DRAWN = ("accuracy", "macro_f1", "weighted_f1", "auc", "average_precision")
HOW = """interlock evidence verify FOLDER --plan-key plan.key.pub --operators operators.json --deployment {deployment}
interlock ledger verify --help    # the whole ledger, against a checkpoint that you kept"""


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
    parts = [
        _outcome(manifest),
        _checked(checks),
        _about(manifest),
        "<h2>How traffic moved</h2>",
        _timeline(events),
        "<h2>Who let it through</h2>",
        _approvals(folder, manifest["rollout"]),
    ]
    if steps:
        last = steps[-1][1]
        evaluation = read_json(last / "evaluation.json")
        parts += [
            "<h2>Scores on cases kept away from training</h2>",
            _scores(evaluation),
            "<h2>What the suite demanded</h2><p>Locked by digest before training.</p>",
            _demands(evaluation),
            "<h2>Worst regressions</h2><p>Cases the primary had right and the candidate has wrong.</p>",
            _regressions(evaluation),
            "<h2>Watched on live traffic</h2><p>Dots are measured, bars are intervals that stay valid however often "
            "they are looked at, red ticks are the limits.</p>",
            _gates(steps),
            "<h2>Drift before it</h2>",
            _drift(last),
            "<h2>Where the candidate comes from</h2>",
            _origin(last),
        ]
    parts += [
        "<h2>The way back, rehearsed</h2>",
        _drill(folder),
        "<h2>What happened, entry by entry</h2>",
        _events(events),
        "<h2>How to verify this</h2><p>On any machine, with no service running and no trust in the one that wrote it: "
        "only the public keys, from a source of your own.</p>",
        f"<pre>{html.escape(HOW.format(deployment=manifest['deployment']))}</pre>",
    ]
    return sheet(f"Evidence of rollout {manifest['rollout']}", parts)


def _about(manifest: dict[str, Any]) -> str:
    specialist, deployment = html.escape(manifest["specialist"]), html.escape(manifest["deployment"])
    candidate, primary = _short(manifest["bundle"]), _short(manifest["primary"])
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


def _timeline(events: Sequence[dict[str, Any]]) -> str:
    """Draw the candidate's share of live and of shadowed traffic over time."""
    live: list[tuple[float, float]] = []
    shadow: list[tuple[float, float]] = []
    for event in events:
        detail, at = event["detail"], _seconds(event["at"])
        share = {
            "rollout.shadowing": 0.0,
            "rollout.shifted": detail.get("canary_bp", 0) / 100,
            "rollout.promoted": 100.0,
            "rollout.rolled_back": 0.0,
            "rollout.rejected": 0.0,
        }.get(event["action"])
        if share is None:
            continue
        ended = event["action"] in ("rollout.promoted", "rollout.rolled_back", "rollout.rejected")
        copied = 0.0 if ended else detail.get("shadow_bp", (shadow[-1][1] * 100) if shadow else 0) / 100
        for found, value in ((live, share), (shadow, copied)):
            if found:
                found.append((at, found[-1][1]))
            found.append((at, value))
    if not live:
        return "<p class='none'>No traffic has moved.</p>"
    first, last = live[0][0], live[-1][0]
    end = last + max((last - first) * 0.08, 1.0)
    for found in (live, shadow):
        found.append((end, found[-1][1]))
    ends = (_moment(first), _moment(last))
    return lines({"answers, %": live, "is shadowed, %": shadow}, x_labels=ends, y_label="share", bounds=(0.0, 100.0))


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
        (a.person, a.step, f"{a.ceiling_bp / 100:g} %", _moment(a.not_before), _moment(a.expires), a.reason)
        for a in sorted(found, key=lambda a: (a.not_before, a.person))
    ]
    return table(("person", "step", "up to", "signed", "valid until", "reason, as typed"), rows)


def _scores(evaluation: dict[str, Any]) -> str:
    parts = []
    for part, models in evaluation["values"].items():
        present = [m for m in MODELS if m in models]
        names = list(models["candidate"])
        rows = [
            Span(
                f"{name} {NAMES[model]}",
                _value(models[model][name]),
                *_interval(models[model][name]),
                colour=COLOURS[MODELS.index(model)],
            )
            for name in names
            if name in DRAWN
            for model in present
            if name in models[model]
        ]
        parts.append(f"<h3>{html.escape(part)}, {evaluation['sizes'].get(part, 0):,} cases</h3>")
        parts.append(spans(rows, bounds=(0.0, 1.0)) + legend([NAMES[m] for m in MODELS]))
        told = [(name, *(_told(models[m].get(name)) for m in present)) for name in names]
        parts.append(table(("metric", *(NAMES[m] for m in present)), told))
    return "".join(parts)


def _demands(evaluation: dict[str, Any]) -> str:
    words = {True: ("pass", "good"), False: ("FAIL", "bad"), None: ("not asked", "none")}
    rows = [
        (words[gate["passed"]], gate["text"], _number(gate["found"]), _between(gate["low"], gate["high"]))
        for gate in evaluation["gates"]
    ]
    return table(("", "demand", "found", "interval"), rows)


def _regressions(evaluation: dict[str, Any]) -> str:
    share = evaluation["regressions_share"]
    if share is None:
        return "<p class='none'>There was no primary to compare with.</p>"
    said = f"<p>{share:.1%} of the cases; those that cost most:</p>"
    rows = [
        (
            case["text"],
            case["label"],
            case["primary_decision"],
            case["candidate_decision"],
            f"{case['added_cost']:+.3f}",
        )
        for case in evaluation["worst_regressions"]
    ]
    return said + (table(("case", "truth", "primary", "candidate", "added cost"), rows) if rows else "")


def _gates(steps: Iterable[tuple[str, Path]]) -> str:
    parts = []
    for step, path in steps:
        gates = read_json(path / "gates.json")["gates"]
        if not gates:
            continue
        rows = [
            Span(g["gate"], _or_nan(g["value"]), g["lower"], g["upper"], g["limit"], _colour(g["verdict"]))
            for g in gates
        ]
        told = [
            (g["gate"], (g["verdict"], _style(g["verdict"])), _number(g["value"]), _between(g["lower"], g["upper"]),
             _number(g["limit"]), g["sample"])
            for g in gates
        ]  # fmt: skip
        parts.append(f"<h3>before the approval of: {html.escape(step)}</h3>{spans(rows)}")
        parts.append(table(("gate", "verdict", "value", "interval", "limit", "sample"), told))
    return "".join(parts) or "<p class='none'>Nothing was watched: there was no traffic to compare.</p>"


def _drift(step: Path) -> str:
    readings = read_json(step / "drift.json")["readings"]
    rows = [
        (
            r["at"][:19],
            r["signal"],
            (r["verdict"], r["verdict"]),
            _number(r["value"]),
            _number(r["threshold"]),
            r["action"],
        )
        for r in readings
    ]
    return (
        table(("at", "signal", "verdict", "value", "threshold", "what followed"), rows)
        if rows
        else ("<p class='none'>No reading of the primary's traffic.</p>")
    )


def _origin(step: Path) -> str:
    bundle = read_json(step / "bundle.json")
    facts = {
        **bundle["lineage"],
        "backend": bundle["engine"].get("backend"),
        **{f"base {k}": v for k, v in bundle["base"].items()},
    }
    rows = [(name, value if isinstance(value, str) else _compact(value)) for name, value in facts.items()]
    return table(("what", ""), rows)


def _drill(folder: Path) -> str:
    path = folder / "drill.json"
    drills = read_json(path).get("drills", []) if path.exists() else []
    rows = [tuple(_compact(value) for value in drill.values()) for drill in drills]
    return table(tuple(drills[0]), rows) if rows else "<p class='none'>Not rehearsed for this rollout.</p>"


def _events(events: Iterable[dict[str, Any]]) -> str:
    hidden = {"rollout", "gates", "approvals", "bundle", "evidence"}
    rows = [
        (e["seq"], e["at"][:19], e["actor"], e["action"], ", ".join(
            f"{k} {_compact(v)}" for k, v in e["detail"].items() if k not in hidden
        ))
        for e in events
    ]  # fmt: skip
    return table(("entry", "at", "who", "what", ""), rows)


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _short(digest: str | None) -> str:
    return "no primary" if digest is None else html.escape(digest.removeprefix("sha256:")[:12])


def _compact(value: Any) -> str:
    text = str(value)
    return text[:19] if text.startswith("sha256:") else text[:200]


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _value(said: dict[str, Any]) -> float:
    return _or_nan(said["value"])


def _interval(said: dict[str, Any]) -> tuple[float | None, float | None]:
    found = said["interval"]
    return (None, None) if found is None else (found["low"], found["high"])


def _told(said: dict[str, Any] | None) -> str:
    if said is None or said["value"] is None:
        return ""
    low, high = _interval(said)
    return _number(said["value"]) + ("" if low is None else f" ({_between(low, high)})")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"


def _style(word: str) -> str:
    return {"pass": "good", "fail": "bad"}.get(word, "waiting")


def _colour(word: str) -> str:
    return {"pass": COLOURS[2], "fail": COLOURS[3]}.get(word, COLOURS[1])
