"""SGLang itself, over HTTP and gRPC, through the same adapters as its stand-ins: what it tells held to PyTorch's."""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.normalizers import Replace

from gateway.domain.capabilities import Constraint
from gateway.serving.ports import BundleRefused
from perf.peers import sglang
from perf.peers.peer import Command
from perf.request import MODEL
from protos import engine_pb2
from protos.contract.given import Given
from tests.batteries.engines import TOKEN_TASK, TOKENIZER
from tests.batteries.real_decoder import (
    CLOSE,
    FEW,
    LONGEST,
    MINUTE_US,
    OK,
    PROJECTIONS,
    TEXTS,
    Served,
    check_evaluation,
    classified,
    classifier,
    decoder,
    forward,
    tell,
)
from tests.batteries.real_servers import running
from tests.gateway.engines.fake_model import tokenizer_json

HTTP = {"backend": "openai-http", "preset": "sglang"}
GRPC = {"backend": "sglang-grpc"}
READS = LONGEST - 7  # tokens of a prompt: it keeps some of the model's context for itself
LORA = ("--enable-lora", "--max-lora-rank", "16", "--lora-target-modules", *PROJECTIONS)


def served_with(*options: str) -> Callable[[Path, Path, int], Command]:
    return lambda python, folder, port: sglang.serve(python, folder, port, *options)


def logprobs(results: list[Any]) -> np.ndarray:
    return np.array([result.label_logprobs for result in results])


def check_best_few(results: list[Any], expected: np.ndarray) -> None:
    """Hold what is told to the exact value, and what is not to a bound from above."""
    for result, row in zip(results, expected, strict=True):
        for value, exact in zip(result.label_logprobs, row, strict=True):
            assert value == pytest.approx(exact, abs=CLOSE) or (result.bounded and value > exact)


async def check_generates(served: Served, bundle: str) -> None:
    async def said(constraint: Constraint) -> str:
        stream = served.link.generate(bundle, Given.of_text("a page"), MINUTE_US, 40, constraint)
        return "".join([chunk.text async for chunk in stream])

    end = re.compile("!?$")  # what the model stops with is text to its tokenizer, which gRPC leaves to us
    choices = ("up high", "down")
    assert end.sub("", await said(Constraint("choice", choices=choices))) in choices
    assert re.fullmatch("[ab]{3}!?", await said(Constraint("regex", "[ab]{3}")))
    kept = json.loads(end.sub("", await said(Constraint("json_schema", '{"enum": [{"a": 1}, {"b": [2]}]}'))))
    assert kept in ({"a": 1}, {"b": [2]})


async def check_no_tokens(served: Served) -> None:
    """Hold it to refusing a text of no tokens and to living on, where one in a batch would end it."""
    tokenizer = Tokenizer.from_str(tokenizer_json())
    tokenizer.normalizer = Replace("\u200b", "")
    for changes in ({}, {"method": "completions", "top_logprobs": FEW, "topk": True}):
        bundle = served.bundle({"tokenizer.json": tokenizer.to_str().encode()}, **changes)
        await served.load(bundle)
        asked = [
            served.link.submit(bundle, Given.of_text(text), MINUTE_US, engine_pb2.PRIORITY_LIVE)[1]
            for text in ("a page", "\u200b", "page 2")
        ]
        found = [result.status for result in await asyncio.gather(*asked)]
        assert found == [OK, engine_pb2.RESULT_STATUS_BAD_INPUT, OK]


def longer(served: Served, tokens: int) -> str:
    engine = {**served.engine, "model": MODEL}
    task = replace(TOKEN_TASK, max_tokens=tokens)
    return served.store.add(task=task, engine=engine, contents=TOKENIZER, base={}, lineage={}).digest


def test_a_real_sglang_tells_what_a_full_forward_pass_does_and_adapters_share_its_base(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    with running(sglang.PEER, folder, decoder, served_with(*LORA)) as server:
        served = Served(server, tmp_path, HTTP, connections=6)  # two requests of each of three bundles

        async def story() -> None:
            link = served.link
            one, two = ({"name": name, "path": str(folder / name)} for name in ("one", "two"))
            exact = {None: served.bundle(), "one": served.bundle(adapter=one), "two": served.bundle(adapter=two)}
            best = {"method": "completions", "top_logprobs": FEW, "topk": True}
            few = {None: served.bundle(**best), "one": served.bundle(**best, adapter=one)}
            plain = exact[None]
            for bundle in (*exact.values(), *few.values()):
                await served.load(bundle)
            assert served.models() == {MODEL, "one", "two"}
            identity = await link.identify(plain)
            assert (identity.model, identity.server_version) == (str(folder / "model"), sglang.VERSION)

            expected = {name: forward(folder, name, TEXTS) for name in exact}
            assert np.abs(expected["one"] - expected[None]).max() > 0.5  # the adapters do something

            async def share_a_batch() -> bool:
                """Ask the base and both adapters at once; one batch with more texts than a bundle's is of several."""
                found = await asyncio.gather(*[served.ask(bundle, TEXTS) for bundle in exact.values()])
                for rows, name in zip(found, exact, strict=True):
                    assert logprobs(rows) == pytest.approx(expected[name], abs=CLOSE)
                    assert max(result.batch_size for result in rows) > 1
                batches = re.findall(r"Prefill batch, #new-seq: (\d+)", (folder / "server.log").read_text())
                return max(map(int, batches)) > 2 * len(TEXTS)

            await served.until(share_a_batch)
            found_few = await asyncio.gather(*[served.ask(bundle, TEXTS) for bundle in few.values()])
            for rows, name in zip(found_few, few, strict=True):
                check_best_few(rows, expected[name])
            await check_no_tokens(served)

            with pytest.raises(BundleRefused, match="refuses adapter 'gone'"):
                await link.load(served.bundle(adapter={"name": "gone", "path": "/gone/adapter"}))
            with pytest.raises(BundleRefused, match="adapter 'one' has path"):
                await link.load(served.bundle(adapter={"name": "one", "path": str(folder / "two")}))
            await served.load(longer(served, READS))
            with pytest.raises(BundleRefused, match=f"reads {READS} tokens, expected {READS + 1}"):
                await link.load(longer(served, READS + 1))

            await check_generates(served, plain)
            link.unload(exact["two"])
            await served.until(lambda: served.models() == {MODEL, "one"})
            server.stop()
            await served.until(lambda: not link.connected.is_set())
            server.start()
            await served.until(lambda: exact["one"] in link.ready)  # and has its adapter again
            again = await served.ask(exact["one"], TEXTS)
            assert logprobs(again) == pytest.approx(expected["one"], abs=CLOSE)

        tell(served, story)
        address = f"http://127.0.0.1:{server.port}"
        check_evaluation(served, folder, "openai-http", address, sglang.VERSION, max_batch=16)


def test_a_real_sglang_tells_the_same_over_grpc(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    with running(sglang.PEER, folder, decoder, served_with("--smg-grpc-mode")) as server:
        served = Served(server, tmp_path, GRPC, max_batch=1)

        async def story() -> None:
            link, plain = served.link, served.bundle()
            await served.load(plain)
            identity = await link.identify(plain)
            assert (identity.model, identity.server_version) == (MODEL, sglang.VERSION)
            assert logprobs(await served.ask(plain, TEXTS)) == pytest.approx(forward(folder, None, TEXTS), abs=CLOSE)
            with pytest.raises(BundleRefused, match="loads no adapters over gRPC"):
                await link.load(served.bundle(adapter={"name": "one", "path": str(folder / "one")}))
            await served.load(longer(served, READS))
            with pytest.raises(BundleRefused, match=f"reads {READS} tokens, expected {READS + 1}"):
                await link.load(longer(served, READS + 1))
            await check_generates(served, plain)

        tell(served, story)
        address = f"127.0.0.1:{server.port}"
        check_evaluation(served, folder, "sglang-grpc", address, sglang.VERSION, max_batch=1)


def test_a_real_sglang_classifies_with_its_own_head(tmp_path: Path) -> None:
    folder = tmp_path / "server"

    def with_a_bias(folder: Path) -> None:
        """Say that the head has none: SGLang's has one, which stays as it was drawn at random unless a file says."""
        from safetensors.torch import load_file, save_file

        classifier(folder)
        file = folder / "model" / "model.safetensors"
        found = load_file(file)
        save_file({**found, "score.bias": found["score.weight"].new_zeros(2)}, file, {"format": "pt"})

    with running(sglang.PEER, folder, with_a_bias, served_with("--is-embedding")) as server:
        served = Served(server, tmp_path, HTTP)

        async def story() -> None:
            bundle = served.bundle(method="classify")
            await served.load(bundle)
            results = await served.ask(bundle, TEXTS)
            told = np.array([list(result.probabilities) for result in results])
            assert told == pytest.approx(classified(folder, TEXTS), abs=CLOSE)

        tell(served, story)
