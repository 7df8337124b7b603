"""``interlock bundle build``: a bundle of a folder of files."""

from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli.bundle_store import STORE, StoreOption
from controlplane.cli.output import JsonFlag, Problem, command, say, say_json
from controlplane.cli.processes import ServersOption, servers_of_file
from controlplane.training.assembled import DEFINITION, Assembled
from protos.contract.url_store import open_store


@command
def build(
    folder: Annotated[Path, typer.Argument(help=f"Data files and {DEFINITION}: tables task, engine, lineage.")],
    author: Annotated[str, typer.Option(help="Whose bundle it is; that person may not approve it.")],
    store: StoreOption = STORE,
    base: Annotated[Path | None, typer.Option(help="Base model's directory, kept once beside the bundles.")] = None,
    base_name: Annotated[str, typer.Option(help="What the base model is called.")] = "",
    probe: Annotated[
        list[str] | None, typer.Option(help="Text whose answer is recorded and asked again before the bundle serves.")
    ] = None,
    config: ServersOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a bundle of a folder; with --probe its engine answers first, here or on the declared server."""
    from controlplane.evals.engine import EngineFailed

    there = open_store(store)
    made = Assembled.of(folder, author)
    if base is not None:
        made = made.on(there, base_name or base.resolve().name, base)
    if probe:
        try:
            made = made.probed(there, probe, servers_of_file(config))
        except EngineFailed as error:
            raise Problem(str(error), "FAILED_PRECONDITION") from error
    manifest = made.add_to(there)
    if as_json:
        say_json({"digest": manifest.digest, "files": dict(manifest.files), "base": dict(manifest.base)})
        return
    say(f"{manifest.digest}\n{manifest.task.name} on {manifest.backend}, {len(manifest.files)} files, by {author}")
