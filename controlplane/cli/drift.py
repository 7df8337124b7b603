"""``interlock drift``: has the traffic moved, and what followed from it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli.connection import CONTROL, ControlOption, control_at, observe_at
from controlplane.cli.drift_backtest import backtest
from controlplane.cli.output import JsonFlag, as_dict, command, listing, marked, say, say_json
from protos import control_pb2 as pb
from protos import observe_pb2

app = typer.Typer(help="Drift of live traffic.", no_args_is_help=True)
COLOURS = {"drift": "red", "watch": "yellow", "no_drift": "green", "unknown": "dim"}
HOLDS = {"yes": "green", "no": "red", "unknown": "yellow"}


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
    nothing = "no readings yet: they begin once a primary serves and its reference is full (drift.reference samples)"
    say(listing(columns, rows, nothing))
    if specialist:
        with observe_at(control) as server:
            _outcomes(server.GetObservation(observe_pb2.GetObservationRequest(specialist=specialist)))


def _outcomes(found: Any) -> None:
    """Print what outcomes say, and what is estimated without them."""
    said, matured = found.maturity, found.matured
    newest = f"\noutcomes of the newest {said.known + said.waiting:,} decisions: {said.known:,} came, "
    if said.due_s:
        say(
            f"{newest}{said.waiting:,} are awaited; due after {said.due_s:,.1f} s, and "
            f"{said.censored_share:.1%} of the {said.matured:,} decisions older than that have none",
            f"over all {matured.known:,} that are known and due: accuracy {matured.accuracy:.1%}, "
            f"cost {matured.cost:.4f}",
        )
    else:
        say(f"{newest}{said.waiting:,} are awaited: too few to say when one is due")
    if found.estimates:
        last = found.estimates[-1]
        say(
            f"accuracy estimated without labels: {last.value:.1%} ({last.lower:.1%} to {last.upper:.1%})",
            marked(f"assumption: {last.holds}; {last.why}", HOLDS[last.holds]),
        )


@app.command("report")
@command
def report(
    specialist: Annotated[str, typer.Argument(help="Of this specialist.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("drift.html"),
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Write one HTML page with pictures: signals, scores, decisions, texts, estimates, outcomes."""
    from controlplane.report.drift import page

    with observe_at(control) as server:
        found = server.GetObservation(observe_pb2.GetObservationRequest(specialist=specialist))
    if as_json:
        say_json(as_dict(found))
        return
    out.write_text(page(found))
    say(f"wrote {out}")
