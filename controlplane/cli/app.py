"""The command ``interlock``: one noun a file."""

import sys

import typer

from controlplane.cli import (
    access,
    approval,
    bundle,
    capture,
    dataset,
    decide,
    decision,
    drift,
    engine,
    eval,
    evidence,
    holdback,
    init,
    jobs,
    label,
    ledger_proofs,
    note,
    operator,
    plan,
    processes,
    shadow,
    specialist,
    specialist_pack,
    up,
    watch,
)
from controlplane.cli.output import WRONG_USE, Problem, tell

# Every usage error; typer names only this kind of it.
_WrongUse: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="interlock",
    help="Serve specialist models, and move traffic only when a person's signed approval says so.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init")(init.init)
app.command("up")(up.up)
app.command("decide")(decide.decide)
app.command("outcome")(decide.outcome)
app.command("note")(note.note)
specialist.app.command("init")(specialist_pack.init)
specialist.app.command("try")(specialist_pack.try_pack)
app.add_typer(specialist.app, name="specialist")
app.add_typer(watch.app, name="rollout")
app.add_typer(access.app, name="access")
app.add_typer(approval.app, name="approval")
app.add_typer(shadow.app, name="shadow")
app.add_typer(holdback.app, name="holdback")
app.add_typer(plan.app, name="plan")
app.add_typer(dataset.app, name="dataset")
app.add_typer(drift.app, name="drift")
app.add_typer(capture.app, name="capture")
app.add_typer(eval.app, name="eval")
app.add_typer(engine.app, name="engine")
app.add_typer(bundle.app, name="bundle")
app.add_typer(evidence.app, name="evidence")
app.add_typer(jobs.app, name="jobs")
app.add_typer(label.app, name="label")
app.add_typer(decision.app, name="decision")
app.add_typer(ledger_proofs.app, name="ledger")
app.add_typer(operator.app, name="operator")
app.add_typer(processes.gateway, name="gateway")
app.add_typer(processes.worker, name="worker")
app.add_typer(processes.control, name="control")


def main() -> None:
    """Entry point of the console script."""
    if "--json" not in sys.argv[1:]:
        app()
    try:
        ended = app(standalone_mode=False)
    except _WrongUse as error:
        tell(Problem(str(error), "INVALID_ARGUMENT", WRONG_USE), as_json=True)
        ended = WRONG_USE
    sys.exit(ended)
