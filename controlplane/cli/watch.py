"""``interlock rollout watch``: a rollout, live: weights, gates, latency per arm, drops, who is missing."""

import json
import time
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from controlplane.cli.connection import CONTROL, ControlOption, control_at, governance_at
from controlplane.cli.output import JsonFlag, as_dict, command, console, marked, percent, say_json, short, table
from controlplane.cli.rollout import COLOURS, Rollout, counts
from controlplane.cli.rollout import app as app
from protos import control_pb2 as pb
from protos import governance_pb2

BAR = 32  # characters


@app.command("watch")
@command
def watch(
    rollout: Rollout,
    interval: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Follow a rollout until it ends."""
    with control_at(control) as server, governance_at(control) as governance:
        seen = _look(server, governance, rollout)
        if as_json:
            say_json({name: _plain(value) for name, value in seen.items()})
            return
        if once:
            console().print(screen(seen), soft_wrap=False)
            return
        with Live(screen(seen), console=console(), auto_refresh=False) as live:
            while not seen["rollout"].ended_at:
                time.sleep(interval)
                seen = _look(server, governance, seen["rollout"].id)
                live.update(screen(seen), refresh=True)


def _look(server: Any, governance: Any, name: str) -> dict[str, Any]:
    found = server.GetRollout(pb.GetRolloutRequest(id=name))
    return {
        "rollout": found,
        "arms": governance.GetArms(governance_pb2.GetArmsRequest(rollout=found.id)),
        "plans": server.GetPlanStatus(pb.GetPlanStatusRequest()),
        "people": json.loads(governance.GetOperators(governance_pb2.GetOperatorsRequest()).operators_json),
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, dict) else as_dict(value)


def screen(seen: dict[str, Any]) -> RenderableType:
    """Draw everything known of a rollout."""
    r: pb.Rollout = seen["rollout"]
    title = f"{r.id}: {r.phase}{' (held)' if r.held else ''}"
    parts: list[RenderableType] = [_weights(r), _gates(r), _arms(seen["arms"]), _people(r, seen["people"])]
    drops = ", ".join(f"{cause} {n}" for cause, n in sorted(seen["arms"].drops.items())) or "none"
    parts.append(marked(f"drops since the gateways started: {drops}", ""))
    status: pb.PlanStatus = seen["plans"]
    for gateway in status.gateways:
        late = "" if gateway.generation >= status.generation else f", behind plan {status.generation}"
        refused = f", refused {gateway.refusals}: {gateway.last_refusal[:60]}" if gateway.refusals else ""
        parts.append(marked(f"gateway {gateway.gateway_id} on plan {gateway.generation}{late}{refused}", ""))
    if r.end_reason or r.waiting_for:
        parts.append(marked(f"ended: {r.end_reason}" if r.end_reason else r.waiting_for, "bold"))
    return Panel(Group(*parts), title=marked(title, "bold"), title_align="left")


def _weights(r: pb.Rollout) -> RenderableType:
    filled = round(BAR * r.canary_bp / 10_000)
    shadow = round(BAR * r.shadow_bp / 10_000)
    stages = " → ".join(percent(s) for s in r.stages_bp)
    lines = [
        Text.assemble(
            ("█" * filled, "green"), ("░" * (BAR - filled), "dim"), f"  canary {percent(r.canary_bp)} of {stages}"
        ),
        Text.assemble(("▒" * shadow, "cyan"), ("░" * (BAR - shadow), "dim"), f"  shadow {percent(r.shadow_bp)}"),
    ]
    return Group(marked(f"{short(r.primary_digest) or 'none'} → {short(r.candidate_digest)}", ""), *lines)


def interval_bar(lower: float, upper: float, value: float, limit: float) -> Text:
    """Draw an interval on a scale around its limit: │ is the limit, ● what was seen, ━ what is not ruled out."""
    reach = max(abs(lower - limit), abs(upper - limit), 1e-9)

    def place(x: float) -> int:
        return max(0, min(BAR - 1, round((x - limit + reach) / (2 * reach) * (BAR - 1))))

    cells = [" "] * BAR
    for at in range(place(lower), place(upper) + 1):
        cells[at] = "━"
    cells[place(limit)] = "│"
    cells[place(value)] = "●"
    return Text("".join(cells))


def _gates(r: pb.Rollout) -> Table:
    drawn = table("", ("gate", "", "value", "interval around the limit │", "limit", "sample", "still needed"), [])
    for g in r.gates:
        bar = interval_bar(g.lower, g.upper, g.value, g.limit)
        bar.stylize(COLOURS.get(g.verdict, ""))
        missing = str(g.sample_missing) if g.sample_missing else ("" if g.verdict != "not_yet" else "unknown")
        drawn.add_row(
            marked(g.gate, ""),
            marked(g.verdict.replace("_", " "), COLOURS.get(g.verdict, "")),
            f"{g.value:+.4f}",
            bar,
            f"{g.limit:.4f}",
            str(g.sample),
            missing,
        )
    return drawn


def _arms(found: governance_pb2.Arms) -> Table:
    rows = [
        (
            a.arm,
            short(a.bundle_digest),
            a.requests,
            f"{a.p50_ms:g}" if a.p50_ms else "",
            f"{a.p99_ms:g}" if a.p99_ms else "",
            a.unanswered,
            a.late,
        )
        for a in found.arms
    ]
    return table("", ("arm", "bundle", "requests", "p50 ms ≤", "p99 ms ≤", "unanswered", "late"), rows)


def _people(r: pb.Rollout, people: dict[str, Any]) -> RenderableType:
    given = [a for a in r.approvals if not r.needs_approval_for or a.step == r.needs_approval_for]
    have = {a.person for a in given if not a.void_reason}
    lines = [f"approved by {a.person} up to {percent(a.ceiling_bp)}, counts {counts(a)}: {a.reason}" for a in given]
    if r.needs_approval_for:
        may = [p["person"] for p in people["people"] if "approver" in p["roles"] and p["person"] not in have]
        missing = max(0, r.required_approvals - len(have))
        if missing:
            of = ", ".join(may) or "nobody enrolled"
            lines.append(f"the step {r.needs_approval_for} waits for {missing} more of: {of}")
    return marked("\n".join(lines) or "nobody was asked yet", "yellow" if r.needs_approval_for else "")
