"""Servers with an OpenAI-like HTTP interface, asked for labels in the most exact way each has.

==============  ==========================================================  ====================================
preset          labels from                                                 adapters
==============  ==========================================================  ====================================
trtllm-serve    ``/v1/completions`` best few; ``/v1/embeddings`` logits     ``lora_request`` in the request
vllm            ``/v1/completions`` label tokens, best few; ``/classify``   the adapter's name as the model
sglang          ``/generate`` label tokens; ``/v1/classify``; completions   ``lora_path``, except ``/v1/classify``
==============  ==========================================================  ====================================
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Collection, Hashable, Mapping, Sequence
from typing import Any

from gateway.domain.capabilities import CONSTRAINTS, EXACT, TOPK, Capabilities, Health
from gateway.engines import sglang_http, trtllm_http
from gateway.engines.http_client import HttpClient
from gateway.engines.label_scores import each, only
from gateway.engines.openai_answers import (
    from_classes,
    from_completion,
    from_embedding,
    from_generated,
    reading,
    rows_of,
)
from gateway.engines.openai_settings import Listed, Settings, constrained, problem_of_adapter
from gateway.engines.ports import (
    Broken,
    Endpoint,
    EngineProblem,
    Forgotten,
    GenerateJob,
    Identity,
    InputRefused,
    LabelScores,
    Piece,
    ScoreJob,
    Served,
)
from gateway.engines.serving import with_adapter
from gateway.engines.spelling import spellings
from gateway.engines.trial import ONLY_THE_WORD, longest_prompt
from gateway.serving.ports import BundleRefused
from protos.contract.fields import FieldInvalid

QUESTION_TIMEOUT_S = 5.0
LOAD_TIMEOUT_S = 30.0
NAMES_TOKENS = {"vllm": "logprob_token_ids", "sglang": "token_ids_logprob"}
TOKEN_ID = "token_id:"  # how vLLM writes a token when asked for ids  # noqa: S105
LOADS_ADAPTERS = {"vllm": "/v1/load_lora_adapter", "sglang": "/load_lora_adapter"}
UNLOADS_ADAPTERS = {"vllm": "/v1/unload_lora_adapter", "sglang": "/unload_lora_adapter"}


class OpenAiEngine:
    """One HTTP server."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._http = HttpClient(endpoint)
        self._kept: dict[str, Settings] = {}
        self._spelled: dict[str, Mapping[str, int]] = {}

    async def health(self) -> Health:
        """Ask ``/health``."""
        try:
            await self._ask("/health")
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
        longest = models[settings.model].longest
        if longest is not None and longest < served.task.max_tokens:
            raise BundleRefused(f"the server reads {longest} tokens, expected {served.task.max_tokens}")
        if settings.adapter and settings.preset == "trtllm-serve" and not settings.adapter_path:
            raise BundleRefused("manifest.engine.adapter.path is missing, expected where the server finds the adapter")
        if settings.adapter in models:
            _check_is_that_adapter(settings, models[settings.adapter])
        if settings.preset == "sglang":
            sglang_http.check_serves(settings, served.task, await self._ask(sglang_http.SERVER))
        if settings.method == "completions" and settings.preset != "vllm":
            self._spelled[served.digest] = await asyncio.to_thread(spellings, served)
        constraints: tuple[str, ...] = CONSTRAINTS
        if settings.preset == "trtllm-serve":
            constraints = await self._check_trtllm(settings, served)
        elif settings.reads_tokens:
            await self._check_tells(settings, served)
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
            lora="per_request" if settings.takes_adapters else "none",
            prefix_cache=True,
            constraints=constraints,
            can_generate=settings.reads_tokens,
            vocabulary_mass=settings.reads_tokens,
        )

    async def _models(self) -> dict[str, Listed]:
        answer = await self._ask("/v1/models")
        with reading("/v1/models"):
            return {
                str(model["id"]): Listed(model.get("max_model_len"), model.get("root"), model.get("parent"))
                for model in answer["data"]
            }

    async def _check_tells(self, settings: Settings, served: Served) -> None:
        """Ask once, though the first question takes long: servers tell no more than they were started with.

        One that does not know what names the label tokens takes no notice of it.
        """
        job = ScoreJob("", served, "", served.answer_ids[:1])
        try:  # its adapter may not be there yet
            if settings.asks_generate:
                only(await self._ask_generate([job], "", LOAD_TIMEOUT_S))
            else:
                body = self._of_base(settings, list(job.token_ids), 1)
                only(await self._ask_completions(settings, body, [job], LOAD_TIMEOUT_S))
        except InputRefused as error:
            raise BundleRefused(f"the server refuses to tell what the labels need: {error}") from error
        except (Broken, Forgotten) as error:
            if settings.method == "score":
                raise BundleRefused(
                    f"the server does not tell the label tokens' log-probabilities ({error}), expected one that "
                    f'answers {NAMES_TOKENS[settings.preset]}, or method = "completions" and a task whose '
                    "label_logprobs is topk"
                ) from error

    async def _check_trtllm(self, settings: Settings, served: Served) -> tuple[str, ...]:
        """Try what the bundle needs, though the first question takes long; return the constraints that it keeps."""
        ids = longest_prompt(served)
        if settings.method == "embeddings":
            try:
                found = only(await self._score_by_logits(settings, [ScoreJob("", served, "x", ids)], LOAD_TIMEOUT_S))
            except (InputRefused, Broken) as error:
                raise BundleRefused(f"the server does not answer a prompt of {len(ids)} tokens: {error}") from error
            if len(found.values) != len(served.task.labels):
                raise BundleRefused(f"the server tells {len(found.values)} values, expected one a label")
            return ()
        for other in self._kept.values():
            if other.adapter_id == settings.adapter_id and other.adapter_path != settings.adapter_path:
                raise BundleRefused(f"adapter.id {settings.adapter_id} is that of {other.adapter_path!r} here")
        plain = self._of_base(settings, list(ids), 1) | {"logprobs": settings.top}
        chosen = self._completion(settings, list(ids), 1) | {"logprobs": settings.top} if settings.adapter else None

        async def ask(body: dict[str, Any]) -> Any:
            return await self._completed(settings, body, LOAD_TIMEOUT_S)

        await trtllm_http.check_answers(ask, plain, chosen)
        word = self._of_base(settings, list(ids[:1]), 1) | constrained(settings.preset, ONLY_THE_WORD)
        return CONSTRAINTS if await trtllm_http.keeps_constraints(ask, word) else ()

    async def _completed(self, settings: Settings, body: dict[str, Any], timeout_s: float) -> Any:
        try:
            return await self._call("POST", "/v1/completions", body, timeout_s)
        except InputRefused as error:
            raise (trtllm_http.cause_of(error) if settings.preset == "trtllm-serve" else error) from error

    async def _load_adapter(self, settings: Settings) -> None:
        if not settings.adapter_path:
            raise BundleRefused(f"adapter {settings.adapter!r} is not loaded at the server, expected adapter.path")
        body = {"lora_name": settings.adapter, "lora_path": settings.adapter_path}
        try:
            await self._call("POST", LOADS_ADAPTERS[settings.preset], body, LOAD_TIMEOUT_S)
        except (InputRefused, Broken, Forgotten) as error:
            # vLLM refuses a name it has: then the adapter is there, loaded by somebody else just now.
            if "already" not in str(error):
                raise BundleRefused(f"the server refuses adapter {settings.adapter!r}: {error}") from error
            models = await self._models()
            if settings.adapter in models:
                _check_is_that_adapter(settings, models[settings.adapter])

    async def missing(self, bundles: Collection[str]) -> Mapping[str, str]:
        """Look for adapters that somebody unloaded, or loaded others for, where the server tells.

        One that SGLang does not list was put aside, and comes back when it is asked for.
        """
        kept = {digest: self._kept[digest] for digest in bundles if digest in self._kept}
        told = {digest: one for digest, one in kept.items() if one.adapter and one.preset in LOADS_ADAPTERS}
        try:
            models = await self._models() if told else {}
        except EngineProblem:
            return {}
        found = {
            digest: problem_of_adapter(one, models.get(one.adapter))
            for digest, one in told.items()
            if one.preset == "vllm" or one.adapter in models
        }
        return {digest: problem for digest, problem in found.items() if problem}

    async def identify(self, served: Served) -> Identity:
        """Ask what the model's name stands for, as vLLM tells, and the server's version where it can be asked."""
        settings = self._kept[served.digest]
        if settings.preset == "sglang":
            server, model = await self._ask(sglang_http.SERVER), await self._ask(sglang_http.MODEL)
            return sglang_http.identity_of(settings, server, model)
        answer = await self._ask("/v1/models")
        with reading("/v1/models"):
            models = {model["id"]: model for model in answer["data"]}
            listed, adapter = models[settings.model], models.get(settings.adapter, {})
        said = await self._ask("/version")
        with reading("/version"):
            version = str(said["version"])
        path = str(adapter.get("root") or settings.adapter_path)
        name = with_adapter(str(listed.get("root") or settings.model), settings.adapter, path)
        return Identity(name, "", str(listed.get("owned_by") or ""), version)

    async def unload(self, served: Served) -> None:
        """Have the server forget the bundle's adapter, unless another bundle uses it."""
        settings = self._kept.pop(served.digest, None)
        self._spelled.pop(served.digest, None)
        if settings is None or not settings.adapter_path or settings.preset not in UNLOADS_ADAPTERS:
            return
        if all(settings.adapter != other.adapter for other in self._kept.values()):
            body = {"lora_name": settings.adapter}
            await self._call("POST", UNLOADS_ADAPTERS[settings.preset], body, QUESTION_TIMEOUT_S)

    async def score(self, job: ScoreJob, timeout_s: float) -> LabelScores:
        """Ask for labels in the bundle's way."""
        return only(await self.score_many([job], timeout_s))

    def batch_key(self, job: ScoreJob) -> Hashable | None:
        """Join what one bundle is asked, where the server takes it together."""
        digest = job.served.digest
        settings = self._kept[digest]
        if settings.preset == "sglang" and not sglang_http.may_share(settings, job):
            return None
        return digest

    async def score_many(self, jobs: Sequence[ScoreJob], timeout_s: float) -> list[LabelScores | EngineProblem]:
        """Ask for the labels of every text in the bundle's way."""
        settings = self._kept[jobs[0].served.digest]
        if settings.asks_generate:
            return await self._ask_generate(jobs, settings.adapter, timeout_s)
        ask = {
            "score": self._score_by_completion,
            "completions": self._score_by_completion,
            "classify": self._score_by_class,
            "embeddings": self._score_by_logits,
        }[settings.method]
        return await ask(settings, jobs, timeout_s)

    async def _score_by_completion(
        self, settings: Settings, jobs: Sequence[ScoreJob], timeout_s: float
    ) -> list[LabelScores | EngineProblem]:
        body = self._completion(settings, _joined([list(job.token_ids) for job in jobs]), 1)
        return await self._ask_completions(settings, body, jobs, timeout_s)

    async def _ask_completions(
        self, settings: Settings, body: dict[str, Any], jobs: Sequence[ScoreJob], timeout_s: float
    ) -> list[LabelScores | EngineProblem]:
        path, served, by_id = "/v1/completions", jobs[0].served, settings.asks_for_ids
        body["logprobs"] = settings.top
        if by_id:  # vLLM wants the other field set, and takes no notice of its value
            body |= {"logprobs": 0, "logprob_token_ids": list(served.answer_ids)}
        if settings.preset == "vllm":
            body["return_tokens_as_token_ids"] = True
            names: Mapping[str, int] = {f"{TOKEN_ID}{token}": token for token in served.answer_ids}
        else:
            names = self._spelled[served.digest]
        answer = await self._completed(settings, body, timeout_s)
        rows = rows_of(path, answer, "choices", len(jobs))
        return each(jobs, rows, lambda job, row: from_completion(path, job, row, names, by_id=by_id))

    async def _ask_generate(
        self, jobs: Sequence[ScoreJob], adapter: str, timeout_s: float
    ) -> list[LabelScores | EngineProblem]:
        path = sglang_http.GENERATE
        answer = await self._call("POST", path, sglang_http.asking(jobs, adapter), timeout_s)
        with reading(path):
            rows = list(answer) if len(jobs) > 1 else [answer]  # in the order of the texts
        if len(rows) != len(jobs):
            raise Broken(f"{path} answers {len(rows)} rows, expected {len(jobs)}")
        return each(jobs, rows, lambda job, row: from_generated(path, job, row))

    async def _score_by_class(
        self, settings: Settings, jobs: Sequence[ScoreJob], timeout_s: float
    ) -> list[LabelScores | EngineProblem]:
        path = "/classify" if settings.preset == "vllm" else "/v1/classify"
        body: dict[str, Any] = {"model": settings.model, "input": _inputs(jobs)}
        if settings.adapter:
            body["model"] = settings.adapter
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
        body |= constrained(settings.preset, job.constraint)
        tokens = 0
        try:
            async with contextlib.aclosing(self._http.events("/v1/completions", body, timeout_s)) as events:
                async for data in events:
                    text = _text_of(data)
                    if text:
                        tokens += 1  # servers send an event a token, and say no number before the end
                        yield Piece(text, tokens)
        except InputRefused as error:
            is_told_apart = settings.preset == "trtllm-serve" and job.constraint is None
            raise (trtllm_http.cause_of(error) if is_told_apart else error) from error

    def _of_base(self, settings: Settings, prompt: Any, max_tokens: int) -> dict[str, Any]:
        return {"model": settings.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}

    def _completion(self, settings: Settings, prompt: Any, max_tokens: int) -> dict[str, Any]:
        body = self._of_base(settings, prompt, max_tokens)
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
        await self._http.close()

    async def _ask(self, path: str) -> Any:
        return await self._call("GET", path, None, QUESTION_TIMEOUT_S)

    async def _call(self, method: str, path: str, body: Any, timeout_s: float) -> Any:
        data = await self._http.call(method, path, body, timeout_s)
        if path in ("/health", *LOADS_ADAPTERS.values(), *UNLOADS_ADAPTERS.values()):
            return None
        with reading(path):
            return json.loads(data)


def _text_of(data: bytes) -> str:
    """Read one event of a completion; raises Broken for one that says that the text is broken off."""
    with reading("/v1/completions"):
        event = json.loads(data)
        if "error" in event:
            raise Broken(f"/v1/completions: {str(event['error'])[:160]}")
        choice = event["choices"][0] if event["choices"] else {}
        text, reason = str(choice.get("text", "")), choice.get("finish_reason")
    if reason not in (None, "", "stop", "length"):
        raise Broken(f"finish_reason is {reason!r}, expected stop or length")
    return text


def _check_is_that_adapter(settings: Settings, found: Listed) -> None:
    if problem := problem_of_adapter(settings, found):
        raise BundleRefused(problem)


def _inputs(jobs: Sequence[ScoreJob]) -> Any:
    return _joined([list(job.token_ids) or job.text for job in jobs])


def _joined(texts: list[Any]) -> Any:
    """Write one text as itself, which every server takes, and several as a list."""
    return texts[0] if len(texts) == 1 else texts
