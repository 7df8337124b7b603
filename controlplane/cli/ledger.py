"""``interlock ledger``: what was done, by whom, and whether anybody changed the record."""

from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli.connection import CONTROL, ControlOption, control_at
from controlplane.cli.output import REFUSED, WRONG_USE, JsonFlag, Problem, as_dict, command, console, say_json
from controlplane.cli.rollout import show_entries
from protos import control_pb2 as pb
from protos.contract.attestation import read_private, read_public

app = typer.Typer(help="The ledger.", no_args_is_help=True)


@app.command("show")
@command
def show(
    start: Annotated[int, typer.Option("--from", min=0, help="First entry.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Show entries and the signed head."""
    with control_at(control) as server:
        found = server.GetLedger(pb.GetLedgerRequest(from_seq=start, limit=limit))
    if as_json:
        say_json(as_dict(found))
        return
    show_entries(found.entries, False)
    console().print(f"{found.size} entries, root {found.root}\n{found.checkpoint}", markup=False)


@app.command("verify")
@command
def verify(
    config: Annotated[Path | None, typer.Option(help="Settings that name database, key and deployment.")] = None,
    database: Annotated[str, typer.Option(help="URL of the database.")] = "",
    plan_key: Annotated[Path | None, typer.Option(help="The control plane's public key.")] = None,
    deployment: Annotated[str, typer.Option(help="The deployment's name.")] = "",
    checkpoint: Annotated[list[Path] | None, typer.Option(help="A checkpoint kept elsewhere.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Recompute the whole tree from the database, offline, and compare it with every signed head."""
    from controlplane.store import ledger
    from controlplane.store.database import DatabaseInvalid, open_database, reading

    if config is not None:
        from controlplane.settings import ControlSettings

        settings = ControlSettings.read(config)
        database, deployment = settings.database, settings.deployment
        public = read_public(plan_key) if plan_key else read_private(settings.plan_key).public_key()
    elif database and plan_key and deployment:
        public = read_public(plan_key)
    else:
        raise Problem(
            "expected --config, or --database with --plan-key and --deployment", "INVALID_ARGUMENT", WRONG_USE
        )
    if database.startswith("sqlite:///") and not Path(database.removeprefix("sqlite:///")).is_file():
        raise Problem(f"{database} is no file", "NOT_FOUND")  # opening it would create one
    held = [path.read_text() for path in checkpoint or []]
    try:
        engine = open_database(database)
        with reading(engine).connect() as connection:
            report = ledger.verify(connection, public, f"interlock/{deployment}", held)
        engine.dispose()
    except DatabaseInvalid as error:
        raise Problem(str(error), "INVALID_ARGUMENT", WRONG_USE) from error
    except Exception as error:
        if type(error).__module__.startswith("sqlalchemy"):
            raise Problem(f"{database} holds no readable ledger: {type(error).__name__}", "FAILED") from error
        raise
    found = {
        "verified": report.is_intact and report.size > 0,
        "size": report.size,
        "root": report.root.hex(),
        "checkpoints": report.checkpoints,
        "first_bad_seq": report.first_bad_seq,
        "problem": report.problem or ("" if report.size else "the ledger is empty"),
    }
    if as_json:
        say_json(found)
    elif found["verified"]:
        console().print(
            f"[green]verified[/]: {report.size} entries, {report.checkpoints} signed heads, root {report.root.hex()}"
        )
    else:
        console().print(f"[red]NOT verified[/] at entry {report.first_bad_seq}: {found['problem']}")
    if not found["verified"]:
        raise typer.Exit(REFUSED)
