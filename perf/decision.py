"""What a decision costs end to end with a real encoder, and what the gateway adds to the engine.

Gateway and worker share a core, the client has the other. Both ways to the same engine are taken in
turns, one call after another, several rounds.
"""

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
from tokenizers import Tokenizer

from controlplane.packs.registry import load_pack
from controlplane.training import parent
from controlplane.training.dataset import write_dataset
from perf.authority import ZERO
from perf.deployment import START_S, Deployment, split
from perf.openloop import percentile
from perf.processes import load_core
from protos import decide_pb2, decide_pb2_grpc, engine_pb2
from protos.contract import frames

NAME = "brand-safety"
MOST_TOKENS = 32  # of the texts sent
DEADLINE_US = 5_000_000  # so that no fallback, which costs less, is taken for a decision on a busy machine


def train(folder: Path) -> str:
    """Make a small real bundle: what the weights say does not matter here, what they cost does."""
    folder.mkdir(parents=True)
    pack = load_pack(NAME)
    write_dataset(folder / "train.jsonl", pack.training_set(160, 1))
    write_dataset(folder / "dev.jsonl", pack.held_out(40, 1))
    config = {
        "specialist": NAME,
        "pack": NAME,
        "data": None,
        "task": replace(pack.task, deadline_us=DEADLINE_US).to_json(),
        "train_file": str(folder / "train.jsonl"),
        "dev_file": str(folder / "dev.jsonl"),
        "bundles_dir": str(folder / "bundles"),
        "recipe": {"epochs": 1, "threads": 2, "seed": 1},
        "max_seconds": 1800,
        "author": "bench",
        "parent": None,
        "dataset_digest": ZERO,
        "suite_digest": pack.suite.digest,
    }
    return str(parent.train(config, folder)["bundle_digest"])


async def _through_gateway(address: str, texts: list[str]) -> tuple[list[float], int]:
    """Time one call after another, in ms; returns also how many of them were answered a fallback."""
    taken, fallbacks = [], 0
    async with grpc.aio.insecure_channel(address) as channel:
        stub = decide_pb2_grpc.DecisionServiceStub(channel)  # type: ignore[no-untyped-call]
        for i, text in enumerate(texts):
            request = decide_pb2.DecideRequest(specialist=NAME, input=decide_pb2.Input(text=text), routing_key=str(i))
            began = time.perf_counter()
            answer = await stub.Decide(request, timeout=5.0)
            taken.append(1000 * (time.perf_counter() - began))
            fallbacks += answer.fallback.used
    return taken, fallbacks


async def _straight(socket: Path, bundle: str, texts: list[str]) -> list[float]:
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


async def _until_serving(address: str, text: str) -> None:
    """Wait until the engine answers."""
    ends = time.monotonic() + START_S
    async with grpc.aio.insecure_channel(address) as channel:
        stub = decide_pb2_grpc.DecisionServiceStub(channel)  # type: ignore[no-untyped-call]
        request = decide_pb2.DecideRequest(specialist=NAME, input=decide_pb2.Input(text=text))
        while (await stub.Decide(request, timeout=5.0)).fallback.used:
            if time.monotonic() > ends:
                raise RuntimeError("the worker never answered")
            await asyncio.sleep(0.1)


def measure(folder: Path, bundle: str, front: str, rounds: int, calls: int) -> dict[str, Any]:
    """Serve what was trained in a folder, and measure."""
    with Deployment(folder, front) as deployment:
        contents = deployment.store.load(bundle).contents
        tokenizer = Tokenizer.from_str(contents["tokenizer.json"].decode())
        tokenizer.no_padding()
        tokenizer.no_truncation()
        drawn = [example.text for example in load_pack(NAME).training_set(calls * 3, 5)]
        texts = [text for text in drawn if len(tokenizer.encode(text).ids) <= MOST_TOKENS][:calls]
        deployment.control.publish(split(bundle, specialist=NAME))
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {load_core()})
        try:
            asyncio.run(_until_serving(deployment.address, texts[0]))
            gateway, engine, fallbacks = [], [], 0
            for _ in range(rounds):
                taken, unanswered = asyncio.run(_through_gateway(deployment.address, texts))
                gateway.append(taken)
                fallbacks += unanswered
                engine.append(asyncio.run(_straight(folder / "worker-0.sock", bundle, texts)))
        finally:
            os.sched_setaffinity(0, before)
        resident = deployment.resident_mb()
    ratios = [float(np.median(g) / np.median(e)) for g, e in zip(gateway, engine, strict=True)]
    return {
        "what": f"one decision at a time, OpenVINO MiniLM encoder, texts of at most {MOST_TOKENS} tokens",
        "front": front,
        "rounds": rounds,
        "calls": len(texts),
        "fallbacks": fallbacks,
        "gateway_ms": {f"p{q}": percentile(np.concatenate(gateway).tolist(), q) for q in (50, 90, 99)},
        "engine_ms": {f"p{q}": percentile(np.concatenate(engine).tolist(), q) for q in (50, 90, 99)},
        "ratio_of_medians": {
            "median": round(float(np.median(ratios)), 3),
            "min": round(min(ratios), 3),
            "max": round(max(ratios), 3),
        },
        "gateway_resident_mb": round(resident["gateway"] + resident["front"], 1),
        "bundle_mb": round(sum(map(len, contents.values())) / 1e6, 1),
    }
