"""``interlock evidence``: what a rollout rests on, and whether it holds."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from controlplane.cli.connection import CONTROL, ControlOption, control_at
from controlplane.cli.output import (
    REFUSED,
    WRONG_USE,
    JsonFlag,
    Problem,
    check_folder,
    command,
    marked,
    say,
    say_json,
    table,
)
from controlplane.cli.rollout import Rollout
from protos import control_pb2 as pb
from protos.contract.attestation import Operators, read_public
from protos.contract.digest import JsonMalformed

if TYPE_CHECKING:
    from controlplane.report.verify import Check

T = TypeVar("T")

app = typer.Typer(help="Evidence of a rollout.", no_args_is_help=True)


@app.command("build")
@command
def build(
    rollout: Rollout,
    out: Annotated[
        Path | None, typer.Option(help="Write it here too, as where the control plane is elsewhere.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings of a control plane that is not running: build from its database.")
    ] = None,
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Write everything about a rollout as files that verify offline; the same state gives the same bytes."""
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Problem(f"out is {str(out)!r}, expected a folder that is new or empty", "INVALID_ARGUMENT", WRONG_USE)
    if config is not None:
        found = _built_offline(config, rollout, with_files=out is not None)
    else:
        with control_at(control) as server:
            found = server.GetEvidence(pb.GetEvidenceRequest(rollout=rollout, with_files=out is not None))
    for name, data in found.files.items():
        assert out is not None
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    folder = out or Path(found.path)
    # The control plane may run elsewhere; its folder is listed only where it can be seen.
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    sizes = [(str(p.relative_to(folder)), p.stat().st_size) for p in files]
    if as_json:
        listed = [{"name": name, "bytes": size} for name, size in sizes]
        say_json({"rollout": found.rollout, "path": str(folder), "digest": found.digest, "files": listed})
        return
    say(f"{found.rollout}: {found.digest}\n{folder}", table("", ("file", "bytes"), sizes))


def _built_offline(config: Path, rollout: str, *, with_files: bool) -> pb.Evidence:
    from controlplane.__main__ import build as opened
    from controlplane.cli.ledger import check_database
    from controlplane.errors import ControlError
    from controlplane.loop.evidence import whole_files
    from controlplane.rpc.transactions import find_rollout
    from controlplane.settings import ControlSettings

    settings = ControlSettings.read(config)
    check_database(settings.database)
    deployment = opened(settings, lambda: None)
    try:
        with deployment.store.writing(deployment.clock()) as unit:
            row = find_rollout(unit, deployment, rollout)
            files, digest = whole_files(unit, deployment, row)
            path = deployment.artifacts.put_directory(row.state.id, files)
    except ControlError as error:
        raise Problem(str(error), "NOT_FOUND") from error
    finally:
        deployment.embedder.close()
        deployment.store.close()
    return pb.Evidence(
        rollout=row.state.id, path=str(path.absolute()), digest=digest, files=files if with_files else {}
    )


Folder = Annotated[Path, typer.Argument(help="What `evidence build` wrote.")]
People = Annotated[Path | None, typer.Option(help="Who may approve, from a source you trust.")]
Audience = Annotated[str | None, typer.Option(help="The deployment it has to be of.")]


@app.command("show")
@command
def show(folder: Folder, as_json: JsonFlag = False) -> None:
    """Say what a folder of evidence holds: outcome, materials, demands, approvals; offline, and nothing is checked."""
    from controlplane.report.difference import overview

    found = _read(lambda: overview(folder), folder)
    if as_json:
        say_json(found)
        return
    say(table(str(folder), ("what", ""), [(name, _short(value)) for name, value in found.items()]))


@app.command("verify")
@command
def verify(
    folder: Folder,
    plan_key: Annotated[Path, typer.Option(help="The control plane's public key, from a source you trust.")],
    operators: People = None,
    deployment: Audience = None,
    as_json: JsonFlag = False,
) -> None:
    """Check every file, signature, plan and ledger entry, offline."""
    checks = _verified(folder, plan_key, operators, deployment)
    good = bool(checks) and all(check.ok for check in checks)
    if as_json:
        listed = [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in checks]
        say_json({"verified": good, "checks": listed})
    else:
        rows = [(c.name, marked("ok", "green") if c.ok else marked("FAILED", "red"), c.detail) for c in checks]
        say(table(str(folder), ("check", "", "found"), rows))
    if not good:
        raise typer.Exit(REFUSED)


@app.command("report")
@command
def report(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("evidence.html"),
    plan_key: Annotated[
        Path | None, typer.Option(help="The control plane's public key: verify first and say so at the top.")
    ] = None,
    operators: People = None,
    deployment: Audience = None,
    as_json: JsonFlag = False,
) -> None:
    """Write one self-contained HTML page for people who approve or audit; offline."""
    from controlplane.report.evidence import page

    checks = None if plan_key is None else _verified(folder, plan_key, operators, deployment)
    good = None if checks is None else bool(checks) and all(check.ok for check in checks)
    out.write_text(_read(lambda: page(folder, checks), folder), "utf-8")
    if as_json:
        say_json({"path": str(out), "verified": good})
    else:
        words = {None: "not verified (no --plan-key)", True: "verified", False: marked("NOT verified", "red")}
        say(f"{out}, {words[good]}")
    if good is False:
        raise typer.Exit(REFUSED)


@app.command("diff")
@command
def diff(
    before: Annotated[Path, typer.Argument(help="What `evidence build` wrote of one rollout.")],
    after: Annotated[Path, typer.Argument(help="And of another.")],
    as_json: JsonFlag = False,
) -> None:
    """Compare two rollouts: bundles, data, suite, and every score of their candidates; offline."""
    from controlplane.report.difference import difference

    found = _read(lambda: difference(before, after), before, after)
    if as_json:
        say_json([{"what": d.what, "before": d.before, "after": d.after} for d in found])
        return
    rows = [(d.what, _short(d.before), _short(d.after)) for d in found]
    say(table("", ("what", before.name, after.name), rows) if rows else "no difference")


def _short(value: str | float | None) -> str:
    if isinstance(value, str):
        return value[:19] if value.startswith("sha256:") else value
    return "" if value is None else f"{value:.4g}"


def _verified(folder: Path, plan_key: Path, operators: Path | None, deployment: str | None) -> "list[Check]":
    from controlplane.report.verify import verify_evidence

    check_folder(folder, "a rollout's evidence")
    people = Operators.read(operators) if operators is not None else None
    return verify_evidence(folder, read_public(plan_key), people, deployment)


def _read(work: Callable[[], T], *folders: Path) -> T:
    for folder in folders:
        check_folder(folder, "a rollout's evidence")
    try:
        return work()
    except (JsonMalformed, KeyError, OSError, TypeError, ValueError) as error:
        said = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        where = " or ".join(map(str, folders))
        raise Problem(f"{where} is no whole evidence of a rollout: {said}", "INVALID_ARGUMENT", WRONG_USE) from error
