"""``interlock decision``: why one decision came out as it did."""

from typing import Annotated

import typer

from controlplane.cli.connection import CONTROL, ControlOption, governance_at
from controlplane.cli.output import JsonFlag, as_dict, command, cut, say, say_json, short, table
from protos import governance_pb2 as pb

app = typer.Typer(help="Single decisions, explained.", no_args_is_help=True)


@app.command("show")
@command
def show(
    decision: Annotated[str, typer.Argument(help="The id that the caller was given.")],
    specialist: Annotated[str, typer.Option(help="Where ids of two specialists may be the same.")] = "",
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Show what was asked, who answered, by whose approval, and what really happened."""
    with governance_at(control) as server:
        found = server.ExplainDecision(pb.ExplainDecisionRequest(decision_id=decision, specialist=specialist))
    if as_json:
        say_json(as_dict(found))
        return
    kept = found.input_state == "kept"
    side = "above" if found.threshold > found.score else "below"
    happened = f"{found.outcome} at {found.outcome_at}, from {found.outcome_source}"
    rows = [
        ("decided", f"{found.decision}{' (fallback)' if found.fallback else ''}, score {found.score:.4f}"),
        ("threshold", f"{found.beyond} {side} a score of {found.threshold:.4f}" if found.beyond else "none applies"),
        ("expected cost", ", ".join(f"{c.decision} {c.cost:.4f}" for c in found.expected_costs) or "not known"),
        ("reasons", ", ".join(f"{r.field} {r.log_odds:+.2f}" for r in found.reasons) or "none given by the engine"),
        ("at", found.at),
        ("specialist", found.specialist),
        ("input", cut(found.input, 200) if kept else found.input_state.replace("_", " ")),
        ("input digest", found.input_digest or "not recorded"),
        ("arm", found.arm),
        ("bundle", found.bundle_digest),
        ("approved by", ", ".join(found.approved_by) or "nobody: it needed no approval"),
        ("plan", f"{found.plan_generation}, {short(found.plan_digest)}, ledger entry {found.ledger_seq}"),
        ("rollout", found.rollout),
        ("outcome", happened if found.outcome else "unknown"),
    ]
    say(table(f"decision {found.decision_id}", ("", ""), rows))
