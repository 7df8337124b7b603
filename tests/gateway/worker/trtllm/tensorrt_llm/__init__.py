"""A strict stand-in for TensorRT-LLM: the recorded signatures and quirks, a toy model, no GPU.

``FAKE_TRTLLM_BAND`` chooses the band of facts whose signatures it has.
"""

import asyncio
import inspect
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from gateway.worker.tensorrt_llm.facts import Facts
from tests.gateway.engines.fake_model import ANSWER, FakeModel

FACTS = Facts.read(os.environ.get("FAKE_TRTLLM_BAND", "1.3"))
__version__ = {"1.2": "1.2.1", "1.3": "1.4.0rc1"}[FACTS.band]


def signature_of(name: str) -> inspect.Signature:
    """Write a recorded signature."""
    facts = FACTS.objects[name]
    kind = inspect.Parameter.KEYWORD_ONLY if facts.get("keyword_only") else inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [
        inspect.Parameter(entry[0], kind, default=entry[1] if len(entry) > 1 else inspect.Parameter.empty)
        for entry in facts["parameters"]
    ]
    if facts.get("variable_keywords"):
        parameters.append(inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD))
    return inspect.Signature(parameters)


def strict(name: str) -> Any:
    """Make a class or method take exactly what was recorded, and hand it over as keywords."""

    def decorate(function: Any) -> Any:
        signature = signature_of(name)

        def called(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given = dict(bound.arguments)
            given.update(given.pop("kwargs", {}))
            return function(**given)

        called.__signature__ = signature  # type: ignore[attr-defined]
        return called

    return decorate


class Record:
    """Keeps its arguments as attributes."""

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)


def record(name: str) -> type:
    """Make a class of values with a recorded signature."""

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature_of(name).bind(*args, **kwargs)
        bound.apply_defaults()
        self.__dict__.update(bound.arguments)

    return type(name.rpartition(".")[2], (Record,), {"__init__": init, "__signature__": signature_of(name)})


MAX_TOP_LOGPROBS = 100
_SamplingParams: Any = record("tensorrt_llm.SamplingParams")


class SamplingParams(_SamplingParams):
    """Checks itself, from 1.3 on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if FACTS.band != "1.2" and (self.logprobs or 0) > MAX_TOP_LOGPROBS:
            raise ValueError(f"logprobs must be less than or equal to {MAX_TOP_LOGPROBS}, got {self.logprobs}")


SamplingParams.__signature__ = signature_of("tensorrt_llm.SamplingParams")  # type: ignore[attr-defined]


class Tensor:
    """The little of a tensor that is used."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values, np.float64)

    @property
    def ndim(self) -> int:
        return self.values.ndim

    def float(self) -> "Tensor":
        return self

    def cpu(self) -> "Tensor":
        return self

    def tolist(self) -> Any:
        return self.values.tolist()

    def __float__(self) -> float:
        return float(self.values)

    def __getitem__(self, key: Any) -> "Tensor":
        return Tensor(self.values[key])

    def logsumexp(self, dim: int) -> "Tensor":
        highest = self.values.max(dim)
        return Tensor(highest + np.log(np.exp(self.values - highest).sum(dim)))


class View(Tensor):
    """A row where the engine computed it, which its next call overwrites."""

    def __init__(self, llm: "LLM", values: Any) -> None:
        super().__init__(values)
        self._llm, self._call = llm, llm.encoded

    def float(self) -> Tensor:
        assert self._call == self._llm.encoded, "the row was overwritten by a later call"
        return Tensor(self.values)


class Answer:
    """A RequestOutput: awaited, iterated or waited for."""

    def __init__(self, llm: "LLM", steps: list[Any], error: Exception | None, id: str) -> None:
        self._llm = llm
        self._steps = steps
        self._error = error
        self.error: str | None = None
        self._id = id
        self.finished = False
        self.outputs: list[Any] = []
        try:
            self._loop: Any = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    def result(self, timeout: float | None = None) -> "Answer":
        if self._error is not None:
            raise self._error
        self.outputs = [self._steps[-1]]
        self.finished = True
        return self

    def abort(self) -> None:
        self._llm.aborted.append(self._id)

    def __aiter__(self) -> "Answer":
        return self

    async def __anext__(self) -> "Answer":
        assert self._loop is not None, "event loop was not present during initialization"
        if self._error is not None:
            raise self._error
        if not self._steps:
            self.finished = True
            raise StopAsyncIteration
        self.outputs = [self._steps.pop(0)]
        return self


class LLM:
    """The toy model behind the recorded interface."""

    made: list["LLM"] = []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = signature_of("tensorrt_llm.LLM").bind(*args, **kwargs)
        extra = bound.arguments.get("kwargs", {})
        unknown = sorted(set(extra) - set(FACTS.objects["tensorrt_llm.LLM"]["arguments"]))
        if unknown:
            raise ValueError(f"LLM got invalid argument: {unknown[0]}")
        assert os.environ.get("TRTLLM_NO_USAGE_STATS") == "1", "what is served here would be reported elsewhere"
        model = Path(bound.arguments["model"])
        config = json.loads((model / "config.json").read_text())
        if config.get("model_type") == "unsupported":
            raise ValueError("unsupported model architecture")
        self.arguments = dict(bound.arguments) | extra
        self.longest = config["max_position_embeddings"] - (0 if extra.get("encode_only") else 1)
        self.encoded = 0
        self.model = FakeModel()
        self.aborted: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.is_down = False
        self._encoding = threading.Lock()
        LLM.made.append(self)

    def _check_health(self) -> bool:
        return not self.is_down

    @strict("tensorrt_llm.LLM.shutdown")
    def shutdown(self: Any) -> None:
        self.is_down = True

    @strict("tensorrt_llm.LLM.generate")
    def generate(self: Any, **given: Any) -> Any:
        return self.generate_async(given["inputs"], given["sampling_params"]).result()

    @strict("tensorrt_llm.LLM.generate_async")
    def generate_async(self: Any, **given: Any) -> Any:
        if self.arguments.get("encode_only"):
            raise RuntimeError("generate_async is not supported for encode_only")
        if self.is_down:
            raise RuntimeError("LLM is shutting down")
        self.calls.append(given)
        ids = given["inputs"]["prompt_token_ids"]
        text = self.model.decode(list(ids))
        lora = given["lora_request"]
        if lora is not None:
            if not self.arguments.get("enable_lora"):
                raise ValueError("LoRA is not enabled")
            adapter = Path(lora.lora_path, "adapter_config.json").read_text()
            if "unreadable" in adapter:  # in one process the worker's own error comes through
                raise KeyError("base_model.model.model.layers.0")
            text = f"adapter {adapter}:{text}"
        if "please refuse" in text or len(ids) > min(self.arguments["max_num_tokens"], self.longest):
            from tensorrt_llm.executor.utils import RequestError

            return Answer(self, [], RequestError("the prompt is too long for max_num_tokens"), text)
        if "please die" in text:
            self.is_down = True
            return Answer(self, [], OSError("CUDA error: an illegal memory access was encountered"), text)
        parameters = given["sampling_params"]
        if "please cancel" in text:
            return Answer(self, [Record(token_ids=[], logprobs=[], finish_reason="cancelled")], None, text)
        if "please tell" in text:
            answer = Answer(self, [Record(token_ids=[], logprobs=[], finish_reason=None)], None, text)
            answer.error = "the cache is full"
            return answer
        steps = self._written(parameters) if given["streaming"] else [self._token(text, parameters)]
        return Answer(self, steps, None, text)

    def _written(self, parameters: Any) -> list[Any]:
        guide = parameters.guided_decoding
        said = ANSWER if guide is None else f" kept {guide.json or guide.regex}"
        ids = self.model.encode(said)[: parameters.max_tokens]
        return [Record(token_ids=ids[: i + 1], finish_reason=None) for i in range(len(ids))]

    def _token(self, text: str, parameters: Any) -> Any:
        best = self.model.best(text, max(parameters.logprobs or 0, 1))
        logprobs = [{token: Record(logprob=value, rank=i + 1) for i, (token, value) in enumerate(best.items())}]
        logits = None
        if parameters.return_generation_logits:
            assert self.arguments.get("gather_generation_logits"), "generation logits were not asked for at the start"
            logits = Tensor([self.model.logits(text)])
        return Record(token_ids=[next(iter(best))], logprobs=logprobs, generation_logits=logits, finish_reason="length")


if "tensorrt_llm.LLM.encode" in FACTS.objects:

    @strict("tensorrt_llm.LLM.encode")
    def encode(self: Any, **given: Any) -> Any:
        if not self.arguments.get("encode_only"):
            raise RuntimeError("encode needs encode_only=True")
        assert self._encoding.acquire(blocking=False), "encode was called twice at the same time"
        try:
            rows = given["inputs"]
            if len(rows) > self.arguments["max_batch_size"]:
                raise ValueError(f"{len(rows)} prompts, more than max_batch_size")
            if sum(map(len, rows)) > self.arguments["max_num_tokens"]:
                raise ValueError("more tokens than max_num_tokens")
            texts = [self.model.decode(row) for row in rows]
            if any("please die" in text for text in texts):
                raise OSError("CUDA error: an illegal memory access was encountered")
            self.encoded += 1
            return [Record(logits=View(self, self.model.logits(text))) for text in texts]
        finally:
            self._encoding.release()

    LLM.encode = encode  # type: ignore[attr-defined]
