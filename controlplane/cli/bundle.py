"""``interlock bundle``: make, look at, check, copy and clear away what engines serve."""

import json
from typing import Annotated, Any

import typer

from controlplane.cli.bundle_build import build
from controlplane.cli.bundle_gc import gc
from controlplane.cli.bundle_store import STORE, DigestArgument, StoreOption, find_bundle, open_bundles
from controlplane.cli.bundle_train import train
from controlplane.cli.output import REFUSED, JsonFlag, command, marked, say, say_json, short, table
from controlplane.store.delivery import base_missing, copy_bundle
from protos.contract.base import BaseInvalid
from protos.contract.bundle import BundleInvalid, BundleStore
from protos.contract.fields import FieldInvalid
from protos.contract.url_store import bases_of, open_store

app = typer.Typer(help="What engines serve: immutable, named by its content.", no_args_is_help=True)
app.command("build")(build)
app.command("train")(train)
app.command("gc")(gc)


@app.command("inspect")
@command
def inspect(digest: DigestArgument, store: StoreOption = STORE, as_json: JsonFlag = False) -> None:
    """Show what a bundle is made of."""
    there = open_bundles(store)
    found = find_bundle(there, digest)
    manifest = there.manifest(found)
    size = there.size(found)
    if as_json:
        say_json({"digest": found, "bytes": size, **manifest.to_json()})
        return
    rows = [
        ("specialist", manifest.task.name),
        ("labels", ", ".join(manifest.task.labels)),
        ("accepts", f"{manifest.task.label_logprobs} label probabilities"),
        ("engine", json.dumps(dict(manifest.engine), sort_keys=True)),
        ("base", f"{manifest.base['name']} {short(manifest.base['digest'])}" if manifest.base else "none"),
        ("author", manifest.author or "unknown"),
        ("bytes", f"{size:,}"),
    ]
    files = [(name, short(digest)) for name, digest in sorted(manifest.files.items())]
    say(found, table("", ("", ""), rows), table("files", ("file", "sha256"), files))


@app.command("verify")
@command
def verify(
    digests: Annotated[list[str] | None, typer.Argument(help="Bundles; all of the store when none is named.")] = None,
    store: StoreOption = STORE,
    as_json: JsonFlag = False,
) -> None:
    """Hash every byte of bundles, and of the bases they refer to, and read every file that has a form."""
    there = open_bundles(store)
    wanted = [find_bundle(there, digest) for digest in digests] if digests else there.digests()
    checks = [(digest, _problem(there, digest)) for digest in wanted]
    bad = [digest for digest, problem in checks if problem]
    if as_json:
        told = [{"digest": d, "ok": not p, "problem": p, "base_missing": base_missing(there, d)} for d, p in checks]
        say_json({"verified": not bad, "bundles": told})
    else:
        rows = [
            (short(d), marked("FAILED", "red") if p else marked("ok", "green"), p or _left_out(there, d))
            for d, p in checks
        ]
        say(table(store, ("bundle", "", "found"), rows))
    if bad:
        raise typer.Exit(REFUSED)


def _problem(store: BundleStore, digest: str) -> str:
    from controlplane.training.assembled import check_contents

    try:
        bundle = store.load(digest)
        check_contents(bundle.manifest.task, bundle.contents)
        base = str(bundle.manifest.base.get("digest", ""))
        bases = bases_of(store)
        if base and base in bases.digests():
            listing = bases.listing(base)
            for name in listing.files:
                bases.read(base, listing, name)
    except (BundleInvalid, BaseInvalid, FieldInvalid) as error:
        return str(error)
    return ""


def _left_out(store: BundleStore, digest: str) -> str:
    base = base_missing(store, digest)
    return f"its base {short(base)} is not in this store" if base else ""


@app.command("diff")
@command
def diff(first: DigestArgument, second: DigestArgument, store: StoreOption = STORE, as_json: JsonFlag = False) -> None:
    """Show in what two bundles differ: task, engine, files, base, lineage."""
    there = open_bundles(store)
    names = find_bundle(there, first), find_bundle(there, second)
    left, right = (_flat(there.manifest(name).to_json()) for name in names)
    changes = [
        {"field": field, "first": left.get(field), "second": right.get(field)}
        for field in sorted(left.keys() | right.keys())
        if left.get(field) != right.get(field)
    ]
    if as_json:
        say_json({"first": names[0], "second": names[1], "changes": changes})
        return
    rows = [(c["field"], _shown(c["first"]), _shown(c["second"])) for c in changes]
    say(table("", ("field", short(names[0]), short(names[1])), rows) if rows else "the same")


def _flat(value: Any, where: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{where}.{key}" if where else key).items()}
    return {where: value}


def _shown(value: Any) -> str:
    text = "-" if value is None else value if isinstance(value, str) else json.dumps(value)
    return short(text) if text.startswith("sha256:") else text


@app.command("export")
@command
def export(
    digest: DigestArgument,
    to: Annotated[str, typer.Option(help="Store to copy to: a directory or any fsspec URL.")],
    store: StoreOption = STORE,
    as_json: JsonFlag = False,
) -> None:
    """Copy a bundle, and the base it refers to, to another store; every byte is verified on the way."""
    there, other = open_bundles(store), open_store(to)
    found = find_bundle(there, digest)
    copy_bundle(there, found, other, lambda _: None)
    missing = base_missing(other, found)
    if as_json:
        say_json({"digest": found, "to": to, "bytes": other.size(found), "base_missing": missing})
        return
    say(f"{found} is in {to}", *([f"its base {missing} is in neither store"] if missing else []))
