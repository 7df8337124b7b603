"""Servers with an OpenAI-like HTTP interface, asked for labels in the most exact way each has.

==============  ==========================================================  =================================
preset          labels from                                                 adapters
==============  ==========================================================  =================================
trtllm-serve    ``/v1/completions`` best few; ``/v1/embeddings`` logits     ``lora_request`` in the request
vllm            ``/v1/completions`` best few; ``/classify``                 the adapter's name as the model
sglang          ``/v1/score`` label tokens; ``/v1/classify``; completions   ``lora_path`` in the request
==============  ==========================================================  =================================
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from gateway.domain.capabilities import CONSTRAINTS, EXACT, TOPK, Capabilities, Constraint, Health
from gateway.engines.label_scores import from_best, from_probabilities
from gateway.engines.ports import (
    Broken,
    Busy,
    Endpoint,
    EngineProblem,
    GenerateJob,
    InputRefused,
    LabelScores,
    OutOfTime,
    Piece,
    ScoreJob,
    Served,
    Unreachable,
)
from gateway.serving.ports import BundleRefused
from protos.contract.engines import OPENAI_PRESETS, openai_method
from protos.contract.fields import FieldInvalid, Reader

QUESTION_TIMEOUT_S = 5.0
LOAD_TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 8 << 20
DEFAULT_TOP = 20  # vLLM's own limit unless its operator raises it
MAX_TOP = 1000
TOKEN_ID = "token_id:"  # how vLLM writes a token when asked for ids  # noqa: S105
LOADS_ADAPTERS = {"vllm": "/v1/load_lora_adapter", "sglang": "/load_lora_adapter"}
UNLOADS_ADAPTERS = {"vllm": "/v1/unload_lora_adapter", "sglang": "/unload_lora_adapter"}
_STATUS: Mapping[int, type[EngineProblem]] = {
    400: InputRefused,
    413: InputRefused,
    422: InputRefused,
    408: OutOfTime,
    504: OutOfTime,
    429: Busy,
    502: Unreachable,
    503: Unreachable,
}


class Settings:
    """A bundle's ``engine`` table, checked."""

    def __init__(self, served: Served) -> None:
        read = Reader(served.settings, "manifest.engine")
        read.text("backend")
        self.preset = read.text("preset", choices=OPENAI_PRESETS)
        read.maybe_text("method")
        self.method = openai_method(served.settings)
        self.model = read.text("model")
        labels = len(served.task.labels)
        self.top = read.integer("top_logprobs", labels, MAX_TOP, max(DEFAULT_TOP, labels))
        self.adapter, self.adapter_path, self.adapter_id = _adapter(read.object("adapter", {}))
        read.object("verbalizers", {})
        read.done()
        if self.method in ("completions", "score") and not served.answer_ids:
            raise FieldInvalid("tokenizer.json is missing, expected it: labels are asked for as tokens")
        if self.method == "score" and self.adapter:
            raise FieldInvalid("manifest.engine.adapter is given, expected none: /v1/score has no adapters")


class OpenAiEngine:
    """One HTTP server."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._url = endpoint.address.rstrip("/")
        self._token = endpoint.token
        self._connections = endpoint.connections
        self._ca = endpoint.ca
        self._session: aiohttp.ClientSession | None = None
        self._kept: dict[str, Settings] = {}

    async def health(self) -> Health:
        """Ask ``/health``."""
        try:
            await self._call("GET", "/health", None, QUESTION_TIMEOUT_S)
        except EngineProblem as error:
            return Health(False, str(error))
        return Health(True)

    async def load(self, served: Served) -> Capabilities:
        """Find the bundle's model, and adapter, among the server's; have an adapter with a path loaded."""
        try:
            settings = Settings(served)
        except FieldInvalid as error:
            raise BundleRefused(str(error)) from error
        models = await self._models()
        if settings.model not in models:
            raise BundleRefused(f"the server has models {sorted(models)}, expected {settings.model!r}")
        longest = models[settings.model]
        if longest is not None and longest < served.task.max_tokens:
            raise BundleRefused(f"the server reads {longest} tokens, expected {served.task.max_tokens}")
        if settings.adapter and settings.preset in LOADS_ADAPTERS and settings.adapter not in models:
            await self._load_adapter(settings)
        if settings.adapter and settings.preset == "trtllm-serve" and not settings.adapter_path:
            raise BundleRefused("manifest.engine.adapter.path is missing, expected where the server finds the adapter")
        self._kept[served.digest] = settings
        return Capabilities(
            label_logprobs=TOPK if settings.method == "completions" else EXACT,
            lora="none" if settings.method in ("score", "embeddings") else "per_request",
            prefix_cache=True,
            constraints=CONSTRAINTS,
            can_generate=settings.method in ("completions", "score"),
            vocabulary_mass=settings.method in ("completions", "score"),
        )

    async def _models(self) -> dict[str, int | None]:
        answer = await self._call("GET", "/v1/models", None, QUESTION_TIMEOUT_S)
        with _reading("/v1/models"):
            return {str(model["id"]): model.get("max_model_len") for model in answer["data"]}

    async def _load_adapter(self, settings: Settings) -> None:
        if not settings.adapter_path:
            raise BundleRefused(f"adapter {settings.adapter!r} is not loaded at the server, expected adapter.path")
        body = {"lora_name": settings.adapter, "lora_path": settings.adapter_path}
        try:
            await self._call("POST", LOADS_ADAPTERS[settings.preset], body, LOAD_TIMEOUT_S)
        except (InputRefused, Broken) as error:
            # vLLM refuses a name it has: then the adapter is there.
            if "already" not in str(error):
                raise BundleRefused(f"the server refuses adapter {settings.adapter!r}: {error}") from error

    async def unload(self, served: Served) -> None:
        """Have the server forget the bundle's adapter, unless another bundle uses it."""
        settings = self._kept.pop(served.digest, None)
        if settings is None or not settings.adapter_path or settings.preset not in UNLOADS_ADAPTERS:
            return
        if all(settings.adapter != other.adapter for other in self._kept.values()):
            body = {"lora_name": settings.adapter}
            await self._call("POST", UNLOADS_ADAPTERS[settings.preset], body, QUESTION_TIMEOUT_S)

    async def score(self, job: ScoreJob, timeout_s: float) -> LabelScores:
        """Ask for labels in the bundle's way."""
        settings = self._kept[job.served.digest]
        ask = {
            "completions": self._score_by_completion,
            "score": self._score_by_tokens,
            "classify": self._score_by_class,
            "embeddings": self._score_by_logits,
        }[settings.method]
        return await ask(settings, job, timeout_s)

    async def _score_by_completion(self, settings: Settings, job: ScoreJob, timeout_s: float) -> LabelScores:
        body = self._completion(settings, list(job.token_ids), 1) | {"logprobs": settings.top}
        if settings.preset == "vllm":
            body["return_tokens_as_token_ids"] = True
        answer = await self._call("POST", "/v1/completions", body, timeout_s)
        with _reading("/v1/completions"):
            choice = answer["choices"][0]
            if choice["finish_reason"] not in ("stop", "length"):
                raise Broken(f"finish_reason is {choice['finish_reason']!r}, expected stop or length")
            logprobs = choice["logprobs"]
            best = dict(logprobs["top_logprobs"][0])
            best[logprobs["tokens"][0]] = logprobs["token_logprobs"][0]
            prompt_tokens = int((answer.get("usage") or {}).get("prompt_tokens", 0))
            names = {self._token_name(settings, job.served, i): i for i in job.served.answer_ids}
            # Tokens that are no label keep ids below 0: only their log-probabilities matter.
            by_id = {names.get(name, -1 - place): float(value) for place, (name, value) in enumerate(best.items())}
        return from_best(job.served.answer_ids, by_id, prompt_tokens)

    @staticmethod
    def _token_name(settings: Settings, served: Served, token: int) -> str:
        if settings.preset == "vllm":
            return f"{TOKEN_ID}{token}"
        # The others write the token's text, a space in front included, which a tokenizer's decode may drop.
        return served.answers[served.answer_ids.index(token)]

    async def _score_by_tokens(self, settings: Settings, job: ScoreJob, timeout_s: float) -> LabelScores:
        # Query and item are joined; both must be there, so the last token of the prompt is the item.
        body = {
            "model": settings.model,
            "query": list(job.token_ids[:-1]),
            "items": [[job.token_ids[-1]]],
            "label_token_ids": list(job.served.answer_ids),
            "apply_softmax": False,
            "item_first": False,
        }
        answer = await self._call("POST", "/v1/score", body, timeout_s)
        with _reading("/v1/score"):
            (row,) = answer["scores"]
            values = [float(value) for value in row]
        return from_probabilities(values, of_vocabulary=True, prompt_tokens=len(job.token_ids))

    async def _score_by_class(self, settings: Settings, job: ScoreJob, timeout_s: float) -> LabelScores:
        body: dict[str, Any] = {"model": settings.model, "input": list(job.token_ids) or job.text}
        if settings.adapter and settings.preset == "vllm":
            body["model"] = settings.adapter
        elif settings.adapter:
            body["lora_path"] = settings.adapter
        path = "/classify" if settings.preset == "vllm" else "/v1/classify"
        answer = await self._call("POST", path, body, timeout_s)
        with _reading(path):
            (row,) = answer["data"]
            values = [float(value) for value in row["probs"]]
        return from_probabilities(values, of_vocabulary=False, prompt_tokens=len(job.token_ids))

    async def _score_by_logits(self, settings: Settings, job: ScoreJob, timeout_s: float) -> LabelScores:
        body = {"model": settings.model, "input": list(job.token_ids) or job.text, "encoding_format": "float"}
        answer = await self._call("POST", "/v1/embeddings", body, timeout_s)
        with _reading("/v1/embeddings"):
            (row,) = answer["data"]
            values = tuple(float(value) for value in row["embedding"])
        return LabelScores(values, is_logits=True, prompt_tokens=len(job.token_ids))

    async def generate(self, job: GenerateJob, timeout_s: float) -> AsyncIterator[Piece]:
        """Stream a completion; leaving early closes the connection, which aborts it in the server."""
        settings = self._kept[job.served.digest]
        prompt: Any = list(job.token_ids) or job.text
        body = self._completion(settings, prompt, job.max_tokens) | {"stream": True}
        body |= _constrained(settings.preset, job.constraint)
        tokens = 0
        with _translating(timeout_s):
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with self._open().post(self._url + "/v1/completions", json=body, timeout=timeout) as response:
                await _check_status(response, "/v1/completions")
                async for line in response.content:
                    if not line.startswith(b"data:"):
                        continue
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        return
                    with _reading("/v1/completions"):
                        event = json.loads(data)
                        if "error" in event:
                            raise Broken(f"/v1/completions: {str(event['error'])[:160]}")
                        text = str(event["choices"][0]["text"]) if event["choices"] else ""
                    if text:
                        tokens += 1  # servers send an event a token, and say no number before the end
                        yield Piece(text, tokens)

    def _completion(self, settings: Settings, prompt: Any, max_tokens: int) -> dict[str, Any]:
        body = {"model": settings.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        if not settings.adapter:
            return body
        if settings.preset == "vllm":
            return body | {"model": settings.adapter}
        if settings.preset == "sglang":
            return body | {"lora_path": settings.adapter}
        chosen = {
            "lora_name": settings.adapter,
            "lora_int_id": settings.adapter_id,
            "lora_path": settings.adapter_path,
        }
        return body | {"lora_request": chosen}

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        """Make the session on the loop that serves the calls."""
        if self._session is None:
            verify: Any = True
            if self._ca is not None:
                import ssl

                verify = ssl.create_default_context(cadata=self._ca.decode())
            headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
            connector = aiohttp.TCPConnector(limit=max(self._connections, 2), ssl=verify, keepalive_timeout=60)
            self._session = aiohttp.ClientSession(connector=connector, headers=headers)
        return self._session

    async def _call(self, method: str, path: str, body: Any, timeout_s: float) -> Any:
        with _translating(timeout_s):
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with self._open().request(method, self._url + path, json=body, timeout=timeout) as response:
                await _check_status(response, path)
                data = await response.content.read(MAX_ANSWER_BYTES)
                if path in ("/health", *LOADS_ADAPTERS.values(), *UNLOADS_ADAPTERS.values()):
                    return None
        with _reading(path):
            return json.loads(data)


async def _check_status(response: aiohttp.ClientResponse, path: str) -> None:
    if response.status < 300:
        return
    detail = " ".join((await response.content.read(2000)).decode(errors="replace").split())[:160]
    raise _STATUS.get(response.status, Broken)(f"{path} answers {response.status}: {detail or 'nothing'}")


@contextlib.contextmanager
def _translating(timeout_s: float) -> Any:
    try:
        yield
    except TimeoutError as error:  # asyncio's and aiohttp's
        raise OutOfTime(f"no answer within {timeout_s:.3g} s") from error
    except (aiohttp.ClientConnectionError, asyncio.IncompleteReadError, OSError) as error:
        raise Unreachable(str(error) or type(error).__name__) from error
    except aiohttp.ClientError as error:
        raise Broken(str(error) or type(error).__name__) from error


@contextlib.contextmanager
def _reading(path: str) -> Any:
    """Call an answer of another shape than agreed what it is."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise Broken(f"{path} answers something else than agreed: {type(error).__name__} {error}") from error


def _adapter(value: dict[str, Any]) -> tuple[str, str, int]:
    if not value:
        return "", "", 0
    read = Reader(value, "manifest.engine.adapter")
    found = read.text("name"), read.maybe_text("path") or "", read.integer("id", 1, 2**31 - 1, 1)
    read.done()
    return found


def _constrained(preset: str, constraint: Constraint | None) -> dict[str, Any]:
    if constraint is None:
        return {}
    schema: Any = None
    if constraint.kind == "json_schema":
        try:
            schema = json.loads(constraint.pattern)
        except ValueError as error:
            raise InputRefused(f"constraint.json_schema is not JSON: {error}") from error
    choice = "(" + "|".join(map(re.escape, constraint.choices)) + ")"
    if preset == "vllm":
        key = {"json_schema": "json", "regex": "regex", "choice": "choice"}[constraint.kind]
        value = {"json": schema, "regex": constraint.pattern, "choice": list(constraint.choices)}[key]
        return {"structured_outputs": {key: value}}
    if preset == "sglang":
        if schema is not None:
            return {"json_schema": constraint.pattern}
        return {"regex": constraint.pattern or choice}
    if schema is not None:
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {"response_format": {"type": "regex", "regex": constraint.pattern or choice}}
