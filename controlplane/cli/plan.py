"""``interlock plan``: what was offered to gateways and what they said."""

import typer

from controlplane.cli.connection import CONTROL, ControlOption, control_at
from controlplane.cli.output import JsonFlag, as_dict, command, say, say_json, short, table
from protos import control_pb2 as pb

app = typer.Typer(help="Traffic plans and the gateways that hold them.", no_args_is_help=True)


@app.command("status")
@command
def status(control: ControlOption = CONTROL, as_json: JsonFlag = False) -> None:
    """Show every plan and every gateway."""
    with control_at(control) as server:
        found = server.GetPlanStatus(pb.GetPlanStatusRequest())
    if as_json:
        say_json(as_dict(found))
        return
    plans = [
        (p.generation, short(p.digest), p.state, p.refused_reason, ", ".join(p.approved_by), p.created_at)
        for p in found.plans
    ]
    gateways = [(g.gateway_id, g.generation, g.refusals, g.last_refusal, g.last_seen) for g in found.gateways]
    say(
        table("plans", ("generation", "digest", "state", "refused for", "approved by", "offered"), plans),
        table("gateways", ("gateway", "generation", "refusals", "last refusal", "last seen"), gateways),
    )
