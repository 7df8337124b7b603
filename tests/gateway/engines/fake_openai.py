"""HTTP servers that answer as trtllm-serve, vLLM and SGLang do."""

import asyncio
import json
import math
from typing import Any

from aiohttp import web

from tests.gateway.engines.fake_model import ANSWER, MODEL, Busy, Failed, FakeModel

CONSTRAINTS = ("structured_outputs", "regex", "json_schema", "response_format")


class FakeOpenAi:
    """One server of one preset."""

    def __init__(self, model: FakeModel, preset: str) -> None:
        self.model = model
        self.preset = preset
        self.adapters: dict[str, str] = {}
        self.authorization: str | None = None
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, port: int = 0) -> int:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._completions)
        paths = {
            "vllm": (("/classify", self._classify),),
            "sglang": (("/v1/score", self._score), ("/v1/classify", self._classify)),
            "trtllm-serve": (("/v1/embeddings", self._embeddings),),
        }[self.preset]
        for path, handler in paths:
            app.router.add_post(path, handler)
        prefix = {"vllm": "/v1", "sglang": ""}.get(self.preset)
        if prefix is not None:
            app.router.add_post(prefix + "/load_lora_adapter", self._load)
            app.router.add_post(prefix + "/unload_lora_adapter", self._unload)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self.port

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        self.authorization = request.headers.get("Authorization")
        return web.Response(status=200 if self.model.is_up else 503)

    async def _models(self, request: web.Request) -> web.Response:
        names = [MODEL, *(self.adapters if self.preset == "vllm" else ())]
        return web.json_response({"data": [{"id": name, "max_model_len": 512} for name in names]})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        if "missing" in body["lora_path"]:
            return web.json_response({"error": f"no adapter at {body['lora_path']}"}, status=400)
        self.adapters[body["lora_name"]] = body["lora_path"]
        return web.Response(text="Success")

    async def _unload(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.adapters.pop(body["lora_name"], None)
        self.model._note()
        return web.Response(text="Success")

    async def _begin(self, body: dict[str, Any], prompt: Any) -> tuple[str, web.Response | None]:
        self.model.requests.append(body)
        text = prompt if isinstance(prompt, str) else self.model.decode(prompt)
        adapter = body.get("lora_path") or (body.get("lora_request") or {}).get("lora_name")
        if body["model"] != MODEL:
            if body["model"] not in self.adapters:
                return text, web.json_response({"error": "no such model"}, status=404)
            adapter = body["model"]
        try:
            await self.model.begin(text, text)
        except Failed as error:
            return text, web.json_response({"error": str(error)}, status=500)
        except Busy as error:
            return text, web.json_response({"error": str(error)}, status=429)
        return (f"{adapter}:{text}" if adapter else text), None

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        text, problem = await self._begin(body, body["prompt"])
        if problem is not None:
            return problem
        if body.get("stream"):
            return await self._stream(request, body)
        best = self.model.best(text, body["logprobs"])
        named = {self._name(body, id): self._number(value) for id, value in best.items()}
        chosen = next(iter(named))
        logprobs = {"tokens": [chosen], "token_logprobs": [named[chosen]], "top_logprobs": [named]}
        choice = {"index": 0, "text": "", "finish_reason": "length", "logprobs": logprobs}
        return _json({"choices": [choice], "usage": {"prompt_tokens": len(body["prompt"])}})

    def _name(self, body: dict[str, Any], id: int) -> str:
        return f"token_id:{id}" if body.get("return_tokens_as_token_ids") else self.model.decode([id])

    @staticmethod
    def _number(value: float) -> Any:
        return value

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        kept = {key: body[key] for key in CONSTRAINTS if key in body}
        text = f" kept {json.dumps(kept)}" if kept else ANSWER
        for id in self.model.encode(text)[: body["max_tokens"]]:
            event = {"choices": [{"text": self.model.decode([id]), "finish_reason": None}]}
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
            await asyncio.sleep(0)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _classify(self, request: web.Request) -> web.Response:
        body = await request.json()
        text, problem = await self._begin(body, body["input"])
        row = self.model.label_probabilities(text)
        answer = {"data": [{"index": 0, "label": "safe", "probs": row, "num_classes": len(row)}]}
        return problem or _json(answer)

    async def _score(self, request: web.Request) -> web.Response:
        body = await request.json()
        text, problem = await self._begin(body, body["query"] + body["items"][0])
        row = [math.exp(self.model.logprobs(text)[i]) for i in body["label_token_ids"]]
        return problem or _json({"scores": [row], "object": "scoring"})

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        text, problem = await self._begin(body, body["input"])
        row = [float(self.model.logits(text)[i]) for i in self.model.label_ids]
        if "please nan" in text:
            row = [math.nan] * len(row)
        return problem or _json({"data": [{"embedding": row}]})


def _json(value: Any) -> web.Response:
    """Write JSON as Python servers do, NaN included."""
    return web.Response(text=json.dumps(value), content_type="application/json")
