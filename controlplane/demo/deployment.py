"""A deployment in one folder: keys, settings, and its three processes."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane import worker_socket
from protos import engine_pb2
from protos.contract.attestation import generate_key, public_text, read_public
from protos.contract.digest import canonical_json

NAME = "demo"
PERSON = "demo-operator"
START_S = 180.0
STOP_S = 10.0
CLI = (sys.executable, "-c", "from controlplane.cli.app import main; main()")
_PORT = re.compile(r"port=(\d+)")


class DemoFailed(Exception):
    """The story did not go as told."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the story is: the whole one, or one that fits into a test."""

    rate: float  # requests a second, on a machine that can take them
    examples: int
    live_examples: int
    held_out: int
    epochs: int
    reference: int
    window: int
    least_labelled: int
    failure_margin: float  # small machines that run other things too are late now and then
    cost_margin: float


WHOLE = Scale(60, 750, 300, 300, 2, 400, 150, 250, 0.05, 0.05)
# How late a machine of any speed is must not decide a test.
SHORT = Scale(30, 500, 250, 80, 1, 200, 80, 120, 0.95, 0.3)
STAGES_BP = (3_000, 5_000)


class Deployment:
    """Writes settings, starts processes, and ends those it started."""

    def __init__(self, root: Path, data: Path | None, suite: Path | None, scale: Scale) -> None:
        if root.exists():
            shutil.rmtree(root)
        root.mkdir(parents=True)
        self.root = root.resolve()
        self.config = self.root / "interlock.toml"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = {"gateway": 0, "control": 0}
        self._worker_socket = self.root / "run" / "worker.sock"
        self._data, self._suite, self._scale = data, suite, scale
        generate_key(self.root / "keys" / "plan.key")
        generate_key(self.root / "keys" / "operator.key")
        key = public_text(read_public(self.root / "keys" / "operator.key.pub"))
        people = [{"person": PERSON, "roles": ["approver"], "keys": [key]}]
        operators = {"version": 1, "required_approvals": 1, "people": people}
        (self.root / "operators.json").write_bytes(canonical_json(operators))

    @property
    def gateway(self) -> str:
        """Address of the gateway."""
        return f"127.0.0.1:{self._ports['gateway']}"

    @property
    def control(self) -> str:
        """Address of the control plane."""
        return f"127.0.0.1:{self._ports['control']}"

    @property
    def database(self) -> str:
        """URL of the control plane's database."""
        return f"sqlite:///{self.root / 'control.db'}"

    async def start(self) -> None:
        """Start worker, control plane and gateway, each when the one before it listens."""
        (self.root / "run").mkdir()
        self._write()
        worker = ["--socket", str(self._worker_socket), "--bundles", str(self.root / "bundles"), "--allow-faults"]
        self._spawn("worker", "gateway.worker", *worker)
        for name, module in (("control", "controlplane"), ("gateway", "gateway")):
            self._write()
            self._spawn(name, module, "--config", str(self.config))
            self._ports[name] = await self._port(name)
        self._write()

    def stop(self) -> None:
        """End every process, the gateway first, so that it drains."""
        for name in ("gateway", "control", "worker"):
            process = self._processes.pop(name, None)
            if process is None or process.poll() is not None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def resident_mb(self) -> dict[str, float]:
        """Return the resident memory of each process in MB."""
        found = {}
        for name, process in self._processes.items():
            with contextlib.suppress(OSError):
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                found[name] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        return found

    async def cli(self, *arguments: str, refused: bool = False) -> Any:
        """Run one ``interlock`` command and return what it printed as JSON.

        Raises:
            DemoFailed: It failed, or with ``refused`` it did not.
        """
        process = await asyncio.create_subprocess_exec(
            *CLI,
            *arguments,
            "--json",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "INTERLOCK_CONTROL": self.control, "NO_COLOR": "1"},
        )
        out, err = await process.communicate()
        if (process.returncode != 0) != refused:
            said = (err or out).decode().strip()[-1000:]
            raise DemoFailed(f"interlock {' '.join(arguments)} ended with {process.returncode}: {said}")
        return json.loads(out)

    async def break_engine(self, bundle: str) -> None:
        """Have the worker answer with the opposite of what the bundle says; raises DemoFailed."""
        try:
            await worker_socket.inject(self._worker_socket, bundle, engine_pb2.FAULT_KIND_INVERT)
        except (worker_socket.FaultRefused, OSError) as error:
            raise DemoFailed(f"the engine was not broken: {error}") from error

    def _write(self) -> None:
        scale = self._scale
        source = {"pack": "labelled-file" if self._data else "brand-safety"}
        if self._data:
            source["data"] = str(self._data.resolve())
        if self._suite:
            source["suite"] = str(self._suite.resolve())
        # Where every mistake costs the same, mean costs are larger and take longer to tell apart.
        cost_margin = max(scale.cost_margin, 0.15 if self._data else 0.0)
        self.config.write_text(f"""# Written by the demo; everything it says can be changed.
[gateway]
deployment = "{NAME}"
listen = "{self.gateway}"
control = "{self.control}"
worker_sockets = ["run/worker.sock"]
bundles_dir = "bundles"
capture_dir = "capture"
state_dir = "state"
operators = "operators.json"
plan_key = "keys/plan.key.pub"
drain_delay_s = 0.1

[worker]
socket = "run/worker.sock"
bundles_dir = "bundles"
allow_faults = true                # so that a rollback can be rehearsed

[controlplane]
deployment = "{NAME}"
listen = "{self.control}"
database = "sqlite:///control.db"
bundles_dir = "bundles"
capture_dir = "capture"
operators = "operators.json"
plan_key = "keys/plan.key"

[[controlplane.specialists]]
{chr(10).join(f"{name} = {json.dumps(value)}" for name, value in source.items())}

[controlplane.drift]
reference = {scale.reference}
window = {scale.window}
persistence = 2
false_alarm_rate = 0.05
cooldown_s = 600
least_labelled = {scale.least_labelled}

[controlplane.training]
examples = {scale.examples}
live_examples = {scale.live_examples}
held_out = {scale.held_out}
epochs = {scale.epochs}
threads = {max(1, (os.cpu_count() or 2) - 1)}                        # a core is left to callers

[controlplane.rollout]
stages_bp = {list(STAGES_BP)}
shadow_bp = 5000
cost_margin = {cost_margin}
failure_margin = {scale.failure_margin}
mistake_margin = {cost_margin}
""")

    def _spawn(self, name: str, module: str, *arguments: str) -> None:
        with (self.root / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "NO_COLOR": "1"},
            )

    async def _port(self, name: str) -> int:
        ends = time.monotonic() + START_S
        while time.monotonic() < ends:
            said = (self.root / f"{name}.log").read_text("utf-8", "replace")
            if found := _PORT.search(said):
                return int(found[1])
            if self._processes[name].poll() is not None:
                raise DemoFailed(f"{name} did not start: {said[-1000:]}")
            await asyncio.sleep(0.05)
        raise DemoFailed(f"{name} did not listen within {START_S:.0f} s")
