"""``interlock operator``: keys, and who may approve."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli.output import JsonFlag, Problem, command, say, say_json, table
from protos.contract.attestation import ROLES, Operator, Operators, generate_key, public_text
from protos.contract.digest import canonical_json
from protos.contract.fields import FieldInvalid

app = typer.Typer(help="People and their keys.", no_args_is_help=True)


@app.command("keygen")
@command
def keygen(
    person: Annotated[str, typer.Option(help="Whose key this is.")],
    out: Annotated[Path, typer.Option(help="Private key to write; its public half goes to FILE.pub.")],
    enrol: Annotated[Path | None, typer.Option(help="operators.json to add the key to.")] = None,
    role: Annotated[list[str] | None, typer.Option(help=f"Role when enrolled: {', '.join(ROLES)}.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a key pair, and with --enrol let the person approve."""
    roles = tuple(dict.fromkeys(role or ["approver"]))
    for name in roles:
        if name not in ROLES:
            raise FieldInvalid(f"role is {name!r}, expected one of {', '.join(ROLES)}")
    if not person.strip():
        raise FieldInvalid(f"person is {person!r}, expected a name")
    known = Operators.read(enrol) if enrol is not None else None
    for path in (out, out.with_name(out.name + ".pub")):
        if path.exists():
            raise Problem(f"{path} exists and is not overwritten", "FAILED_PRECONDITION")
    text = public_text(generate_key(out))
    if known is not None and enrol is not None:
        _write(enrol, _enrolled(known, person, roles, text))
    if as_json:
        say_json({"person": person, "private_key": str(out), "public_key": text, "enrolled": enrol is not None})
        return
    where = f", enrolled in {enrol} as {', '.join(roles)}" if enrol else f"; public key {text}"
    say(f"wrote {out} (keep it to yourself) and {out}.pub{where}")


@app.command("list")
@command
def listed(
    operators: Annotated[Path, typer.Option(help="The gateway's and control plane's operators.json.")] = Path(
        "operators.json"
    ),
    as_json: JsonFlag = False,
) -> None:
    """Show who may do what."""
    found = Operators.read(operators)
    if as_json:
        say_json(found.to_json())
        return
    title = f"version {found.version}, {found.required_approvals} approvals for a forward move"
    rows = [(p.person, ", ".join(p.roles), "\n".join(p.keys)) for p in found.people]
    say(table(title, ("person", "roles", "keys"), rows))


def _enrolled(known: Operators, person: str, roles: tuple[str, ...], key: str) -> Operators:
    people = list(known.people)
    at = next((i for i, p in enumerate(people) if p.person == person), None)
    if at is None:
        people.append(Operator(person, roles, (key,)))
    else:
        held = people[at]
        people[at] = Operator(person, tuple(dict.fromkeys((*held.roles, *roles))), (*held.keys, key))
    return replace(known, version=known.version + 1, people=tuple(people))


def _write(path: Path, operators: Operators) -> None:
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=".operators-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(canonical_json(operators.to_json()) + b"\n")
    Path(partial).chmod(path.stat().st_mode & 0o777)
    os.replace(partial, path)
