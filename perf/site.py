"""The folder that a gateway and its workers run in: what lies there, and how each is started."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perf.authority import Authority
from perf.processes import ROOT
from protos.contract.attestation import public_text
from protos.contract.bundle import BundleStore
from protos.contract.digest import canonical_json
from protos.contract.task import TaskSpec

CONFIG = "interlock.toml"
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
GATEWAY = [sys.executable, "-m", "gateway", "--config", CONFIG]


def worker(name: str, *options: str) -> list[str]:
    """Return the command of a worker that may be broken on purpose, on the socket of its name."""
    socket = f"{name}.sock"
    return [
        sys.executable, "-m", "gateway.worker", "--socket", socket, "--bundles", "bundles", "--allow-faults", *options
    ]  # fmt: skip


def settings(authority: Authority, control_port: int, workers: list[str], **more: Any) -> dict[str, Any]:
    """Return the gateway's settings: all that it has is in the folder."""
    return {
        "deployment": authority.deployment,
        "listen": "127.0.0.1:0",
        "control": f"127.0.0.1:{control_port}",
        "worker_sockets": [f"{name}.sock" for name in workers],
        "bundles_dir": "bundles",
        "capture_dir": "capture",
        "state_dir": "state",
        "operators": "operators.json",
        "plan_key": "plan.pub",
        **more,
    }


def write(folder: Path, authority: Authority, chosen: Mapping[str, Any]) -> None:
    """Write what a gateway reads when it starts."""
    (folder / "operators.json").write_bytes(canonical_json(authority.operators().to_json()))
    (folder / "plan.pub").write_text(public_text(authority.key.public_key()))
    lines = "\n".join(f"{name} = {_toml(value)}" for name, value in chosen.items())
    (folder / CONFIG).write_text(f"[gateway]\n{lines}\n")


def simulated(store: BundleStore, task: TaskSpec, **engine: Any) -> str:
    """Add a bundle whose engine costs nothing, unless told otherwise; returns its digest."""
    made = {"backend": "simulator", **engine}
    return store.add(task=task, engine=made, contents={}, base={}, lineage={"author": "trainer"}).digest


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{name}" = {_toml(item)}' for name, item in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
