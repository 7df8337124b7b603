"""``interlock gateway serve``, ``worker serve``, ``control serve``: become the process itself."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from controlplane.cli.output import JsonFlag, command
from protos.contract.cached_store import MAX_BYTES
from protos.contract.fields import Reader
from protos.contract.servers import RemoteSettings, servers_in
from protos.contract.settings_file import read_table, read_tables

Front = Literal["auto", "direct", "envoy-tcp", "envoy", "grpcio"]
ConfigOption = Annotated[Path, typer.Option("--config", help="Settings of all three processes, one TOML table each.")]
CONFIG = Path("interlock.toml")
ServersOption = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Settings whose tables gateway.engines declare the servers elsewhere that hold bundles."
    ),
]

gateway = typer.Typer(help="The gateway: answers callers from a verified plan.", no_args_is_help=True)
worker = typer.Typer(help="The engine worker: owns a device and its models.", no_args_is_help=True)
control = typer.Typer(
    help="The control plane: watches, trains, waits for people, publishes plans.", no_args_is_help=True
)


@gateway.command("serve")
@command
def gateway_serve(
    config: ConfigOption = CONFIG,
    front: Annotated[Front | None, typer.Option(help="In place of the setting gateway.front.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run the gateway in this process; its log is its output."""
    _become(gateway_command(config) + (["--front", front] if front else []))


@worker.command("serve")
@command
def worker_serve(config: ConfigOption = CONFIG, as_json: JsonFlag = False) -> None:
    """Run the engine worker in this process; its log is its output."""
    line = worker_command(config)
    make_socket_folder(line)
    _become(line)


@control.command("serve")
@command
def control_serve(config: ConfigOption = CONFIG, as_json: JsonFlag = False) -> None:
    """Run the control plane in this process; its log is its output."""
    _become(control_command(config))


def servers_of_file(config: Path | None) -> tuple[RemoteSettings, ...]:
    """Return the servers elsewhere that a settings file declares; none without a file. Raises FieldInvalid."""
    if config is None:
        return ()
    return servers_in(read_tables(config), config.parent.resolve())


def gateway_command(config: Path) -> list[str]:
    """Return the gateway's command line."""
    return [sys.executable, "-m", "gateway", "--config", str(config)]


def control_command(config: Path) -> list[str]:
    """Return the control plane's command line."""
    return [sys.executable, "-m", "controlplane", "--config", str(config)]


def worker_command(config: Path) -> list[str]:
    """Read the ``[worker]`` table and return the worker's command line; raises FieldInvalid."""
    read = Reader(read_table(config, "worker"), "worker")
    root = config.parent.resolve()
    arguments = ["--socket", str(root / read.text("socket")), "--bundles", str(root / read.text("bundles_dir"))]
    for name in ("max_queue", "token_budget", "threads", "max_rank", "max_adapters"):
        if value := read.integer(name, 1, 1 << 24, 0):
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    if worker_id := read.text("worker_id", ""):
        arguments += ["--worker-id", worker_id]
    most = read.integer("bundles_max_bytes", 0, 1 << 50, MAX_BYTES)
    if url := read.text("bundles_url", ""):
        arguments += ["--bundles-url", url, "--bundles-max-bytes", str(most)]
    if bases := read.text("bases_dir", ""):
        arguments += ["--bases", str(root / bases)]
    if read.flag("allow_faults", False):
        arguments.append("--allow-faults")
    read.done()
    return [sys.executable, "-m", "gateway.worker", *arguments]


def make_socket_folder(worker_line: list[str]) -> None:
    """Make the folder of the socket that a worker's command line names; a worker expects it."""
    Path(worker_line[worker_line.index("--socket") + 1]).parent.mkdir(parents=True, exist_ok=True)


def _become(arguments: list[str]) -> NoReturn:
    sys.stdout.flush()
    os.execv(arguments[0], arguments)  # noqa: S606 - our own module, by our own interpreter
