"""``interlock jobs``: training and evaluation jobs, their curves, and why the next one did or did not start."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from controlplane.cli.connection import CONTROL, ControlOption, control_at, learning_at
from controlplane.cli.curve import drawn, svg
from controlplane.cli.output import JsonFlag, Problem, as_dict, command, listing, marked, say, say_json, table
from protos import control_pb2, learning_pb2

app = typer.Typer(help="Jobs: training and evaluation.", no_args_is_help=True)
COLOURS = {"done": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "queued": "dim"}
Job = Annotated[str, typer.Argument(help="The job's id.")]
Person = Annotated[str, typer.Option("--as", help="Who asks, for the ledger.")]
Reason = Annotated[str, typer.Option(help="Why, for the ledger.")]


@app.command("list")
@command
def listed(
    specialist: Annotated[str, typer.Argument(help="Of one specialist.")] = "",
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """List jobs, oldest first."""
    with control_at(control) as server:
        found = server.ListJobs(control_pb2.ListJobsRequest(specialist=specialist)).jobs
    if as_json:
        say_json([job_as_dict(job) for job in found])
        return
    rows = [
        (
            j.id,
            j.specialist,
            marked(j.state, COLOURS.get(j.state, "")),
            f"{j.progress:.0%}",
            j.attempt,
            j.cause,
            j.message,
        )
        for j in found
    ]
    columns = ("job", "specialist", "state", "progress", "attempt", "cause", "message")
    say(listing(columns, rows, "no jobs yet; `interlock specialist train` starts the first"))


@app.command("show")
@command
def show(
    job: Job,
    curve: Annotated[Path | None, typer.Option(help="Also write the loss curve as SVG.")] = None,
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Show one job: its result, and a training's loss curve and provenance."""
    with control_at(control) as server:
        found = server.GetJob(control_pb2.GetJobRequest(id=job))
    result: dict[str, Any] = json.loads(found.result_json) if found.result_json else {}
    if curve is not None:
        if not result.get("losses"):
            raise Problem(f"job {job} has no loss curve, expected a training that is done", "FAILED_PRECONDITION")
        curve.write_text(svg(result["losses"], int(result.get("losses_every", 1)), result.get("looks", [])))
    if as_json:
        say_json(job_as_dict(found))
        return
    ended = f", ended {found.finished_at[:19]}" if found.finished_at else ""
    say(
        f"{found.kind} {found.id} of {found.specialist}: {found.state}, attempt {found.attempt}, for {found.cause}\n"
        f"{found.message}; since {found.created_at[:19]}{ended}"
    )
    if result.get("losses"):
        say("", drawn(result["losses"], int(result.get("losses_every", 1)), result.get("looks", [])))
    if result.get("gates"):
        say("", gates(result))
    plain = {k: v for k, v in result.items() if not isinstance(v, list | dict)}
    if plain:
        say("", table("result", ("what", "value"), sorted(plain.items())))
    if made := result.get("provenance"):
        flat = {k: ", ".join(f"{n} {w}" for n, w in v.items()) if isinstance(v, dict) else v for k, v in made.items()}
        say("", table("made by", ("what", "value"), sorted(flat.items())))


@app.command("retry")
@command
def retry(
    job: Job, person: Person, reason: Reason, control: ControlOption = CONTROL, as_json: JsonFlag = False
) -> None:
    """Queue a failed or cancelled job again."""
    with learning_at(control) as server:
        found = server.RetryJob(learning_pb2.JobCommand(id=job, person=person, reason=reason))
    say_json(job_as_dict(found)) if as_json else say(f"{found.kind} {found.id}: {found.state}")


@app.command("cancel")
@command
def cancel(
    job: Job, person: Person, reason: Reason, control: ControlOption = CONTROL, as_json: JsonFlag = False
) -> None:
    """End a job that has not ended."""
    with learning_at(control) as server:
        found = server.CancelJob(learning_pb2.JobCommand(id=job, person=person, reason=reason))
    say_json(job_as_dict(found)) if as_json else say(f"{found.kind} {found.id}: {found.state}")


@app.command("decisions")
@command
def decisions(
    specialist: Annotated[str, typer.Argument(help="Of one specialist.")] = "",
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Say why retrainings started, and why others did not."""
    with learning_at(control) as server:
        request = learning_pb2.ListRetrainDecisionsRequest(specialist=specialist)
        found = server.ListRetrainDecisions(request).decisions
    if as_json:
        say_json([as_dict(one) for one in found])
        return
    rows = [
        (
            d.at[:19],
            d.specialist,
            d.trigger,
            marked("yes", "green") if d.retrains else marked(d.code, "yellow"),
            d.reason,
            d.job,
        )
        for d in found
    ]
    columns = ("at", "specialist", "trigger", "retrains", "reason", "job")
    say(listing(columns, rows, "nothing has asked for a retraining yet"))


def job_as_dict(job: Any) -> dict[str, Any]:
    """Return a job as JSON values, its result among them."""
    found = as_dict(job)
    found["result"] = json.loads(job.result_json) if job.result_json else None
    del found["result_json"]
    return found


def gates(result: dict[str, Any]) -> Table:
    """Draw what a suite said of a bundle."""
    words = {True: marked("pass", "green"), False: marked("fail", "red"), None: "n/a"}
    rows = [(g["text"], words[g["passed"]], _number(g["found"]), _span(g["low"], g["high"])) for g in result["gates"]]
    title = "accepted" if result.get("accepted") else "not accepted"
    return table(title, ("gate", "verdict", "found", "interval"), rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4f} … {high:.4f}"
