"""What live traffic said, as a page of evidence shows it."""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from controlplane.report.files import read_json
from controlplane.report.sheet import table
from controlplane.report.svg import COLOURS, Span, grid, lines, reliability, spans
from controlplane.report.words import between, clock, moment, nan_for_none, number, seconds, share

MOST_TIMES = 3.0  # a reading further beyond its threshold is drawn there


def timeline(events: Sequence[dict[str, Any]]) -> str:
    """Draw the candidate's share of live and of shadowed traffic over time."""
    live: list[tuple[float, float]] = []
    shadow: list[tuple[float, float]] = []
    for event in events:
        detail, at = event["detail"], seconds(event["at"])
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
    ends = (moment(first), moment(last))
    series = {"the candidate answers": live, "it is shadowed with": shadow}
    return lines(series, x_labels=ends, y_label="share, %", bounds=(0.0, 100.0))


def gates(steps: Iterable[tuple[str, Path]]) -> str:
    """Show every gate's interval around its limit, step by step."""
    parts = []
    for step, path in steps:
        gates = read_json(path / "gates.json")["gates"]
        if not gates:
            continue
        rows = [
            Span(g["gate"], nan_for_none(g["value"]), g["lower"], g["upper"], g["limit"], _colour(g["verdict"]))
            for g in gates
        ]
        told = [
            (g["gate"], (g["verdict"], _style(g["verdict"])), number(g["value"]), between(g["lower"], g["upper"]),
             number(g["limit"]), g["sample"])
            for g in gates
        ]  # fmt: skip
        parts.append(f"<h3>before the approval of: {html.escape(step)}</h3>{spans(rows)}")
        parts.append(table(("gate", "verdict", "value", "interval", "limit", "sample"), told))
    return "".join(parts) or "<p class='none'>Nothing was watched: there was no traffic to compare.</p>"


def shadow(found: dict[str, Any]) -> str:
    """Show what the candidate would have decided on the same requests."""
    if not found["pairs"]:
        return "<p class='none'>The candidate shadowed nobody.</p>"
    counts = {(one["primary"], one["candidate"] or "no answer"): one["pairs"] for one in found["decisions"]}
    names = sorted({name for pair in counts for name in pair})
    differ = sum(n for (a, b), n in counts.items() if a != b)
    parts = [
        f"<p>Both answered the same {found['pairs']:,} requests; callers saw the primary's answer. They decided "
        f"differently in {differ:,} ({share(differ / found['pairs'])}), red below.</p>",
        "<div class='side'><div>",
        grid([n for n in names if n != "no answer"], names, counts, "primary, candidate →"),
        "</div><div>",
        table(("measure", "value", "interval"), _measures(found)),
        "</div></div>",
    ]
    if found["failures"]:
        parts.append(table(("no answer because of", "times"), sorted(found["failures"].items())))
    return "".join(parts)


def _measures(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    names = {
        "in_time": "would have been in time",
        "slower": "slower than the primary",
        "known_cost": "added cost, where the truth is known",
        "expected_cost_by_primary": "added cost, by the primary's own odds",
        "expected_cost_by_candidate": "added cost, by the candidate's own odds",
    }
    return [
        (name, number(one["value"]), f"{between(one['lower'], one['upper'])} ({one['sample']:,})")
        for key, name in names.items()
        if (one := found[key])["sample"]
    ]


def arms(found: dict[str, Any], candidate: str) -> str:
    """Show what each share of callers got."""
    if not found["arms"]:
        return "<p class='none'>No callers were counted.</p>"
    rows = [
        (
            f"{one['arm']}, {'candidate' if one['bundle'] == candidate else 'bundle before'}",
            f"{one['requests']:,}",
            _of(one["unanswered"], one["requests"]),
            _of(one["late"], one["requests"]),
            f"{one['p50_ms']:g}",
            f"{one['p99_ms']:g}",
        )
        for one in found["arms"]
    ]
    return table(("callers", "requests", "without its answer", "late", "p50 ms, at most", "p99 ms, at most"), rows)


def live_reliability(found: dict[str, Any]) -> str:
    """Draw how sure bundles were against how often they were right, where the truth came in."""
    curves = {name: _points(found["reliability"].get(name, ())) for name in ("primary", "candidate")}
    curves = {name: points for name, points in curves.items() if points}
    return reliability(curves) if curves else "<p class='none'>No truth has come in yet.</p>"


def drops(found: dict[str, Any]) -> str:
    """Show what was not recorded, and why."""
    flow = found["shadow"]
    said = (
        f"<p>Of {flow['offered']:,} requests drawn for the shadow both answered {flow['paired']:,}, all recorded.</p>"
    )
    rows = [("shadow", cause, f"{n:,}") for cause, n in flow["by_cause"].items()]
    rows += [("capture, all specialists", cause, f"{n:,}") for cause, n in found["capture"].items()]
    return said + (
        table(("lost from", "because", "records"), rows) if rows else "<p class='good'>Nothing was lost.</p>"
    )


def drift(found: dict[str, Any]) -> str:
    """Draw every signal against its threshold, and say what it led to."""
    readings, budget = found["readings"], found["budget"]
    if not readings:
        return "<p class='none'>No reading of the primary's traffic.</p>"
    times = sorted({r["at"] for r in readings})
    place = {at: i for i, at in enumerate(times)}
    series: dict[str, list[tuple[float, float]]] = {}
    for r in readings:
        if r["value"] is not None and r["threshold"] > 0:
            point = (float(place[r["at"]]), min(r["value"] / r["threshold"], MOST_TIMES))
            series.setdefault(r["signal"], []).append(point)
    drawn = lines(
        dict(series.items()),
        x_labels=(clock(times[0]), clock(times[-1])),
        y_label="times its threshold",
        bounds=(0.0, MOST_TIMES),
        level=1.0,
    )
    rows = [_signal(name, [r for r in readings if r["signal"] == name]) for name in series]
    said = (
        f"<p>Windows of {budget['window']} requests against the {budget['reference']} that the primary began with; "
        f"{share(budget['false_alarm_rate'])} of unchanged windows may stand out by chance. Above 1 a signal "
        "stands out; a dot is a window.</p>"
    )
    told = table(("signal", "at the end", "drift first seen", "windows in drift", "highest"), rows)
    return said + drawn + told + _retraining(found["retraining"])


def _signal(name: str, readings: Sequence[dict[str, Any]]) -> tuple[Any, ...]:
    drifting = [r for r in readings if r["verdict"] == "drift"]
    last = readings[-1]["verdict"]
    highest = max(r["value"] / r["threshold"] for r in readings if r["value"] is not None and r["threshold"] > 0)
    first = clock(drifting[0]["at"]) if drifting else ""
    times = f"{highest:.1f} times its threshold"
    return name, (last.replace("_", " "), last), first, f"{len(drifting)} of {len(readings)}", times


def _retraining(found: Sequence[dict[str, Any]]) -> str:
    rows = [
        (d["at"][:19], d["trigger"], ("retrained", "good") if d["job"] else ("not", "none"), d["reason"]) for d in found
    ]
    if not rows:
        return ""
    return "<h3>Whether to retrain, as it was decided</h3>" + table(("at", "asked by", "", "because"), rows)


def _points(found: Iterable[dict[str, Any]]) -> list[tuple[float, float, int]]:
    return [(one["sure"], one["right"], one["cases"]) for one in found]


def _of(n: int, total: int) -> str:
    return f"{n:,} ({share(n / total)})" if total else "0"


def _style(word: str) -> str:
    return {"pass": "good", "fail": "bad"}.get(word, "waiting")


def _colour(word: str) -> str:
    return {"pass": COLOURS[2], "fail": COLOURS[3]}.get(word, COLOURS[1])
