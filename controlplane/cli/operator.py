"""``interlock operator``: keys, and who may approve."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli.connection import CONTROL, ControlOption, governance_at
from controlplane.cli.output import WRONG_USE, JsonFlag, Problem, as_dict, command, say, say_json, table
from controlplane.cli.signing import check_key, sign_with
from controlplane.store.files import replace_file
from protos import governance_pb2
from protos.contract.attestation import ROLES, Operator, Operators, enrolled_key, generate_key, public_text
from protos.contract.digest import canonical_json, parse_json_object
from protos.contract.fields import FieldInvalid
from protos.contract.operators import Revoked, envelope_from_json, envelope_to_json, operators_envelope

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
        replace_file(enrol, _written(_enrolled(known, person, roles, text)))
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


@app.command("enrol")
@command
def enrol(
    operators: Annotated[Path, typer.Argument(help="operators.json, bare or signed.")],
    person: Annotated[str, typer.Option(help="Whose key it is.")],
    key: Annotated[Path, typer.Option(help="Public key file: ours, or OpenSSH's (.pub).")],
    role: Annotated[list[str] | None, typer.Option(help=f"Role: {', '.join(ROLES)}.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the next version here for owners to sign.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Add a person's public key: in place to a bare list, or as the next version of a signed one."""
    text = enrolled_key(key.read_text(), str(key)).text
    following = _enrolled(Operators.read(operators), person, tuple(role or ["approver"]), text)
    _write_next(operators, out, Operators.from_json(following.to_json()), as_json)


@app.command("revoke")
@command
def revoke(
    operators: Annotated[Path, typer.Argument(help="operators.json, bare or signed.")],
    key: Annotated[str, typer.Option(help="The key as `operator list` shows it.")],
    since: Annotated[int, typer.Option(min=0, help="Ledger entry from which it counts no more.")],
    out: Annotated[Path | None, typer.Option(help="Write the next version here for owners to sign.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Let a key count no more; what the ledger recorded of it before stands."""
    known = Operators.read(operators)
    text = enrolled_key(key, "key").text
    if not any(text in p.keys for p in known.people):
        raise Problem(f"{text} is nobody's key", "NOT_FOUND")
    revoked = (*known.revoked, Revoked(text, since))
    _write_next(operators, out, replace(known, version=known.version + 1, revoked=revoked), as_json)


@app.command("sign")
@command
def sign(
    file: Annotated[Path, typer.Argument(help="The next version, as `enrol` or `revoke` wrote it with --out.")],
    key: Annotated[Path, typer.Option(help="Your private key, as an owner.")],
    as_json: JsonFlag = False,
) -> None:
    """Add an owner's signature to a list of people."""
    check_key(key)
    envelope = envelope_from_json(parse_json_object(file.read_bytes()))
    following = Operators.from_json(parse_json_object(envelope.payload))
    sign_with(key, envelope)
    file.write_text(json.dumps(envelope_to_json(envelope), indent=1) + "\n")
    found = {"file": str(file), "version": following.version, "signatures": len(envelope.signatures)}
    if as_json:
        say_json(found)
    else:
        say(f"{file}: version {following.version}, {len(envelope.signatures)} signatures")


@app.command("publish")
@command
def publish(
    file: Annotated[Path, typer.Argument(help="The next version with enough owners' signatures.")],
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Hand the next version in; gateways take it with their next plan, and check the owners' signatures themselves."""
    envelope = envelope_from_json(parse_json_object(file.read_bytes()))
    with governance_at(control) as server:
        found = server.UpdateOperators(governance_pb2.UpdateOperatorsRequest(envelope=envelope))
    if as_json:
        say_json(as_dict(found))
    else:
        say(f"version {found.version} is in force")


def _write_next(operators: Path, out: Path | None, following: Operators, as_json: bool) -> None:
    is_signed = "payload" in parse_json_object(operators.read_bytes())
    if out is None and (is_signed or following.owners()):
        raise Problem(f"{operators} has owners, expected --out FILE for them to sign", "FAILED_PRECONDITION", WRONG_USE)
    if out is None:
        replace_file(operators, _written(following))
    else:
        out.write_text(json.dumps(envelope_to_json(operators_envelope(following)), indent=1) + "\n")
    if as_json:
        say_json({"file": str(out or operators), "version": following.version})
    else:
        then = f"; next: interlock operator sign {out} --key OWNER" if out else ""
        say(f"wrote {out or operators}: version {following.version}{then}")


def _enrolled(known: Operators, person: str, roles: tuple[str, ...], key: str) -> Operators:
    people = list(known.people)
    at = next((i for i, p in enumerate(people) if p.person == person), None)
    if at is None:
        people.append(Operator(person, roles, (key,)))
    else:
        held = people[at]
        people[at] = Operator(person, tuple(dict.fromkeys((*held.roles, *roles))), (*held.keys, key))
    return replace(known, version=known.version + 1, people=tuple(people))


def _written(operators: Operators) -> bytes:
    return canonical_json(operators.to_json()) + b"\n"
