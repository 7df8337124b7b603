"""vLLM itself, through the same adapter as its stand-in: label scores, adapters and constraints held to PyTorch's."""

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.domain.capabilities import Constraint
from gateway.serving.ports import BundleRefused
from perf.peers import vllm
from perf.request import MODEL
from protos.contract.given import Given
from tests.batteries.engines import TOKEN_TASK, TOKENIZER
from tests.batteries.real_decoder import (
    CLOSE,
    FEW,
    LONGEST,
    MINUTE_US,
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

ENGINE = {"backend": "openai-http", "preset": "vllm"}


def metric(served: Served, name: str) -> float:
    found = re.search(rf"^{name}{{.*}} (\S+)$", served.get("/metrics"), re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def test_a_real_vllm_tells_what_a_full_forward_pass_does_and_adapters_share_its_base(tmp_path: Path) -> None:
    folder = tmp_path / "server"

    def command(python: Path, folder: Path, port: int) -> Any:
        limits = ("--max-model-len", str(LONGEST), "--max-logprobs", str(FEW))
        return vllm.serve(python, folder, port, *limits, "--enable-lora", "--max-lora-rank", "16", "--max-loras", "2")

    with running(vllm.PEER, folder, decoder, command) as server:
        served = Served(server, tmp_path, ENGINE)

        async def story() -> None:
            link = served.link
            plain, few = served.bundle(), served.bundle(method="completions", top_logprobs=FEW, topk=True)
            adapters = {n: served.bundle(adapter={"name": n, "path": str(folder / n)}) for n in ("one", "two")}
            for bundle in (plain, few, *adapters.values()):
                await served.load(bundle)
            assert served.models() == {MODEL, "one", "two"}
            identity = await link.identify(plain)
            assert (identity.model, identity.server_version) == (str(folder / "model"), vllm.VERSION)

            # All at once: one running batch of vLLM's holds rows of the base and of both adapters.
            order = [(None, plain), *adapters.items()]
            found = await asyncio.gather(*[served.ask(bundle, TEXTS) for _, bundle in order])
            told = {
                name: np.array([r.label_logprobs for r in rows]) for (name, _), rows in zip(order, found, strict=True)
            }
            for name, rows in told.items():
                assert rows == pytest.approx(forward(folder, name, TEXTS), abs=CLOSE), name
            assert np.abs(told["one"] - told[None]).max() > 0.5  # the adapters do something
            assert np.abs(told["one"] - told["two"]).max() > 0.5
            assert max(r.batch_size for r in found[0]) > 1

            # Of the best few, what is told is exact, and what is not is a bound from above.
            for row, result in zip(told[None], await served.ask(few, TEXTS), strict=True):
                for exact, value in zip(row, result.label_logprobs, strict=True):
                    assert value == pytest.approx(exact, abs=CLOSE) or (result.bounded and value > exact)

            with pytest.raises(BundleRefused, match="gone.*No adapter found"):
                await link.load(served.bundle(adapter={"name": "gone", "path": str(folder / "gone")}))
            with pytest.raises(BundleRefused, match="adapter 'one' has path"):
                await link.load(served.bundle(adapter={"name": "one", "path": str(folder / "two")}))
            with pytest.raises(BundleRefused, match=f"logprobs of {FEW + 1}"):
                await link.load(served.bundle(method="completions", top_logprobs=FEW + 1, topk=True))
            with pytest.raises(BundleRefused, match="reads 512 tokens, expected 1024"):
                await link.load(
                    served.store.add(
                        task=replace(TOKEN_TASK, max_tokens=1024),
                        engine={"backend": "openai-http", "preset": "vllm", "model": MODEL},
                        contents=TOKENIZER,
                        base={},
                        lineage={},
                    ).digest
                )

            async def said(constraint: Constraint) -> str:
                stream = link.generate(plain, Given.of_text("a page"), MINUTE_US, 40, constraint)
                return "".join([chunk.text async for chunk in stream])

            choices = ("up high", "down")
            assert await said(Constraint("choice", choices=choices)) in choices
            assert re.fullmatch("[ab]{3}", await said(Constraint("regex", "[ab]{3}")))
            kept = json.loads(await said(Constraint("json_schema", '{"enum": [{"a": 1}, {"b": [2]}]}')))
            assert kept in ({"a": 1}, {"b": [2]})

            before = metric(served, "vllm:generation_tokens_total")
            stream = link.generate(plain, Given.of_text("a page"), MINUTE_US, 250, Constraint("regex", "[ab]{250}"))
            await anext(stream)
            await stream.aclose()  # the reader leaves
            await served.until(lambda: metric(served, "vllm:num_requests_running") == 0)
            assert metric(served, "vllm:generation_tokens_total") < before + 250

            link.unload(adapters["two"])
            await served.until(lambda: served.models() == {MODEL, "one"})
            server.stop()
            await served.until(lambda: not link.connected.is_set())
            server.start()
            await served.until(lambda: adapters["one"] in link.ready)  # and has its adapter again
            again = await served.ask(adapters["one"], TEXTS)
            assert np.array([r.label_logprobs for r in again]) == pytest.approx(told["one"], abs=CLOSE)

        tell(served, story)
        address = f"http://127.0.0.1:{server.port}"
        check_evaluation(served, folder, "openai-http", address, vllm.VERSION, max_batch=16, adapter="one")


def test_a_real_vllm_classifies_with_its_own_head(tmp_path: Path) -> None:
    folder = tmp_path / "server"

    def command(python: Path, folder: Path, port: int) -> Any:
        return vllm.serve(python, folder, port, "--runner", "pooling", "--convert", "classify")

    with running(vllm.PEER, folder, classifier, command) as server:
        served = Served(server, tmp_path, ENGINE)

        async def story() -> None:
            bundle = served.bundle(method="classify")
            await served.load(bundle)
            results = await served.ask(bundle, TEXTS)
            assert np.array([list(r.probabilities) for r in results]) == pytest.approx(
                classified(folder, TEXTS), abs=CLOSE
            )
            with pytest.raises(BundleRefused, match="logprob_token_ids"):
                await served.link.load(served.bundle())  # it has no such endpoint

        tell(served, story)
