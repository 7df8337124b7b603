"""``interlock rollout``: a candidate's way to the primary, and a person's word on it."""

import json
import os
import time
import uuid
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live

from controlplane.cli.connection import CONTROL, GATEWAY, ControlOption, control_at, governance_at
from controlplane.cli.drafts import reviewed, seconds_of
from controlplane.cli.local import roll_back_at
from controlplane.cli.output import (
    WRONG_USE,
    JsonFlag,
    Problem,
    as_dict,
    command,
    console,
    marked,
    minute,
    percent,
    say,
    say_json,
    short,
    table,
)
from controlplane.cli.signing import check_key
from controlplane.cli.specialist import POLL_S, OperationOption
from protos import control_pb2 as pb
from protos import governance_pb2

app = typer.Typer(help="Rollouts: start, watch, approve, stop.", no_args_is_help=True)
Rollout = Annotated[str, typer.Argument(help="A rollout's id, or a specialist: its open rollout, else its last.")]
Person = Annotated[str, typer.Option("--as", help="Who says so.")]
Reason = Annotated[str, typer.Option(help="Why, for the ledger.")]
DRILL_TIMEOUT_S = 30.0
COLOURS = {"pass": "green", "fail": "red", "not_yet": "yellow", "error": "magenta"}


@app.command("list")
@command
def listed(
    specialist: Annotated[str, typer.Argument(help="Of one specialist.")] = "",
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """List rollouts."""
    with control_at(control) as server:
        found = server.ListRollouts(pb.ListRolloutsRequest(specialist=specialist)).rollouts
    if as_json:
        say_json([as_dict(r) for r in found])
        return
    rows = [
        (
            r.id,
            r.phase + (" (held)" if r.held else ""),
            short(r.candidate_digest),
            percent(r.canary_bp),
            r.end_reason,
        )
        for r in found
    ]
    say(table("", ("rollout", "phase", "candidate", "canary", "ended because"), rows))


@app.command("start")
@command
def start(
    specialist: Annotated[str, typer.Argument(help="The specialist.")],
    bundle: Annotated[str, typer.Argument(help="Digest of a bundle; one nobody judged yet is evaluated first.")],
    person: Person,
    operation_id: OperationOption = "",
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Open a rollout; once evaluated it shadows, and stays there until people approve."""
    request = pb.StartRolloutRequest(
        specialist=specialist, bundle_digest=bundle, started_by=person, operation_id=operation_id or uuid.uuid4().hex
    )
    with control_at(control) as server:
        show(server.StartRollout(request), as_json)


@app.command("status")
@command
def status(
    rollout: Rollout,
    watch: Annotated[bool, typer.Option(help="Keep looking until it ends or waits for a person.")] = False,
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Show where a rollout stands, its gates, and what it waits for."""
    with control_at(control) as server:
        found = server.GetRollout(pb.GetRolloutRequest(id=rollout))
        if watch:
            with nullcontext() if as_json else Live(_table(found), console=console(), transient=True) as live:
                while not found.ended_at and not found.needs_approval_for:
                    time.sleep(POLL_S)
                    found = server.GetRollout(pb.GetRolloutRequest(id=found.id))
                    if live is not None:
                        live.update(_table(found))
        show(found, as_json)


@app.command("approve")
@command
def approve(
    rollout: Rollout,
    key: Annotated[Path, typer.Option(help="Your private key: Ed25519 in PEM, or OpenSSH's (ssh-keygen signs).")],
    person: Annotated[str, typer.Option(help="You, as enrolled.")],
    reason: Annotated[str, typer.Option(help="Why, for the record; asked for when missing.")] = "",
    ceiling: Annotated[int, typer.Option(min=0, max=10_000, help="Most basis points; 0 takes the step's last.")] = 0,
    valid_for: Annotated[str, typer.Option(help="30m, 1h, 2d; at most 30d.")] = "1h",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; needs --reason.")] = False,
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Read what the next step rests on, and sign a statement that allows it."""
    if as_json and not yes:
        raise Problem("--json cannot ask, expected --yes beside it", "INVALID_ARGUMENT", WRONG_USE)
    if yes and not reason:
        raise Problem("--yes asks nothing, expected --reason beside it", "INVALID_ARGUMENT", WRONG_USE)
    seconds = seconds_of(valid_for)
    check_key(key)
    with control_at(control) as server:
        draft = server.DraftApproval(pb.DraftApprovalRequest(rollout=rollout, ceiling_bp=ceiling))
        review = reviewed(draft, rollout, ceiling)
        if not as_json:
            say(draft.summary, f"evidence {draft.evidence_path}", review.shown(valid_for))
        if not yes:
            reason = reason or typer.prompt("Why (recorded with your name)")
            if not typer.confirm(f"Approve as {person}?"):
                raise Problem("nothing was signed", "CANCELLED")
        envelope = review.signed(key, person, reason, seconds)
        show(server.SubmitApproval(pb.SubmitApprovalRequest(rollout=draft.rollout, envelope=envelope)), as_json)


@app.command("reject")
@command
def reject(
    rollout: Rollout, person: Person, reason: Reason, control: ControlOption = CONTROL, as_json: JsonFlag = False
) -> None:
    """End a rollout that has not reached callers."""
    with control_at(control) as server:
        show(server.RejectRollout(pb.RolloutCommand(rollout=rollout, person=person, reason=reason)), as_json)


@app.command("hold")
@command
def hold(
    rollout: Rollout, person: Person, reason: Reason, control: ControlOption = CONTROL, as_json: JsonFlag = False
) -> None:
    """Keep a rollout where it is; harm still rolls it back."""
    with control_at(control) as server:
        show(server.HoldRollout(pb.RolloutCommand(rollout=rollout, person=person, reason=reason)), as_json)


@app.command("resume")
@command
def resume(
    rollout: Rollout, person: Person, reason: Reason, control: ControlOption = CONTROL, as_json: JsonFlag = False
) -> None:
    """Let a held rollout go on."""
    with control_at(control) as server:
        show(server.ResumeRollout(pb.RolloutCommand(rollout=rollout, person=person, reason=reason)), as_json)


@app.command("rollback")
@command
def rollback(
    rollout: Rollout,
    person: Person,
    reason: Reason,
    local: Annotated[bool, typer.Option("--local", help="At the gateways themselves, control plane or not.")] = False,
    gateway: Annotated[list[str] | None, typer.Option(help="With --local: address of a gateway; repeatable.")] = None,
    key: Annotated[Path | None, typer.Option(help="With --local: your private key.")] = None,
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Return every request to the previous primary, at once."""
    if not local and (gateway or key):
        raise Problem("--gateway and --key go with --local", "INVALID_ARGUMENT", WRONG_USE)
    if local and key is None:
        raise Problem("--local is signed by you, expected --key", "INVALID_ARGUMENT", WRONG_USE)
    if local and key is not None:
        roll_back_at(gateway or [os.environ.get("INTERLOCK_GATEWAY", GATEWAY)], rollout, person, reason, key, as_json)
        return
    with control_at(control) as server:
        show(server.RollBack(pb.RolloutCommand(rollout=rollout, person=person, reason=reason)), as_json)


@app.command("drill")
@command
def drill(rollout: Rollout, person: Person, control: ControlOption = CONTROL, as_json: JsonFlag = False) -> None:
    """Rehearse the way back on every gateway while the candidate only shadows, and measure it."""
    with governance_at(control) as server:
        found = server.Drill(governance_pb2.DrillRequest(rollout=rollout, person=person), timeout=DRILL_TIMEOUT_S)
    if as_json:
        say_json(as_dict(found))
    else:
        say(f"{found.rollout}: back on the primary in {found.took_ms} ms on {', '.join(found.gateways)}")


@app.command("history")
@command
def history(rollout: Rollout, control: ControlOption = CONTROL, as_json: JsonFlag = False) -> None:
    """Show what the ledger says of a rollout."""
    with control_at(control) as server:
        found = server.GetHistory(pb.GetHistoryRequest(rollout=rollout)).entries
    show_entries(found, as_json)


def show_entries(found: Any, as_json: bool) -> None:
    """Print ledger entries."""
    rows = [{**as_dict(e), "detail": json.loads(e.detail_json)} for e in found]
    for row in rows:
        del row["detail_json"], row["body"]
    if as_json:
        say_json(rows)
        return
    cells = [(r["seq"], r["at"][:23], r["actor"], r["action"], _plain(r["detail"])) for r in rows]
    say(table("", ("seq", "at", "actor", "action", "detail"), cells))


def _plain(detail: dict[str, Any]) -> str:
    shown = {k: v for k, v in detail.items() if k != "rollout" and not isinstance(v, list | dict) and v is not None}
    digests = {k: short(v) for k, v in shown.items() if isinstance(v, str) and v.startswith("sha256:")}
    return ", ".join(f"{k} {v}" for k, v in {**shown, **digests}.items())[:160]


def show(found: pb.Rollout, as_json: bool) -> None:
    """Print a rollout."""
    if as_json:
        say_json(as_dict(found))
    else:
        say(_table(found))


def _table(r: pb.Rollout) -> RenderableType:
    lines = [
        f"{r.id}: {r.phase}{' (held)' if r.held else ''}",
        f"primary {short(r.primary_digest) or 'none'}, candidate {short(r.candidate_digest)}; "
        f"canary {percent(r.canary_bp)}, shadow {percent(r.shadow_bp)}; "
        f"stages {', '.join(percent(s) for s in r.stages_bp)}",
    ]
    if r.waiting_for:
        lines.append(r.waiting_for)
    if r.needs_approval_for:
        have = len({a.person for a in r.approvals if a.step == r.needs_approval_for and not a.void_reason})
        lines.append(f"has {have} of {r.required_approvals} approvals of the step {r.needs_approval_for}")
    if r.evidence_path:
        lines.append(f"evidence {r.evidence_path}")
    if r.end_reason:
        lines.append(f"ended: {r.end_reason}")
    if r.rollback_ms:
        lines.append(f"back on the primary {r.rollback_ms} ms after the decision")
    for d in r.drills:
        lines.append(f"way back rehearsed by {d.person} at {minute(d.at)}: {d.took_ms} ms on {', '.join(d.gateways)}")
    parts: list[RenderableType] = [marked("\n".join(lines), "")]
    if r.gates:
        rows = [
            (
                g.gate,
                marked(g.verdict, COLOURS.get(g.verdict, "")),
                f"{g.value:+.4f}",
                f"{g.lower:+.4f} … {g.upper:+.4f}",
                f"{g.limit:.4f}",
                g.sample,
                g.sample_missing or "",
            )
            for g in r.gates
        ]
        parts.append(table("", ("gate", "verdict", "value", "interval", "limit", "sample", "missing"), rows))
    if r.approvals:
        rows_ = [(a.person, a.step, percent(a.ceiling_bp), counts(a), a.reason) for a in r.approvals]
        parts.append(table("", ("approved by", "step", "ceiling", "counts", "reason"), rows_))
    return Group(*parts)


def counts(given: pb.ApprovalInfo) -> str:
    """Say until when an approval counts, or why it does not."""
    return f"no more: {given.void_reason}" if given.void_reason else f"until {minute(given.expires)}"
