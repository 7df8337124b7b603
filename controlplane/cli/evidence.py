"""``interlock evidence``: what a rollout rests on, and whether it holds."""

from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli.connection import CONTROL, ControlOption, control_at
from controlplane.cli.output import REFUSED, JsonFlag, command, marked, say, say_json, table
from controlplane.cli.rollout import Rollout
from protos import control_pb2 as pb
from protos.contract.attestation import Operators, read_public

app = typer.Typer(help="Evidence of a rollout.", no_args_is_help=True)


@app.command("show")
@command
def show(rollout: Rollout, control: ControlOption = CONTROL, as_json: JsonFlag = False) -> None:
    """Write a rollout's evidence into the artifact store and say where."""
    with control_at(control) as server:
        found = server.GetEvidence(pb.GetEvidenceRequest(rollout=rollout))
    folder = Path(found.path)
    # The control plane may run elsewhere; its folder is listed only where it can be seen.
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    sizes = [(str(p.relative_to(folder)), p.stat().st_size) for p in files]
    if as_json:
        listed = [{"name": name, "bytes": size} for name, size in sizes]
        say_json({"rollout": found.rollout, "path": found.path, "digest": found.digest, "files": listed})
        return
    say(f"{found.rollout}: {found.digest}\n{found.path}", table("", ("file", "bytes"), sizes))


@app.command("verify")
@command
def verify(
    folder: Annotated[Path, typer.Argument(help="What `evidence show` wrote.")],
    plan_key: Annotated[Path, typer.Option(help="The control plane's public key, from a source you trust.")],
    operators: Annotated[Path | None, typer.Option(help="Who may approve, from a source you trust.")] = None,
    deployment: Annotated[str | None, typer.Option(help="The deployment it has to be of.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check every file, signature, plan and ledger entry, offline."""
    from controlplane.report.verify import verify_evidence

    people = Operators.read(operators) if operators is not None else None
    checks = verify_evidence(folder, read_public(plan_key), people, deployment)
    good = bool(checks) and all(check.ok for check in checks)
    if as_json:
        listed = [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in checks]
        say_json({"verified": good, "checks": listed})
    else:
        rows = [(c.name, marked("ok", "green") if c.ok else marked("FAILED", "red"), c.detail) for c in checks]
        say(table(str(folder), ("check", "", "found"), rows))
    if not good:
        raise typer.Exit(REFUSED)
