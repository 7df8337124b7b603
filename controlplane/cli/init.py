"""``interlock init``: a folder that ``interlock up`` can run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli.output import JsonFlag, Problem, command, console, say_json
from protos.contract.attestation import generate_key
from protos.contract.digest import canonical_json

TEMPLATE = """\
[gateway]
deployment = {name}
listen = "127.0.0.1:8500"
control = "127.0.0.1:8600"
worker_sockets = ["run/worker.sock"]
bundles_dir = "bundles"
capture_dir = "capture"
state_dir = "state"
operators = "operators.json"
plan_key = "keys/plan.key.pub"

[worker]
socket = "run/worker.sock"
bundles_dir = "bundles"

[controlplane]
deployment = {name}
listen = "127.0.0.1:8600"
database = "sqlite:///control.db"
bundles_dir = "bundles"
capture_dir = "capture"
operators = "operators.json"
plan_key = "keys/plan.key"

[[controlplane.specialists]]
pack = {pack}
"""


@command
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to write; made when missing.")],
    deployment: Annotated[str, typer.Option(help="Name that approvals are bound to.")] = "local",
    required_approvals: Annotated[int, typer.Option(min=1, max=16, help="People a forward move needs.")] = 2,
    pack: Annotated[str, typer.Option(help="Specialist to look after.")] = "brand-safety",
    data: Annotated[Path | None, typer.Option(help="Labelled file of the pack labelled-file.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write settings, the control plane's key and an empty list of operators."""
    config, operators, key = folder / "interlock.toml", folder / "operators.json", folder / "keys" / "plan.key"
    for path in (config, operators, key):
        if path.exists():
            raise Problem(f"{path} exists, expected a folder without one", "FAILED_PRECONDITION")
    folder.mkdir(parents=True, exist_ok=True)
    text = TEMPLATE.format(name=json.dumps(deployment), pack=json.dumps(pack))
    if data is not None:
        text += f"data = {json.dumps(str(data.resolve()))}\n"
    generate_key(key)
    nobody = {"version": 1, "required_approvals": required_approvals, "people": []}
    operators.write_bytes(canonical_json(nobody) + b"\n")
    config.write_text(text)
    if as_json:
        say_json({"config": str(config), "operators": str(operators), "plan_key": str(key)})
        return
    console().print(
        f"wrote {config}, {operators}, {key}\n"
        f"next: interlock operator keygen --person NAME --out FILE --enrol {operators}\n"
        f"then: interlock up --config {config}"
    )
