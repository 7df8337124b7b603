"""``interlock init``: a folder that ``interlock up`` can run."""

import json
import re
import time
from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli.output import JsonFlag, Problem, command, say, say_json
from controlplane.store.seals import publish
from controlplane.store.vault import Vault
from protos.contract.attestation import generate_key
from protos.contract.digest import canonical_json
from protos.contract.fields import FieldInvalid

_NAME = re.compile(r"[!-*,-~]{1,190}")  # what may follow "interlock/" as the origin of a checkpoint

TEMPLATE = """\
[gateway]
deployment = {name}
listen = "127.0.0.1:8500"
control = "127.0.0.1:8600"
worker_sockets = ["run/worker.sock"]
bundles_dir = "bundles"
capture_dir = "capture"
capture_seal_key = "keys/capture.pub"
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
capture_seal = "keys/capture.pub"
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
    if not _NAME.fullmatch(deployment):
        raise FieldInvalid(
            f"deployment is {deployment!r}, expected 1 to 190 printable ASCII characters, no space or '+'"
        )
    for path in (config, operators, key, key.with_name(key.name + ".pub")):
        if path.exists():
            raise Problem(f"{path} exists, expected a folder without one", "FAILED_PRECONDITION")
    text = TEMPLATE.format(name=_quoted(deployment), pack=_quoted(_usable(pack, data)))
    folder.mkdir(parents=True, exist_ok=True)
    if data is not None:
        text += f"data = {_quoted(str(data.resolve()))}\n"
    generate_key(key)
    vault = Vault(folder / "capture.keys")
    publish(vault, folder / "keys" / "capture.pub", int(time.time() * 1000))
    vault.close()
    nobody = {"version": 1, "required_approvals": required_approvals, "people": []}
    operators.write_bytes(canonical_json(nobody) + b"\n")
    config.write_text(text)
    if as_json:
        say_json({"config": str(config), "operators": str(operators), "plan_key": str(key)})
        return
    say(
        f"wrote {config}, {operators}, {key}\n"
        f"next: interlock operator keygen --person NAME --out FILE --enrol {operators}\n"
        f"then: interlock up --config {config}\n"
        f"a bundle from a labelled file: interlock bundle train {pack} --data FILE --author NAME "
        f"--store {folder / 'bundles'} --artifacts {folder / 'artifacts'}"
    )


def _usable(pack: str, data: Path | None) -> str:
    """Return how settings name a pack; raises what would keep a control plane from starting with it."""
    from controlplane.packs.registry import FOLDERS, load_pack

    if pack in FOLDERS and data is None:
        return pack
    load_pack(pack, data)
    return f"{Path(pack).resolve()}/" if "/" in pack else pack


def _quoted(text: str) -> str:
    # TOML shares JSON's short escapes, but not its surrogate pairs.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
