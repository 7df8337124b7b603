"""``interlock ledger``: what was done, by whom, and whether anybody changed the record."""

from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from rich.text import Text

from controlplane.cli.connection import CONTROL, ControlOption, control_at
from controlplane.cli.output import (
    REFUSED,
    WRONG_USE,
    JsonFlag,
    Problem,
    as_dict,
    check_folder,
    command,
    marked,
    pairs,
    say,
    say_json,
)
from controlplane.cli.rollout import show_entries
from protos import control_pb2 as pb
from protos.contract.attestation import read_private, read_public
from protos.contract.fields import FieldInvalid

app = typer.Typer(help="The ledger.", no_args_is_help=True)


@app.command("show")
@command
def show(
    start: Annotated[int, typer.Option("--from", min=0, help="First entry.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many entries.")] = 100,
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Show entries and the signed head."""
    with control_at(control) as server:
        found = server.GetLedger(pb.GetLedgerRequest(from_seq=start, limit=limit))
    if as_json:
        say_json(as_dict(found))
        return
    if not found.entries:
        say(f"no entry from {start} on")
    else:
        show_entries(found.entries, False)
    say(f"{found.size} entries, root {found.root}\n{found.checkpoint}")


@app.command("verify")
@command
def verify(
    config: Annotated[Path | None, typer.Option(help="Settings that name database, key and deployment.")] = None,
    database: Annotated[str, typer.Option(help="URL of the database.")] = "",
    plan_key: Annotated[Path | None, typer.Option(help="The control plane's public key.")] = None,
    deployment: Annotated[str, typer.Option(help="The deployment's name.")] = "",
    checkpoint: Annotated[list[Path] | None, typer.Option(help="A checkpoint kept elsewhere.")] = None,
    export: Annotated[Path | None, typer.Option(help="What `ledger export` wrote, in place of a database.")] = None,
    witness: Annotated[list[str] | None, typer.Option(help="NAME=KEYFILE that has to have cosigned an export.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Recompute the whole tree, offline, and compare it with every signed head."""
    held = [read_checkpoint(path) for path in checkpoint or []]
    if export is not None:
        if config is not None or database:
            raise Problem("--export takes the place of --config and --database", "INVALID_ARGUMENT", WRONG_USE)
        found = _of_export(export, plan_key, deployment, held, witness or [])
    else:
        if witness:
            raise Problem("--witness is of an --export: a database is not cosigned", "INVALID_ARGUMENT", WRONG_USE)
        found = _of_database(*_named(config, database, plan_key, deployment), held)
    if as_json:
        say_json(found)
    else:
        say(_verdict(found))
    if not found["verified"]:
        raise typer.Exit(REFUSED)


def _named(
    config: Path | None, database: str, plan_key: Path | None, deployment: str
) -> tuple[str, Ed25519PublicKey, str]:
    """Return database, key and deployment, from settings or one by one; raises Problem."""
    if config is not None:
        if database or deployment:
            raise Problem("--config names the database and the deployment itself", "INVALID_ARGUMENT", WRONG_USE)
        from controlplane.settings import ControlSettings

        settings = ControlSettings.read(config)
        public = read_public(plan_key) if plan_key else read_private(settings.plan_key).public_key()
        return settings.database, public, settings.deployment
    if not (database and plan_key and deployment):
        raise Problem(
            "expected --config, or --database with --plan-key and --deployment", "INVALID_ARGUMENT", WRONG_USE
        )
    return database, read_public(plan_key), deployment


def _of_database(database: str, public: Ed25519PublicKey, deployment: str, held: list[str]) -> dict[str, Any]:
    from controlplane.store import ledger_audit
    from controlplane.store.database import open_database, reading

    check_database(database)
    try:
        engine = open_database(database)
        with reading(engine).connect() as connection:
            report = ledger_audit.verify(connection, public, f"interlock/{deployment}", held)
        engine.dispose()
    except Exception as error:
        if type(error).__module__.startswith("sqlalchemy"):
            # Neither the URL nor the driver's words: both may hold a password.
            raise Problem(f"the database holds no readable ledger: {type(error).__name__}", "FAILED") from error
        raise
    return {
        "verified": report.is_intact and report.size > 0,
        "size": report.size,
        "root": report.root.hex(),
        "checkpoints": report.checkpoints,
        "first_bad_seq": report.first_bad_seq,
        "problem": report.problem or ("" if report.size else "the ledger is empty"),
    }


def _of_export(
    folder: Path, plan_key: Path | None, deployment: str, held: list[str], witnesses: list[str]
) -> dict[str, Any]:
    from controlplane.report.export import ExportInvalid, verify_export

    if plan_key is None or not deployment:
        raise Problem("--export needs --plan-key and --deployment beside it", "INVALID_ARGUMENT", WRONG_USE)
    check_folder(folder, "an exported ledger")
    named = pairs(witnesses, "--witness", "NAME=KEYFILE")
    keys = {name: read_public(Path(path)) for name, path in named.items()}
    try:
        found = verify_export(folder, read_public(plan_key), deployment, held, keys)
    except ExportInvalid as error:
        return {"verified": False, "problem": str(error)}
    return {
        "verified": True, "size": found.head.size, "root": found.head.root.hex(),
        "witnesses": dict(sorted(found.seen.items())),
    }  # fmt: skip


def _verdict(found: dict[str, Any]) -> Text:
    if not found["verified"]:
        where = "" if found.get("first_bad_seq") is None else f" at entry {found['first_bad_seq']}"
        return Text.assemble(("NOT verified", "red"), marked(f"{where}: {found['problem']}", ""))
    count = found.get("checkpoints", 1)
    heads = "one signed head" if count == 1 else f"{count} signed heads"
    seen = "".join(f", the first {size} cosigned by {name}" for name, size in found.get("witnesses", {}).items())
    return Text.assemble(
        ("verified", "green"), marked(f": {found['size']} entries under {heads}, root {found['root']}{seen}", "")
    )


def check_database(url: str) -> None:
    """Refuse a SQLite file that is not there, since opening it would make one; raises Problem."""
    file = sqlite_file(url)
    if file is not None and not file.is_file():
        raise Problem(f"{url} is no file, expected the database of a control plane", "NOT_FOUND")


def sqlite_file(url: str) -> Path | None:
    """Return the file that a SQLite URL names, whatever its driver and options; None for another database."""
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] != "sqlite":
        return None
    return Path(rest.partition("?")[0].removeprefix("/"))


def read_checkpoint(path: Path) -> str:
    """Read a checkpoint kept in a file; raises FieldInvalid."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise FieldInvalid(f"{path}: not a readable checkpoint: {said}") from error
