"""``interlock holdback``: what a model is worth, measured on units that it never saw."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from controlplane.cli.connection import CONTROL, ControlOption, control_at
from controlplane.cli.output import JsonFlag, as_dict, command, percent, say, say_json, short, table
from protos import control_pb2 as pb

app = typer.Typer(help="Holdback: units kept from every model.", no_args_is_help=True)


@app.command("report")
@command
def report(
    specialist: Annotated[str, typer.Argument(help="Of this specialist.")],
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Compare what decisions cost with the primary and without any model, where the outcome is known."""
    with control_at(control) as server:
        found = server.GetHoldbackReport(pb.GetHoldbackReportRequest(specialist=specialist))
    if as_json:
        say_json(as_dict(found))
        return
    rows = [
        _row("with the model", found.with_model, "{:.3f}"),
        _row("without, held back", found.without_model, "{:.3f}"),
        _row("saved by the model", found.saved, "{:+.3f}"),
    ]
    say(
        f"{specialist}: primary {short(found.bundle_digest)}, {percent(found.holdback_bp)} of units held back",
        table("", ("cost per decision, of the largest", "value", "interval", "outcomes"), rows),
        _verdict(found),
    )


def _row(name: str, found: Any, form: str) -> Sequence[object]:
    if not found.sample:
        return name, "unknown", "", "0"
    interval = f"{form.format(found.lower)} … {form.format(found.upper)}"
    return name, form.format(found.value), interval, f"{found.sample:,}"


def _verdict(found: Any) -> str:
    if not found.saved.sample:
        return "nothing to compare yet: no known outcome on one side"
    if found.saved.lower > 0:
        return "the model earns its place: it costs less than having none"
    if found.saved.upper < 0:
        return "the model does harm: having none costs less"
    return "cannot tell yet whether the model costs less than having none"
