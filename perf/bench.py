"""What a decision costs end to end, and what the gateway adds to the engine: ``python -m perf.bench``.

One gateway and one worker share a core, the client has another. Both ways to the same engine are
measured in turns, several rounds, and reported as the median of the rounds' ratios with their spread.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
from tokenizers import Tokenizer

from controlplane.packs.registry import load_pack
from controlplane.training.dataset import write_dataset
from protos import decide_pb2, decide_pb2_grpc, engine_pb2, traffic_pb2
from protos.contract import frames
from protos.contract.attestation import Approval, Operator, Operators, generate_key, public_text, read_private
from protos.contract.attestation import sign_approval as sign
from protos.contract.bundle import BundleStore
from protos.contract.digest import canonical_json
from protos.contract.plan import Split, TrafficPlan
from protos.contract.plan_rules import no_split_digest, sign_plan, to_split_digest

NAME = "brand-safety"
ZERO = "sha256:" + "0" * 64
MOST_TOKENS = 32  # of the texts sent
START_S = 60.0


def train(root: Path) -> str:
    """Make a small real bundle: what the weights say does not matter here, what they cost does."""
    pack = load_pack(NAME)
    write_dataset(root / "train.jsonl", pack.training_set(160, 1))
    write_dataset(root / "dev.jsonl", pack.held_out(40, 1))
    config = {
        "specialist": NAME,
        "pack": NAME,
        "data": None,
        "task": pack.task.to_json(),
        "train_file": str(root / "train.jsonl"),
        "dev_file": str(root / "dev.jsonl"),
        "bundles_dir": str(root / "bundles"),
        "seed": 1,
        "epochs": 1,
        "max_seconds": 300,
        "threads": 2,
        "author": "bench",
        "parent": None,
        "dataset_digest": ZERO,
        "suite_digest": pack.suite.digest,
    }
    (root / "config.json").write_bytes(canonical_json(config))
    # The child ends with its input, which therefore stays open until it is done.
    command = [sys.executable, "-m", "controlplane.training", "--config", str(root / "config.json")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        lines = child.stdout.read().splitlines()
    last = json.loads(lines[-1])
    return str(last["result"]["bundle_digest"])


def prepare(root: Path, bundle: str) -> None:
    """Give the gateway a signed plan to begin with, so that nothing else has to run."""
    plan_key, ann = root / "plan.key", root / "ann.key"
    generate_key(plan_key)
    generate_key(ann)
    people = (Operator("ann", ("approver",), (public_text(read_private(ann).public_key()),)),)
    (root / "operators.json").write_bytes(canonical_json(Operators(1, 1, people).to_json()))
    split = Split(NAME, bundle, None, None, 0, 0, 1_000, 0, "bench")
    now = int(time.time())
    approval = Approval(
        person="ann",
        specialist=NAME,
        rollout="bench",
        step="bootstrap",
        bundle=bundle,
        evidence=ZERO,
        suite=ZERO,
        from_split=no_split_digest(NAME),
        to_split=to_split_digest(split, 10_000),
        ceiling_bp=10_000,
        audience="bench",
        not_before=now,
        expires=now + 3600,
        nonce="bench",
        author="bench",
        reason="bench",
    )
    plan = TrafficPlan("bench", 1, now, (split,), ())
    offer = traffic_pb2.PlanOffer(
        plan=sign_plan(plan, read_private(plan_key)), approvals=[sign(approval, read_private(ann))]
    )
    (root / "state").mkdir()
    (root / "state" / "plan.pb").write_bytes(offer.SerializeToString())
    (root / "interlock.toml").write_text(
        '[gateway]\ndeployment = "bench"\nlisten = "127.0.0.1:0"\nworker_sockets = ["worker.sock"]\n'
        'bundles_dir = "bundles"\ncapture_dir = "capture"\nstate_dir = "state"\noperators = "operators.json"\n'
        'plan_key = "plan.key.pub"\n'
    )


class Processes:
    """Worker and gateway on one core."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._all: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Processes":
        self.start("worker", "gateway.worker", "--socket", "worker.sock", "--bundles", "bundles")
        self.gateway = self.start("gateway", "gateway", "--config", "interlock.toml")
        ends = time.monotonic() + START_S
        while "port=" not in (log := (self._root / "gateway.log").read_text()):
            if time.monotonic() > ends or self.gateway.poll() is not None:
                raise RuntimeError(f"the gateway did not start: {log}")
            time.sleep(0.05)
        self.address = f"127.0.0.1:{log.split('port=', 1)[1].split()[0]}"
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._all):
            process.terminate()
        for process in self._all:
            process.wait(20)

    def start(self, name: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a process on the servers' core."""
        with (self._root / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=self._root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "NO_COLOR": "1"},
            )
        os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
        self._all.append(process)
        return process


async def through_gateway(address: str, texts: list[str]) -> list[float]:
    """Time one call after another, in ms."""
    taken = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub = decide_pb2_grpc.DecisionServiceStub(channel)  # type: ignore[no-untyped-call]
        for i, text in enumerate(texts):
            request = decide_pb2.DecideRequest(specialist=NAME, input=decide_pb2.Input(text=text), routing_key=str(i))
            began = time.perf_counter()
            answer = await stub.Decide(request, timeout=5.0)
            taken.append(1000 * (time.perf_counter() - began))
            if answer.fallback.used:
                raise RuntimeError(f"a fallback was answered: {answer.fallback}")
    return taken


async def straight(socket: Path, bundle: str, texts: list[str]) -> list[float]:
    """Time the worker alone over its own frames, in ms."""
    taken = []
    decoder = frames.FrameDecoder()
    reader, writer = await asyncio.open_unix_connection(str(socket))
    for i, text in enumerate(texts, 1):
        job = engine_pb2.Job(
            id=i,
            bundle_digest=bundle,
            remaining_us=5_000_000,
            priority=engine_pb2.PRIORITY_LIVE,
            input=decide_pb2.Input(text=text),
        )
        began = time.perf_counter()
        writer.write(frames.encode(engine_pb2.Frame(job=job)))
        done = False
        while not done:
            done = any(f.HasField("result") for f in decoder.feed(await reader.read(65536)))
        taken.append(1000 * (time.perf_counter() - began))
    writer.close()
    return taken


async def until_serving(address: str, text: str) -> None:
    """Wait until the engine answers."""
    ends = time.monotonic() + START_S
    async with grpc.aio.insecure_channel(address) as channel:
        stub = decide_pb2_grpc.DecisionServiceStub(channel)  # type: ignore[no-untyped-call]
        request = decide_pb2.DecideRequest(specialist=NAME, input=decide_pb2.Input(text=text))
        while (await stub.Decide(request, timeout=5.0)).fallback.used:
            if time.monotonic() > ends:
                raise RuntimeError("the worker never answered")
            await asyncio.sleep(0.1)


def run(rounds: int, calls: int) -> dict[str, Any]:
    """Measure, and return everything a reader needs to judge the figures."""
    with tempfile.TemporaryDirectory(prefix="interlock-bench-") as scratch:
        root = Path(scratch)
        print("training a small bundle …", file=sys.stderr)
        bundle = train(root)
        prepare(root, bundle)
        contents = BundleStore(root / "bundles").load(bundle).contents
        tokenizer = Tokenizer.from_str(contents["tokenizer.json"].decode())
        tokenizer.no_padding()
        tokenizer.no_truncation()
        drawn = [example.text for example in load_pack(NAME).training_set(calls * 3, 5)]
        texts = [text for text in drawn if len(tokenizer.encode(text).ids) <= MOST_TOKENS][:calls]
        with Processes(root) as processes:
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
            asyncio.run(until_serving(processes.address, texts[0]))
            gateway: list[list[float]] = []
            alone: list[list[float]] = []
            for n in range(rounds):
                print(f"round {n + 1} of {rounds}", file=sys.stderr)
                gateway.append(asyncio.run(through_gateway(processes.address, texts)))
                alone.append(asyncio.run(straight(root / "worker.sock", bundle, texts)))
            pages = int(Path(f"/proc/{processes.gateway.pid}/statm").read_text().split()[1])
        size = sum(len(data) for data in contents.values())
    ratios = [float(np.median(g) / np.median(a)) for g, a in zip(gateway, alone, strict=True)]
    every = np.concatenate([np.array(g) for g in gateway])
    engine = np.concatenate([np.array(a) for a in alone])
    return {
        "what": "one decision at a time, OpenVINO MiniLM encoder, texts of at most 32 tokens",
        "rounds": rounds,
        "calls": len(texts),
        "gateway_ms": {f"p{q:g}": round(float(np.percentile(every, q)), 3) for q in (50, 90, 99)},
        "engine_ms": {f"p{q:g}": round(float(np.percentile(engine, q)), 3) for q in (50, 90, 99)},
        "ratio_of_medians": {
            "median": round(float(np.median(ratios)), 3),
            "lowest": round(min(ratios), 3),
            "highest": round(max(ratios), 3),
        },
        "gateway_resident_mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1),
        "bundle_mb": round(size / 1e6, 1),
        "machine": f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("python -m perf.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--out", type=Path, help="also write the result here, as JSON")
    chosen = parser.parse_args()
    found = run(chosen.rounds, chosen.calls)
    text = json.dumps(found, indent=2)
    print(text)
    if chosen.out:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
