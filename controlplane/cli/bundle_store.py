"""Bundle stores as commands are told of them, and one bundle in them."""

from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli.output import WRONG_USE, Problem, short
from protos.contract.bundle import BundleStore
from protos.contract.url_store import UrlStore, open_store

StoreOption = Annotated[
    str, typer.Option("--store", envvar="INTERLOCK_BUNDLES", help="Bundle store: a directory or any fsspec URL.")
]
STORE = "bundles"
BundlesOption = Annotated[Path, typer.Option("--bundles", envvar="INTERLOCK_BUNDLES", help="Folder of bundles.")]
BUNDLES = Path("bundles")
DigestArgument = Annotated[str, typer.Argument(help="A bundle: sha256:… or enough of its first digits.")]


def open_bundles(where: str) -> BundleStore:
    """Open a store that exists; raises Problem."""
    store = open_store(where)
    if not isinstance(store, UrlStore) and not store.root.is_dir():
        raise Problem(f"no bundle store at {where}", "NOT_FOUND")
    return store


def find_bundle(store: BundleStore, wanted: str) -> str:
    """Return the one bundle whose digest begins so; raises Problem."""
    start = "sha256:" + wanted.removeprefix("sha256:").lower()
    found = [digest for digest in store.digests() if digest.startswith(start)]
    if len(found) != 1:
        begin = "no bundle begins" if not found else f"{len(found)} bundles begin"
        raise Problem(f"bundle is {wanted!r}, and {begin} so in the store, expected one", "NOT_FOUND")
    return found[0]


def find_bundle_of(store: BundleStore, wanted: str, specialist: str) -> str:
    """Return the one bundle whose digest begins so, which has to be of that specialist; raises Problem."""
    digest = find_bundle(store, wanted)
    found = store.manifest(digest).task.name
    if found != specialist:
        raise Problem(
            f"bundle {short(digest)} is for {found!r}, expected {specialist!r}", "INVALID_ARGUMENT", WRONG_USE
        )
    return digest
