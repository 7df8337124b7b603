"""``interlock rollout``: a candidate's way to the primary, and a person's word on it."""

import json
import re
import secrets
import sys
import time
import uuid
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live

from controlplane.cli.connection import CONTROL, ControlOption, control_at
from controlplane.cli.output import (
    WRONG_USE,
    JsonFlag,
    Problem,
    as_dict,
    command,
    console,
    marked,
    percent,
    say,
    say_json,
    short,
    table,
)
from controlplane.cli.specialist import POLL_S, OperationOption
from protos import control_pb2 as pb
from protos.contract.attestation import Approval, read_private, sign_approval
from protos.contract.digest import DigestMalformed, JsonMalformed, digest_json, parse_json_object
from protos.contract.fields import FieldInvalid
from protos.contract.plan_rules import no_split_digest

app = typer.Typer(help="Rollouts: start, watch, approve, stop.", no_args_is_help=True)
Rollout = Annotated[str, typer.Argument(help="A rollout's id, or a specialist: its open rollout, else its last.")]
Person = Annotated[str, typer.Option("--as", help="Who says so.")]
Reason = Annotated[str, typer.Option(help="Why, for the ledger.")]
COLOURS = {"pass": "green", "fail": "red", "not_yet": "yellow", "error": "magenta"}
UNITS_S = {"m": 60, "h": 3600, "d": 86_400}
MOST_VALID_S = 30 * 86_400


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
            r.phase + (" (paused)" if r.paused else ""),
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
    bundle: Annotated[str, typer.Argument(help="Digest of an accepted bundle.")],
    person: Person,
    operation_id: OperationOption = "",
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Open a rollout; it begins in shadow and stays there until people approve."""
    request = pb.StartRolloutRequest(
        specialist=specialist, bundle_digest=bundle, started_by=person, operation_id=operation_id or uuid.uuid4().hex
    )
    with control_at(control) as server:
        _show(server.StartRollout(request), as_json)


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
        _show(found, as_json)


@app.command("approve")
@command
def approve(
    rollout: Rollout,
    key: Annotated[Path, typer.Option(help="Your private key.")],
    person: Annotated[str, typer.Option(help="You, as enrolled.")],
    reason: Reason,
    ceiling: Annotated[int, typer.Option(min=0, max=10_000, help="Most basis points; 0 takes the step's last.")] = 0,
    valid_for: Annotated[str, typer.Option(help="30m, 1h, 2d; at most 30d.")] = "1h",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Read what the next step rests on, and sign a statement that allows it."""
    if as_json and not yes:
        raise Problem("--json cannot ask, expected --yes beside it", "INVALID_ARGUMENT", WRONG_USE)
    seconds = _seconds(valid_for)
    private = read_private(key)
    if key.stat().st_mode & 0o077:
        print(f"warning: {key} can be read by others, expected mode 0600", file=sys.stderr)
    with control_at(control) as server:
        draft = server.DraftApproval(pb.DraftApprovalRequest(rollout=rollout, ceiling_bp=ceiling))
        unsigned = checked(draft, rollout, ceiling)
        if not as_json:
            say(draft.summary, f"evidence {draft.evidence_path}", _statement(unsigned, draft, valid_for))
        if not yes and not typer.confirm(f"Approve as {person}?"):
            raise Problem("nothing was signed", "CANCELLED")
        now = int(time.time())
        said = replace(
            unsigned,
            person=person,
            reason=reason,
            nonce=secrets.token_hex(16),
            not_before=now,
            expires=now + seconds,
        )
        request = pb.SubmitApprovalRequest(rollout=draft.rollout, envelope=sign_approval(said, private))
        _show(server.SubmitApproval(request), as_json)


def checked(draft: pb.ApprovalDraft, asked: str, ceiling_bp: int) -> Approval:
    """Recompute what a draft's digests name, so that nobody signs for shapes they were not shown.

    Args:
        asked: The rollout or specialist that the person named.
        ceiling_bp: Most that the person would allow; 0 when they set no limit of their own.
    Raises:
        Problem: It is no statement, a digest names another change than the one shown, or nobody asked for it.
    """
    try:
        unsigned = Approval.from_statement(draft.statement)
        before, after = _shapes(draft)
    except (FieldInvalid, JsonMalformed, DigestMalformed) as error:
        raise Problem(f"the draft cannot be read: {error}; not signed", "DATA_LOSS") from error
    if asked not in (unsigned.rollout, unsigned.specialist):
        raise Problem(f"the draft is of rollout {unsigned.rollout!r}, expected {asked!r}; not signed", "DATA_LOSS")
    if ceiling_bp and unsigned.ceiling_bp > ceiling_bp:
        raise Problem(
            f"the draft allows {unsigned.ceiling_bp} bp, expected up to {ceiling_bp}; not signed", "DATA_LOSS"
        )
    expected = {
        "from_split": digest_json(before) if before is not None else no_split_digest(unsigned.specialist),
        "to_split": digest_json({**after, "ceiling_bp": unsigned.ceiling_bp}),
        "ceiling_bp": draft.ceiling_bp,
        "specialist": after.get("specialist"),
        "rollout": draft.rollout,
        "step": draft.step,
    }
    for name, value in expected.items():
        if getattr(unsigned, name) != value:
            raise Problem(
                f"the draft's {name} is {getattr(unsigned, name)!r}, but what it shows makes it {value!r}; not signed",
                "DATA_LOSS",
            )
    shown = after.get("candidate") if unsigned.step == "canary" else after.get("primary")
    if unsigned.bundle != shown:
        raise Problem(f"the draft approves {unsigned.bundle}, but shows {shown}; not signed", "DATA_LOSS")
    return unsigned


def _shapes(draft: pb.ApprovalDraft) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    before = parse_json_object(draft.from_shape_json.encode()) if draft.from_shape_json else None
    return before, parse_json_object(draft.to_shape_json.encode())


def _statement(unsigned: Approval, draft: pb.ApprovalDraft, valid_for: str) -> str:
    """Say what a signature would cover, from the checked statement alone and not from the summary beside it."""
    before, after = _shapes(draft)
    lines = [
        f"you would sign: {unsigned.step} of {unsigned.specialist} in {unsigned.audience}, rollout {unsigned.rollout},",
        f"  for {unsigned.bundle} by {unsigned.author}, up to {percent(unsigned.ceiling_bp)} of requests, "
        f"for {valid_for}",
    ]
    for name in ("primary", "candidate", "previous"):
        was, will = (before or {}).get(name) or "none", after.get(name) or "none"
        lines.append(f"  {name} {will}" if was == will else f"  {name} {was} → {will}")
    return "\n".join([*lines, f"  evidence {unsigned.evidence}", f"  suite {unsigned.suite}"])


@app.command("reject")
@command
def reject(
    rollout: Rollout, person: Person, reason: Reason, control: ControlOption = CONTROL, as_json: JsonFlag = False
) -> None:
    """End a rollout that has not reached callers."""
    with control_at(control) as server:
        _show(server.RejectRollout(pb.RolloutCommand(rollout=rollout, person=person, reason=reason)), as_json)


@app.command("pause")
@command
def pause(
    rollout: Rollout, person: Person, reason: Reason, control: ControlOption = CONTROL, as_json: JsonFlag = False
) -> None:
    """Keep a rollout where it is; harm still rolls it back."""
    with control_at(control) as server:
        _show(server.PauseRollout(pb.RolloutCommand(rollout=rollout, person=person, reason=reason)), as_json)


@app.command("resume")
@command
def resume(
    rollout: Rollout, person: Person, reason: Reason, control: ControlOption = CONTROL, as_json: JsonFlag = False
) -> None:
    """Let a paused rollout go on."""
    with control_at(control) as server:
        _show(server.ResumeRollout(pb.RolloutCommand(rollout=rollout, person=person, reason=reason)), as_json)


@app.command("rollback")
@command
def rollback(
    rollout: Rollout, person: Person, reason: Reason, control: ControlOption = CONTROL, as_json: JsonFlag = False
) -> None:
    """Return every request to the previous primary, at once."""
    with control_at(control) as server:
        _show(server.RollBack(pb.RolloutCommand(rollout=rollout, person=person, reason=reason)), as_json)


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
        del row["detail_json"]
    if as_json:
        say_json(rows)
        return
    cells = [(r["seq"], r["at"][:23], r["actor"], r["action"], _plain(r["detail"])) for r in rows]
    say(table("", ("seq", "at", "actor", "action", "detail"), cells))


def _plain(detail: dict[str, Any]) -> str:
    shown = {k: v for k, v in detail.items() if k != "rollout" and not isinstance(v, list | dict) and v is not None}
    digests = {k: short(v) for k, v in shown.items() if isinstance(v, str) and v.startswith("sha256:")}
    return ", ".join(f"{k} {v}" for k, v in {**shown, **digests}.items())[:160]


def _show(found: pb.Rollout, as_json: bool) -> None:
    if as_json:
        say_json(as_dict(found))
    else:
        say(_table(found))


def _table(r: pb.Rollout) -> RenderableType:
    lines = [
        f"{r.id}: {r.phase}{' (paused)' if r.paused else ''}",
        f"primary {short(r.primary_digest) or 'none'}, candidate {short(r.candidate_digest)}; "
        f"canary {percent(r.canary_bp)}, shadow {percent(r.shadow_bp)}; "
        f"stages {', '.join(percent(s) for s in r.stages_bp)}",
    ]
    if r.waiting_for:
        lines.append(r.waiting_for)
    if r.needs_approval_for:
        lines.append(f"needs {r.required_approvals} approval(s) of the step {r.needs_approval_for}")
    if r.evidence_path:
        lines.append(f"evidence {r.evidence_path}")
    if r.end_reason:
        lines.append(f"ended: {r.end_reason}")
    if r.rollback_ms:
        lines.append(f"back on the primary {r.rollback_ms} ms after the decision")
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
        rows_ = [(a.person, a.step, percent(a.ceiling_bp), a.expires, a.reason) for a in r.approvals]
        parts.append(table("", ("approved by", "step", "ceiling", "until", "reason"), rows_))
    return Group(*parts)


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([1-9]\d{0,5})([mhd])", text)
    seconds = int(match[1]) * UNITS_S[match[2]] if match else 0
    if not 0 < seconds <= MOST_VALID_S:
        raise FieldInvalid(f"valid-for is {text!r}, expected a time such as 30m, 2h or 1d, at most 30d")
    return seconds
