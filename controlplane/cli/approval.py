"""``interlock approval``: sign on another machine, which needs no network: request here, sign there, submit here."""

import json
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from controlplane.cli.connection import CONTROL, ControlOption, control_at
from controlplane.cli.drafts import reviewed, seconds_of
from controlplane.cli.output import WRONG_USE, JsonFlag, Problem, command, say, say_json
from controlplane.cli.rollout import Rollout, show
from controlplane.cli.signing import check_key
from protos import control_pb2 as pb
from protos.contract.attestation import Approval
from protos.contract.digest import DigestMalformed, JsonMalformed, digest_bytes, parse_json_object
from protos.contract.fields import FieldInvalid
from protos.contract.operators import envelope_from_json, envelope_to_json

REQUEST = "interlock.approval-request/1"
app = typer.Typer(help="Approvals by file, for keys that live on another machine.", no_args_is_help=True)


@app.command("request")
@command
def request(
    rollout: Rollout,
    out: Annotated[Path, typer.Option(help="File to write; carry it to the machine with the key.")],
    ceiling: Annotated[int, typer.Option(min=0, max=10_000, help="Most basis points; 0 takes the step's last.")] = 0,
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Write what waits for an approval, with the evidence it rests on, into one file."""
    with control_at(control) as server:
        draft = server.DraftApproval(pb.DraftApprovalRequest(rollout=rollout, ceiling_bp=ceiling))
    unsigned = reviewed(draft, rollout, ceiling).unsigned
    body = {"schema": REQUEST, "draft": MessageToDict(draft, preserving_proto_field_name=True)}
    out.write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")
    found = {"file": str(out), "rollout": unsigned.rollout, "step": unsigned.step, "evidence": unsigned.evidence}
    if as_json:
        say_json(found)
    else:
        say(
            f"wrote {out}: {unsigned.step} of {unsigned.rollout}\nnext, where the key is: interlock approval sign {out}"
        )


@app.command("sign")
@command
def sign(
    file: Annotated[Path, typer.Argument(help="What `approval request` wrote.")],
    key: Annotated[Path, typer.Option(help="Your private key: Ed25519 in PEM, or OpenSSH's.")],
    person: Annotated[str, typer.Option(help="You, as enrolled.")],
    out: Annotated[Path, typer.Option(help="Signed statement to write.")],
    reason: Annotated[str, typer.Option(help="Why, for the record; asked for when missing.")] = "",
    valid_for: Annotated[str, typer.Option(help="30m, 1h, 2d; at most 30d.")] = "1h",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Read, check and sign a request; needs no connection."""
    if (as_json or yes) and not (yes and reason):
        raise Problem("expected --yes and --reason together where nobody is asked", "INVALID_ARGUMENT", WRONG_USE)
    seconds = seconds_of(valid_for)
    check_key(key)
    draft = _read_request(file)
    review = reviewed(draft, draft.rollout, 0)
    if not as_json:
        say(review.shown(valid_for))
    if not yes:
        reason = reason or typer.prompt("Why (recorded with your name)")
        if not typer.confirm(f"Sign as {person}?"):
            raise Problem("nothing was signed", "CANCELLED")
    envelope = review.signed(key, person, reason, seconds)
    out.write_text(json.dumps(envelope_to_json(envelope), indent=1) + "\n")
    digest = digest_bytes(envelope.payload)
    if as_json:
        say_json({"file": str(out), "statement": digest})
    else:
        say(f"wrote {out}: {digest}\nnext, where the control plane is: interlock approval submit {out}")


@app.command("submit")
@command
def submit(
    file: Annotated[Path, typer.Argument(help="What `approval sign` wrote.")],
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Hand in a signed statement."""
    try:
        envelope = envelope_from_json(parse_json_object(file.read_bytes()))
        approval = Approval.from_statement(envelope.payload)
    except (FieldInvalid, JsonMalformed, DigestMalformed) as error:
        raise Problem(f"{file} is no signed statement: {error}", "INVALID_ARGUMENT", WRONG_USE) from error
    with control_at(control) as server:
        found = server.SubmitApproval(pb.SubmitApprovalRequest(rollout=approval.rollout, envelope=envelope))
    show(found, as_json)


def _read_request(file: Path) -> pb.ApprovalDraft:
    body = parse_json_object(file.read_bytes())
    if body.get("schema") != REQUEST:
        raise Problem(f"{file} is no approval request, expected schema {REQUEST!r}", "INVALID_ARGUMENT", WRONG_USE)
    try:
        return ParseDict(body["draft"], pb.ApprovalDraft())
    except (KeyError, ParseError) as error:
        raise Problem(f"{file}: the draft in it cannot be read: {error}", "INVALID_ARGUMENT", WRONG_USE) from error
