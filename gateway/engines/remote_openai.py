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
import os.path
import re
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from typing import Any

import aiohttp

from gateway.domain.capabilities import CONSTRAINTS, EXACT, TOPK, Capabilities, Constraint, Health
from gateway.engines.label_scores import each, only
from gateway.engines.openai_answers import (
    from_classes,
    from_completion,
    from_embedding,
    from_token_scores,
    reading,
    rows_of,
)
from gateway.engines.ports import (
    Broken,
    Busy,
    Endpoint,
    EngineProblem,
    GenerateJob,
    Identity,
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
TELLS_VERSION = ("trtllm-serve", "vllm")
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
        if settings.adapter and settings.preset == "trtllm-serve" and not settings.adapter_path:
            raise BundleRefused("manifest.engine.adapter.path is missing, expected where the server finds the adapter")
        self._kept[served.digest] = (
            settings  # first: what a load that is taken back left at the server is forgotten too
        )
        if settings.adapter and settings.preset in LOADS_ADAPTERS and settings.adapter not in models:
            try:
                await self._load_adapter(settings)
            except BundleRefused:
                del self._kept[served.digest]
                raise
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
        with reading("/v1/models"):
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

    async def identify(self, served: Served) -> Identity:
        """Ask what the model's name stands for, as vLLM tells, and the server's version where it can be asked."""
        settings, version = self._kept[served.digest], ""
        answer = await self._call("GET", "/v1/models", None, QUESTION_TIMEOUT_S)
        with reading("/v1/models"):
            listed = {model["id"]: model for model in answer["data"]}[settings.model]
        if settings.preset in TELLS_VERSION:
            said = await self._call("GET", "/version", None, QUESTION_TIMEOUT_S)
            with reading("/version"):
                version = str(said["version"])
        return Identity(str(listed.get("root") or settings.model), "", str(listed.get("owned_by") or ""), version)

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
        return only(await self.score_many([job], timeout_s))

    def batch_key(self, job: ScoreJob) -> Hashable | None:
        """Join what one bundle is asked; ``/v1/score`` takes texts that begin alike."""
        digest = job.served.digest
        if self._kept[digest].method != "score":
            return digest
        return (digest, job.token_ids[0]) if len(job.token_ids) > 1 else None

    async def score_many(self, jobs: Sequence[ScoreJob], timeout_s: float) -> list[LabelScores | EngineProblem]:
        """Ask for the labels of every text in the bundle's way."""
        settings = self._kept[jobs[0].served.digest]
        ask = {
            "completions": self._score_by_completion,
            "score": self._score_by_tokens,
            "classify": self._score_by_class,
            "embeddings": self._score_by_logits,
        }[settings.method]
        return await ask(settings, jobs, timeout_s)

    async def _score_by_completion(
        self, settings: Settings, jobs: Sequence[ScoreJob], timeout_s: float
    ) -> list[LabelScores | EngineProblem]:
        path, served = "/v1/completions", jobs[0].served
        body = self._completion(settings, _joined([list(job.token_ids) for job in jobs]), 1)
        body["logprobs"] = settings.top
        if settings.preset == "vllm":
            body["return_tokens_as_token_ids"] = True
            names = {f"{TOKEN_ID}{token}": token for token in served.answer_ids}
        else:  # the token's text, a space in front included, which a tokenizer's decode may drop
            names = dict(zip(served.answers, served.answer_ids, strict=True))
        answer = await self._call("POST", path, body, timeout_s)
        rows = rows_of(path, answer, "choices", len(jobs))
        return each(jobs, rows, lambda job, row: from_completion(path, job, row, names))

    async def _score_by_tokens(
        self, settings: Settings, jobs: Sequence[ScoreJob], timeout_s: float
    ) -> list[LabelScores | EngineProblem]:
        # Query and item are joined; both must be there, so an item is at least the last token of its prompt.
        path = "/v1/score"
        query = os.path.commonprefix([job.token_ids[:-1] for job in jobs])
        body = {
            "model": settings.model,
            "query": list(query),
            "items": [list(job.token_ids[len(query) :]) for job in jobs],
            "label_token_ids": list(jobs[0].served.answer_ids),
            "apply_softmax": False,
            "item_first": False,
        }
        answer = await self._call("POST", path, body, timeout_s)
        with reading(path):
            rows = list(answer["scores"])
        if len(rows) != len(jobs):
            raise Broken(f"{path} answers {len(rows)} rows, expected {len(jobs)}")
        return each(jobs, rows, lambda job, row: from_token_scores(path, job, row))

    async def _score_by_class(
        self, settings: Settings, jobs: Sequence[ScoreJob], timeout_s: float
    ) -> list[LabelScores | EngineProblem]:
        path = "/classify" if settings.preset == "vllm" else "/v1/classify"
        body: dict[str, Any] = {"model": settings.model, "input": _inputs(jobs)}
        if settings.adapter and settings.preset == "vllm":
            body["model"] = settings.adapter
        elif settings.adapter:
            body["lora_path"] = settings.adapter
        answer = await self._call("POST", path, body, timeout_s)
        rows = rows_of(path, answer, "data", len(jobs))
        return each(jobs, rows, lambda job, row: from_classes(path, job, row))

    async def _score_by_logits(
        self, settings: Settings, jobs: Sequence[ScoreJob], timeout_s: float
    ) -> list[LabelScores | EngineProblem]:
        path = "/v1/embeddings"
        body = {"model": settings.model, "input": _inputs(jobs), "encoding_format": "float"}
        answer = await self._call("POST", path, body, timeout_s)
        rows = rows_of(path, answer, "data", len(jobs))
        return each(jobs, rows, lambda job, row: from_embedding(path, job, row))

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
                    with reading("/v1/completions"):
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
        with reading(path):
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


def _inputs(jobs: Sequence[ScoreJob]) -> Any:
    return _joined([list(job.token_ids) or job.text for job in jobs])


def _joined(texts: list[Any]) -> Any:
    """Write one text as itself, which every server takes, and several as a list."""
    return texts[0] if len(texts) == 1 else texts


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
