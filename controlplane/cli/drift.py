"""``interlock drift``: has the traffic moved, and what followed from it."""

from typing import Annotated

import typer

from controlplane.cli.connection import CONTROL, ControlOption, control_at
from controlplane.cli.drift_backtest import backtest
from controlplane.cli.output import JsonFlag, as_dict, command, marked, say, say_json, table
from protos import control_pb2 as pb

app = typer.Typer(help="Drift of live traffic.", no_args_is_help=True)
COLOURS = {"drift": "red", "watch": "yellow", "no_drift": "green", "unknown": "dim"}


app.command("backtest")(backtest)


@app.command("status")
@command
def status(
    specialist: Annotated[str, typer.Argument(help="Of one specialist.")] = "",
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Show readings, their thresholds, and why each did or did not start a retraining."""
    with control_at(control) as server:
        found = server.GetDriftStatus(pb.GetDriftStatusRequest(specialist=specialist)).readings
    if as_json:
        say_json([as_dict(r) for r in found])
        return
    rows = [
        (
            r.at[:19],
            r.specialist,
            r.signal,
            marked(r.verdict, COLOURS.get(r.verdict, "")),
            f"{r.value:.4f}",
            f"{r.threshold:.4f}",
            r.sample,
            r.action,
        )
        for r in found
    ]
    columns = ("at", "specialist", "signal", "verdict", "value", "threshold", "sample", "what followed")
    say(table("", columns, rows))
