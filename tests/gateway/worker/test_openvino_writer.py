"""Text from an OpenVINO graph is the text that PyTorch writes with the same weights, token for token."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

for needed in ("torch", "transformers", "peft", "openvino", "llguidance"):
    pytest.importorskip(needed)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from controlplane.training.ir import LabelRows, to_ir  # noqa: E402
from gateway.worker.backend import BackendFailed, Host  # noqa: E402
from gateway.worker.engine import Engine, open_engine  # noqa: E402
from protos import decide_pb2  # noqa: E402
from protos.contract.base import BaseStore  # noqa: E402
from protos.contract.bundle import BundleStore  # noqa: E402
from tests.gateway.worker import tiny_models  # noqa: E402

TASK = tiny_models.DECODER_TASK
WRITES = {"end_tokens": [0], "positions": 64}


class Pair:
    """One tiny decoder, its weights rounded to what the graph keeps, behind both backends."""

    def __init__(self, root: Path, name: str) -> None:
        model = tiny_models.write_base(root / name, name)
        file = root / name / "model.safetensors"
        save_file({key: value.half().float() for key, value in load_file(file).items()}, file, {"format": "pt"})
        model = model.half().float()
        self.store = BundleStore(root / "bundles")
        self.host = Host(bases=BaseStore(self.store.root / "bases"))
        self.base = {"name": name, "digest": self.host.bases.add(name, root / name)}
        tokenizer = tiny_models.tokenizer(bos=name != "qwen3")
        self.tokens = [tokenizer.encode(f" {label}").ids[-1] for label in TASK.labels]
        ids = torch.tensor([tokenizer.encode(TASK.template.format(text="a page")).ids] * 2)
        self.graph = to_ir(LabelRows(model, self.tokens, writes=True).eval(), ids, torch.ones_like(ids))
        self.tokenizer = (root / name / "tokenizer.json").read_bytes()

    def torch(self, **engine: Any) -> Engine:
        settings = {"backend": "transformers", **engine}
        return self._open(settings, {}, self.base)

    def openvino(self, **engine: Any) -> Engine:
        files = {"model.xml": self.graph.xml, "model.bin": self.graph.weights, "tokenizer.json": self.tokenizer}
        settings = {"backend": "openvino", "kind": "decoder", "precision": "f32", "writes": WRITES, **engine}
        return self._open({"label_tokens": self.tokens, **settings}, files, {})

    def _open(self, engine: dict[str, Any], contents: dict[str, bytes], base: dict[str, Any]) -> Engine:
        made = self.store.add(task=TASK, engine=engine, contents=contents, base=base, lineage={})
        return open_engine(self.store.load(made.digest), self.host)


def written(engine: Engine, text: str, tokens: int, asked: decide_pb2.Constraint | None = None) -> list[str]:
    backend: Any = engine.backend
    prompt = TASK.template.format(text=text)
    if asked is None:
        return list(backend.generate(prompt, tokens))
    return list(backend.generate_within(prompt, tokens, asked))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    return {name: Pair(tmp_path_factory.mktemp(name), name) for name in NAMES}


NAMES = ("qwen3", "gemma3")  # tied embeddings, plain; sliding windows, capped logits
every_decoder = pytest.mark.parametrize("name", NAMES)


@every_decoder
@pytest.mark.parametrize("prefix_cache", [True, False], ids=["prefix kept", "no prefix"])
def test_text_is_pytorchs_token_for_token(name: str, prefix_cache: bool, pairs: dict[str, Pair]) -> None:
    oracle, engine = pairs[name].torch(), pairs[name].openvino(prefix_cache=prefix_cache)
    assert engine.can_generate
    assert engine.capabilities.prefix_cache is prefix_cache
    ended = set()
    for text in tiny_models.TEXTS:
        assert written(engine, text, 1) == written(oracle, text, 1)
        assert written(engine, text, 9) == written(oracle, text, 9)
        ended.add(len(written(engine, text, 60)))
    assert min(ended) >= 9
    assert max(ended) < 60  # the model's positions end before


@every_decoder
def test_logits_follow_pytorchs_to_the_end_of_the_positions(name: str, pairs: dict[str, Pair]) -> None:
    backends: list[Any] = [pairs[name].torch().backend, pairs[name].openvino().backend]
    prompt = TASK.template.format(text="a page")
    rows = [backends[0].prepare(prompt).data.row, backends[1].prepare(prompt).data]
    steps = [backends[0]._resident.decode(rows[0]), backends[1]._steps(rows[1])]
    found = [next(one) for one in steps]
    for _ in range(30):
        # The graph keeps its constants, those of positions among them, in half precision.
        assert np.abs(found[0] - found[1]).max() < 0.01 * np.ptp(found[0])
        token = int(found[0].argmax())
        found = [one.send(token) for one in steps]


@every_decoder
def test_text_holds_a_constraint_as_pytorchs_does(name: str, pairs: dict[str, Pair]) -> None:
    schema = {
        "type": "object",
        "properties": {"fit": {"enum": ["yes", "no"]}},
        "required": ["fit"],
        "additionalProperties": False,
    }
    constraints = {
        "choice": decide_pb2.Constraint(choice=decide_pb2.Choice(texts=["up high", "down"])),
        "regex": decide_pb2.Constraint(regex="[0-9]{3}-[a-f]{2}"),
        "json": decide_pb2.Constraint(json_schema=json.dumps(schema)),
    }
    oracle, engine = pairs[name].torch(), pairs[name].openvino()
    for text in tiny_models.TEXTS[:3]:
        found = {kind: "".join(written(engine, text, 30, asked)) for kind, asked in constraints.items()}
        assert found == {kind: "".join(written(oracle, text, 30, asked)) for kind, asked in constraints.items()}
        assert found["choice"] in ("up high", "down")
        assert re.fullmatch("[0-9]{3}-[a-f]{2}", found["regex"])
        assert json.loads(found["json"])["fit"] in ("yes", "no")
    own = pairs[name].openvino(generate={"choice": ["bid", "no bid"]})
    assert "".join(written(own, "news", 20)) in ("bid", "no bid")


def test_two_texts_that_are_written_in_turn_are_the_same_as_one_after_the_other(pairs: dict[str, Pair]) -> None:
    backend: Any = pairs["qwen3"].openvino().backend
    prompts = [TASK.template.format(text=text) for text in tiny_models.TEXTS[:2]]
    alone = [list(backend.generate(prompt, 12)) for prompt in prompts]
    steps = [backend.generate(prompt, 12) for prompt in prompts]
    found: list[list[str]] = [[], []]
    for _ in range(12):
        for place, one in enumerate(steps):
            if (piece := next(one, None)) is not None:
                found[place].append(piece)
    assert found == alone
    stopped = backend.generate(prompts[0], 12)
    next(stopped)
    stopped.close()  # nothing runs on
    assert list(backend.generate(prompts[0], 12)) == alone[0]


def test_scores_are_the_same_whether_the_graph_writes_or_not(pairs: dict[str, Pair]) -> None:
    oracle, engine = pairs["qwen3"].torch(), pairs["qwen3"].openvino()
    prompts = [TASK.template.format(text=text) for text in tiny_models.TEXTS]
    rows = [one.probabilities([one.backend.prepare(prompt) for prompt in prompts]) for one in (oracle, engine)]
    assert rows[1] == pytest.approx(rows[0], abs=1e-3)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"writes": {"end_tokens": [0]}}, "positions"),
        ({"writes": {"end_tokens": [-1], "positions": 64}}, r"end_tokens is \[-1\], expected tokens"),
        ({"writes": {"end_tokens": [9999], "positions": 64}}, "next has 416 tokens"),
        ({"writes": {}, "generate": {"choice": ["a"]}}, "generate is given, expected writes"),
        ({"writes": {"end_tokens": [], "positions": 64}, "generate": {"choice": ["a"]}}, "no eos_token_id"),
        ({"generate": {"regex": "("}}, "constraint is refused"),
    ],
)
def test_what_a_writer_cannot_do_is_refused_when_it_is_loaded(
    engine: dict[str, Any], message: str, pairs: dict[str, Pair]
) -> None:
    with pytest.raises(BackendFailed, match=message):
        pairs["qwen3"].openvino(**engine)
