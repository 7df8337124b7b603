"""``interlock engine``: the same specialist on another engine, and what engine workers hold."""

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated

import typer

from controlplane import worker_socket
from controlplane.cli.bundle_store import BUNDLES, BundlesOption, DigestArgument, find_bundle
from controlplane.cli.output import (
    WRONG_USE,
    JsonFlag,
    Problem,
    as_dict,
    bar,
    check_folder,
    command,
    marked,
    say,
    say_json,
    short,
    table,
)
from controlplane.cli.processes import CONFIG, ConfigOption
from protos import engine_pb2
from protos.contract.bundle import BundleStore
from protos.contract.settings_file import read_tables

app = typer.Typer(help="Engine workers, and specialists on another engine.", no_args_is_help=True)

PATIENCE_S = 5.0


@app.command("status")
@command
def status(config: ConfigOption = CONFIG, as_json: JsonFlag = False) -> None:
    """Show what the workers of this machine hold: bundles, who needs them, bases and the adapters on them."""
    named = read_tables(config).get("gateway", {}).get("worker_sockets", [])
    workers = [(str(path), _stats(config.parent / str(path))) for path in named]
    if as_json:
        say_json([{"worker": name, **(as_dict(found) if found else {"connected": False})} for name, found in workers])
        return
    for name, found in workers:
        if found is None:
            say(f"{name}: {marked('nobody listens', 'red')}")
            continue
        bundles = [
            (short(b.bundle_digest), b.specialist, b.backend, "preload" if b.preload else "plan", f"{b.bytes:,}")
            for b in found.bundles
        ]
        bases = [
            (
                b.name,
                b.bundles,
                f"{b.adapters_in_use} in use, {b.adapters} of {b.max_adapters}",
                f"{b.bytes:,}",
                f"{b.extra_bytes:,}",
            )
            for b in found.bases
        ]
        say(f"{name}: {found.completed:,} answers in {found.batches:,} batches, {found.queued} waiting")
        say(table("", ("bundle", "specialist", "engine", "held by", "bytes"), bundles))
        if bases:
            say(table("", ("base", "bundles", "adapters", "bytes", "adapters and prefixes"), bases))


def _stats(path: Path) -> engine_pb2.Stats | None:
    """Ask one worker; None where nobody answers."""
    with contextlib.suppress(OSError):
        return asyncio.run(worker_socket.stats(path, PATIENCE_S))
    return None


@app.command("convert")
@command
def convert(
    bundle: DigestArgument,
    dev: Annotated[Path, typer.Option(help="Held-out texts, JSON Lines with text and label: both are compared on it.")],
    author: Annotated[str, typer.Option("--as", help="Who asks; may not approve what comes out.")],
    bundles: BundlesOption = BUNDLES,
    precision: Annotated[str, typer.Option(help="auto (bf16 where the CPU has it) or int8.")] = "auto",
    text: Annotated[bool, typer.Option("--text", help="Of a decoder: write text too, beside scores.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make an OpenVINO bundle of a decoder, or eight bits of an OpenVINO bundle; refused where it answers worse."""
    from controlplane.training.convert import PRECISIONS, ConversionFailed
    from controlplane.training.convert import convert as run
    from controlplane.training.dataset import read_dataset

    if precision not in PRECISIONS:
        raise Problem(
            f"--precision is {precision!r}, expected one of {', '.join(PRECISIONS)}", "INVALID_ARGUMENT", WRONG_USE
        )
    if not author.strip():
        raise Problem(f"--as is {author!r}, expected who asks", "INVALID_ARGUMENT", WRONG_USE)
    check_folder(bundles, "bundles")
    store = BundleStore(bundles)
    digest = find_bundle(store, bundle)
    held = read_dataset(dev, store.manifest(digest).task.labels)
    with bar(as_json) as progress:
        try:
            found = run(store, digest, held, precision, author, progress, writes=text)
        except ConversionFailed as error:
            raise Problem(str(error)) from error
    if as_json:
        say_json(
            {
                "bundle": found.digest,
                "rows": found.rows,
                "accuracy_before": found.accuracy_before,
                "accuracy": found.accuracy,
                "most_difference": found.most_difference,
            }
        )
        return
    rows = [
        ("accuracy before", f"{found.accuracy_before:.4f}"),
        ("accuracy", f"{found.accuracy:.4f}"),
        ("largest difference of a probability", f"{found.most_difference:.4f}"),
        ("held-out texts", found.rows),
    ]
    say(f"bundle {found.digest}", table("", ("", "value"), rows))
