"""``interlock access``: who may call, operate, label or look."""

import json
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli.output import JsonFlag, Problem, command, say, say_json, table
from controlplane.store.files import replace_file
from protos.contract.access import EVERY, ROLES, SCHEMA, Access
from protos.contract.digest import digest_bytes, parse_json_object

app = typer.Typer(help="Callers, and what they may do.", no_args_is_help=True)
File = Annotated[
    Path, typer.Argument(help="access.json, which gateways and the control plane read again when it changes.")
]


@app.command("add")
@command
def add(
    file: File,
    name: Annotated[str, typer.Option(help="A tenant, a person or a process.")],
    role: Annotated[list[str], typer.Option(help=f"Role, repeatable: {', '.join(ROLES)}.")],
    specialist: Annotated[list[str] | None, typer.Option(help=f"A specialist of theirs; {EVERY} for all.")] = None,
    identity: Annotated[list[str] | None, typer.Option(help="Name in their certificate, such as spiffe://…")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Let somebody in; without --identity a token is made, shown once and kept only as its hash."""
    body: dict[str, Any] = (
        parse_json_object(file.read_bytes()) if file.exists() else {"schema": SCHEMA, "principals": []}
    )
    Access.from_json(body)
    token = "" if identity else secrets.token_urlsafe(32)
    if any(p["name"] == name for p in body["principals"]):
        raise Problem(f"{name!r} is in {file} already", "FAILED_PRECONDITION")
    body["principals"].append(
        {
            "name": name,
            "roles": list(dict.fromkeys(role)),
            "specialists": list(dict.fromkeys(specialist or ())),
            "tokens": [digest_bytes(token.encode())] if token else [],
            "identities": list(identity or ()),
        }
    )
    Access.from_json(body)
    replace_file(file, _written(body), 0o600)
    if as_json:
        say_json({"name": name, "token": token or None})
    else:
        say(f"{name} may {', '.join(role)}" + (f"\ntoken, shown once: {token}" if token else ""))


@app.command("remove")
@command
def remove(file: File, name: Annotated[str, typer.Option(help="As it was added.")], as_json: JsonFlag = False) -> None:
    """Let somebody in no more, as soon as the processes have read the file again: a second or two."""
    body = parse_json_object(file.read_bytes())
    Access.from_json(body)
    kept = [p for p in body["principals"] if p["name"] != name]
    if len(kept) == len(body["principals"]):
        raise Problem(f"{name!r} is not in {file}", "NOT_FOUND")
    replace_file(file, _written({**body, "principals": kept}), 0o600)
    if as_json:
        say_json({"removed": name})
    else:
        say(f"{name} is removed")


@app.command("list")
@command
def listed(file: File, as_json: JsonFlag = False) -> None:
    """Show who may do what."""
    body = parse_json_object(file.read_bytes())
    found = sorted(Access.from_json(body).principals, key=lambda p: p.name)
    if as_json:
        say_json([{"name": p.name, "roles": sorted(p.roles), "specialists": sorted(p.specialists)} for p in found])
        return
    rows = [(p.name, ", ".join(sorted(p.roles)), ", ".join(sorted(p.specialists))) for p in found]
    say(table(str(file), ("who", "roles", "specialists"), rows))


def _written(body: dict[str, Any]) -> bytes:
    return (json.dumps(body, indent=1) + "\n").encode()
