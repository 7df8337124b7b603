"""``interlock specialist``: what is served, and making its next bundle."""

import json
import time
import uuid
from typing import Annotated, Any

import typer
from rich.text import Text

from controlplane.cli.connection import CONTROL, Control, ControlOption, control_at
from controlplane.cli.jobs import gates, job_as_dict
from controlplane.cli.output import (
    JsonFlag,
    Problem,
    as_dict,
    bar,
    command,
    marked,
    minute,
    percent,
    say,
    say_json,
    short,
    table,
)
from protos import control_pb2 as pb

POLL_S = 0.5
WORDS = {"failed": "failed", "cancelled": "was cancelled"}
ENDED = ("done", *WORDS)
app = typer.Typer(help="Specialists and their bundles.", no_args_is_help=True)
OperationOption = Annotated[str, typer.Option(help="Repeating a command with the same id does nothing twice.")]
WaitFlag = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job to its end.")]
Name = Annotated[str, typer.Argument(help="The specialist.")]


@app.command("list")
@command
def listed(control: ControlOption = CONTROL, as_json: JsonFlag = False) -> None:
    """List specialists."""
    with control_at(control) as server:
        found = server.ListSpecialists(pb.ListSpecialistsRequest()).specialists
    if as_json:
        say_json([as_dict(s) for s in found])
        return
    rows = [
        (s.name, short(s.primary_digest), short(s.candidate_digest), percent(s.canary_bp), s.samples, s.open_rollout)
        for s in found
    ]
    say(table("", ("specialist", "primary", "candidate", "canary", "samples", "open rollout"), rows))


@app.command("show")
@command
def show(name: Name, control: ControlOption = CONTROL, as_json: JsonFlag = False) -> None:
    """Show one specialist with its bundles."""
    with control_at(control) as server:
        found = server.GetSpecialist(pb.GetSpecialistRequest(name=name))
    if as_json:
        say_json(as_dict(found))
        return
    rows = [(b.digest, b.state, b.cause, minute(b.created_at), short(b.evaluation_id)) for b in found.bundles]
    say(
        Text.assemble((found.name, "bold"), marked(f": {found.description}", "")),
        f"labels {', '.join(found.labels)}; "
        f"decisions {', '.join(found.decisions)}\n"
        f"primary {found.primary_digest or 'none'}; suite {short(found.suite_digest)}; "
        f"{found.samples} samples, {found.outcomes} outcomes; open rollout {found.open_rollout or 'none'}",
        table("", ("bundle", "state", "cause", "made", "evaluation"), rows, whole=1),
    )


@app.command("train")
@command
def train(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")],
    person: Annotated[str, typer.Option("--as", help="Who asks; may not approve what comes of it.")],
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of scenarios, order and dropout.")] = 0,
    start_rollout: Annotated[bool, typer.Option(help="Open a rollout when the suite accepts the bundle.")] = True,
    wait: WaitFlag = True,
    operation_id: OperationOption = "",
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Train a new bundle, then evaluate it against the locked suite."""
    request = pb.TrainRequest(
        specialist=name,
        reason=reason,
        requested_by=person,
        start_rollout=start_rollout,
        seed=seed,
        operation_id=operation_id or uuid.uuid4().hex,
    )
    with control_at(control) as server:
        job = server.Train(request)
        if wait:
            job = _follow(server, job, as_json)
            judged = _evaluation_after(server, job)
            _show_jobs([job, _follow(server, judged, as_json)], as_json)
        else:
            _show_jobs([job], as_json)


@app.command("eval")
@command
def evaluate(
    name: Name,
    bundle: Annotated[str, typer.Argument(help="Digest of the bundle, sha256:…")],
    wait: WaitFlag = True,
    operation_id: OperationOption = "",
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Evaluate a bundle against the suite, the primary and the control model."""
    request = pb.EvaluateRequest(specialist=name, bundle_digest=bundle, operation_id=operation_id or uuid.uuid4().hex)
    with control_at(control) as server:
        job = server.Evaluate(request)
        _show_jobs([_follow(server, job, as_json) if wait else job], as_json)


def _follow(server: Control, job: Any, as_json: bool) -> Any:
    """Wait for a job's end and return it done; raises Problem."""
    with bar(as_json, job.kind) as progress:
        while job.state not in ENDED:
            time.sleep(POLL_S)
            job = server.GetJob(pb.GetJobRequest(id=job.id))
            progress(job.progress, f"{job.kind}: {job.message}")
    if job.state != "done":
        raise Problem(f"job {job.id} {WORDS[job.state]}: {job.message}", "ABORTED")
    return job


def _evaluation_after(server: Control, job: Any) -> Any:
    """Return the evaluation that a training queued in the transaction that ended it."""
    known = server.ListJobs(pb.ListJobsRequest(specialist=job.specialist)).jobs
    found = [j for j in known if j.kind == "evaluate" and j.created_at >= job.finished_at]
    if not found:
        raise Problem(f"no evaluation followed job {job.id}", "ABORTED")
    return found[0]


def _show_jobs(found: list[Any], as_json: bool) -> None:
    if as_json:
        say_json([job_as_dict(job) for job in found])
        return
    for job in found:
        say(f"{job.kind} {job.id}: {job.state}")
        result = json.loads(job.result_json) if job.result_json else {}
        if job.kind == "train" and result:
            say(f"  bundle {result['bundle_digest']} in {result['seconds']:.0f} s, {result['steps']} steps")
        if job.kind == "evaluate" and result:
            say(gates(result))
