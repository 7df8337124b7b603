"""One page for a person: what one specialist's traffic has been doing, and what may be believed of its labels."""

import html
import math
from collections.abc import Sequence
from typing import Any

from controlplane.report.sheet import sheet, table, verdict
from controlplane.report.svg import Points, lines


def page(found: Any) -> str:
    """Render an ``observe.v1.Observation`` as one HTML page that needs nothing else."""
    parts = [
        f"<p>{found.samples:,} samples and {found.outcomes:,} outcomes kept.</p>",
        _verdict(found),
        "<h2>Signals against their thresholds</h2><p>Each window's value as a share of the threshold it was held "
        "against: above 1 it stands out among all signals. Rings mark drift.</p>",
        _signals(found.readings),
        _latest(found.readings),
        "<h2>Scores over time</h2><p>From sketches of every request drawn by rate; the bands hold half and nine "
        "tenths of the scores.</p>",
        _scores(found.windows),
        "<h2>Decisions over time</h2>",
        _decisions(found.windows),
        "<h2>Texts over time</h2><p>How far the mean embedding has moved from the first window's, in units of that "
        "window's spread.</p>",
        _texts(found.windows),
        "<h2>Accuracy, estimated without labels</h2>",
        _estimates(found.estimates),
        "<h2>When outcomes come</h2>",
        _maturity(found),
        "<h2>Labels held back, contradictions, records not kept</h2>",
        _labels(found),
    ]
    return sheet(f"Drift of {found.specialist}", parts)


def _verdict(found: Any) -> str:
    last = found.readings[-1].at if found.readings else ""
    now = [r for r in found.readings if r.at == last]
    drifting = [r for r in now if r.verdict == "drift"]
    if not now:
        return verdict("No window has been judged yet.", "unknown")
    if drifting:
        names = ", ".join(r.signal for r in drifting)
        return verdict(f"Drift of {names}: {drifting[0].action}.", "drift")
    if any(r.verdict == "watch" for r in now):
        return verdict("A signal stands out, not yet for long enough to act.", "watch")
    return verdict("No drift in the newest window.", "no_drift")


def _signals(readings: Sequence[Any]) -> str:
    times = sorted({r.at for r in readings})
    place = {at: i for i, at in enumerate(times)}
    series: dict[str, list[tuple[float, float]]] = {}
    marks = []
    for r in readings:
        if r.threshold > 0 and math.isfinite(r.value):
            share = min(r.value / r.threshold, 3.0)
            series.setdefault(r.signal, []).append((place[r.at], share))
            if r.verdict == "drift":
                marks.append((place[r.at], share))
    drawn: dict[str, Points] = dict(series.items())
    ends = (times[0][:19], times[-1][:19]) if times else ("", "")
    return lines(drawn, x_labels=ends, y_label="share of threshold", marks=marks, bounds=(0.0, 3.0))


def _latest(readings: Sequence[Any]) -> str:
    last = readings[-1].at if readings else ""
    rows = [
        (r.signal, (r.verdict, r.verdict), _number(r.value), _number(r.threshold), r.action)
        for r in readings
        if r.at == last
    ]
    return table(("signal", "verdict", "value", "threshold", "what followed"), rows) if rows else ""


def _scores(windows: Sequence[Any]) -> str:
    rows = [(i, q) for i, w in enumerate(_main(windows)) for q in w.quantiles if q.name == "score"]
    return lines(
        {"median": [(i, q.p50) for i, q in rows]},
        bands={
            "nine tenths": [(i, q.p05, q.p95) for i, q in rows],
            "half": [(i, q.p25, q.p75) for i, q in rows],
        },
        x_labels=_ends(_main(windows)),
        y_label="score",
        bounds=(0.0, 1.0),
    )


def _decisions(windows: Sequence[Any]) -> str:
    main = _main(windows)
    shares = [next((dict(s.share) for s in w.shares if s.name == "decision"), {}) for w in main]
    names = sorted({name for found in shares for name in found})
    series: dict[str, Points] = {n: [(i, found.get(n, 0.0)) for i, found in enumerate(shares)] for n in names}
    return lines(series, x_labels=_ends(main), y_label="share", bounds=(0.0, 1.0))


def _texts(windows: Sequence[Any]) -> str:
    main = _main(windows)
    moved = [(float(i), w.embedding_shift) for i, w in enumerate(main) if w.embedded]
    return lines({"mean embedding": moved}, x_labels=_ends(main), y_label="distance")


def _estimates(estimates: Sequence[Any]) -> str:
    if not estimates:
        return "<p class='none'>None yet: the reference has too few known outcomes.</p>"
    last = estimates[-1]
    drawn = lines(
        {
            "estimated": [(i, e.value) for i, e in enumerate(estimates)],
            "realised, where known": [(i, e.realised) for i, e in enumerate(estimates)],
        },
        bands={"95 %": [(i, e.lower, e.upper) for i, e in enumerate(estimates)]},
        x_labels=(estimates[0].at[:19], last.at[:19]),
        y_label="accuracy",
        bounds=(0.0, 1.0),
    )
    words = {"yes": "The assumption holds", "no": "The assumption FAILS", "unknown": "The assumption cannot be checked"}
    return f"{drawn}<p class='{last.holds}'>{words[last.holds]}: {html.escape(last.why)}.</p>"


def _maturity(found: Any) -> str:
    said = found.maturity
    series: dict[str, Points] = {c.of: list(zip(c.age_s, c.arrived, strict=True)) for c in said.curves if c.age_s}
    if not series:
        return "<p class='none'>No outcome has come yet.</p>"
    longest = max(x for points in series.values() for x, _ in points)
    drawn = lines(series, x_labels=("0 s", f"{longest:,.0f} s"), y_label="share arrived", bounds=(0.0, 1.0))
    due = (
        f"Due after {said.due_s:,.1f} s. Of {said.matured:,} decisions older than that, "
        f"{said.censored_share:.1%} have no outcome; no metric sees those."
        if said.due_s
        else "Too few outcomes have come to say when one is due."
    )
    matured = found.matured
    metrics = (
        f"Over the {matured.known:,} whose outcome is known and due: accuracy {matured.accuracy:.1%}, "
        f"cost {matured.cost:.4f} a decision."
        if matured.known
        else ""
    )
    return f"{drawn}<p>{due} {metrics}</p>"


def _labels(found: Any) -> str:
    parts = []
    batches = [
        (b.source, b.day, f"{b.labels:,}", f"{b.unlearnable:.1%}", f"{b.expected:.1%}", (b.state, b.state))
        for b in found.label_batches
    ]
    if batches:
        parts.append("<h3>A day's labels, and how many of them the texts do not speak for</h3>")
        parts.append(table(("source", "day", "labels", "not learnable", "usually", "state"), batches))
    told = [
        (c.decision_id, c.in_force, ", ".join(f"{label} {n}x" for label, n in sorted(c.said.items())))
        for c in found.contradictions
    ]
    if told:
        parts.append("<h3>Decisions of which different outcomes were reported</h3>")
        parts.append(table(("decision", "in force", "said"), told))
    rows = [(k.reason, f"{k.records:,}", k.last[:19]) for k in found.not_kept]
    if rows:
        parts.append("<h3>Records not kept, all specialists</h3>")
        parts.append(table(("why", "records", "last"), rows))
    return "".join(parts) or "<p class='none'>None.</p>"


def _main(windows: Sequence[Any]) -> list[Any]:
    return [w for w in windows if w.arm == "primary"]


def _ends(windows: Sequence[Any]) -> tuple[str, str]:
    return (windows[0].start[:19], windows[-1].start[:19]) if windows else ("", "")


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"
