"""HTTP servers that answer as trtllm-serve, vLLM and SGLang do."""

import asyncio
import json
import math
from typing import Any

from aiohttp import web

from tests.gateway.engines.fake_grpc import LONGEST, MAX_TOP
from tests.gateway.engines.fake_model import ANSWER, MODEL, Busy, Failed, FakeModel, Refused

MAX_LOGPROBS = 20
# What trtllm-serve takes of what is ever sent to a server like it; anything else is refused.
FIELDS = {
    "model",
    "prompt",
    "max_tokens",
    "temperature",
    "logprobs",
    "stream",
    "lora_request",
    "response_format",
    "input",
    "encoding_format",
}
CONSTRAINTS = ("structured_outputs", "regex", "json_schema", "response_format")


class FakeOpenAi:
    """One server of one preset.

    One that ``is_old`` takes no notice of being asked for the label tokens; ``is_bare`` is a trtllm-serve with neither
    ``enable_lora`` nor a ``guided_decoding_backend``.
    """

    def __init__(self, model: FakeModel, preset: str, *, is_old: bool = False, is_bare: bool = False) -> None:
        self.model = model
        self.preset = preset
        self.is_bare = is_bare
        self.numbered: dict[int, str] = {}
        self.is_old = is_old
        self.adapters: dict[str, str] = {}
        self.put_aside: dict[str, str] = {}  # SGLang's, which come back when they are asked for
        self.authorization: str | None = None
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, port: int = 0) -> int:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        if self.preset == "sglang":
            app.router.add_get("/server_info", self._server_info)
            app.router.add_get("/model_info", self._model_info)
        else:
            app.router.add_get("/version", self._version)
        app.router.add_post("/v1/completions", self._completions)
        paths = {
            "vllm": (("/classify", self._classify),),
            "sglang": (("/generate", self._generate), ("/v1/classify", self._classify)),
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
        listed: list[dict[str, Any]] = [{"id": MODEL, "max_model_len": 512}]
        if self.preset == "sglang":
            listed[0]["max_model_len"] = 518  # the model's context, of which it keeps a few for itself
        if self.preset == "trtllm-serve":
            listed = [{"id": MODEL, "object": "model", "created": 1, "owned_by": "tensorrt_llm"}]
        else:
            listed[0] |= {"root": MODEL, "parent": None}
            listed += [
                {"id": name, "root": path, "parent": MODEL, "max_model_len": None}
                for name, path in self.adapters.items()
            ]
        return web.json_response({"data": listed})

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "1.2"})

    async def _server_info(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "1.2", "max_req_input_len": 513})

    async def _model_info(self, request: web.Request) -> web.Response:
        return web.json_response({"model_path": MODEL, "weight_version": "3"})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["lora_name"] in self.adapters and not body.get("load_inplace"):
            return web.json_response({"error": f"{body['lora_name']} is already loaded"}, status=400)
        if "missing" in body["lora_path"]:
            status = 404 if self.preset == "vllm" else 400
            return web.json_response({"error": f"no adapter at {body['lora_path']}"}, status=status)
        self.adapters[body["lora_name"]] = body["lora_path"]
        self.put_aside.pop(body["lora_name"], None)
        if "slow" in body["lora_path"]:
            await self.model.begin("adapter", "please hang")
        return web.Response(text="Success")

    async def _unload(self, request: web.Request) -> web.Response:
        body = await request.json()
        path = self.adapters.pop(body["lora_name"], None)
        if path is not None and self.preset == "sglang":
            self.put_aside[body["lora_name"]] = path
        if path is None:
            return web.json_response({"error": f"{body['lora_name']} does not exist"}, status=400)
        self.model._note()
        return web.Response(text="Success")

    async def _begin(self, body: dict[str, Any], prompts: Any) -> tuple[list[str], web.Response | None]:
        """Start a request for one prompt, a text or its tokens, or for a list of prompts."""
        self.model.requests.append(body)
        is_one = not prompts or isinstance(prompts, str) or isinstance(prompts[0], int)
        listed = [prompts] if is_one else prompts
        if self.preset == "sglang" and not all(listed):
            if is_one:
                said = "Prompt cannot be empty"
                return [], web.json_response({"object": "error", "message": said}, status=400)
            self.model.is_up = False  # a batch with an empty prompt ends it
            return [], web.Response(status=500)
        texts = [prompt if isinstance(prompt, str) else self.model.decode(prompt) for prompt in listed]
        if self.preset == "trtllm-serve":
            return await self._begin_trtllm(body, prompts if not is_one else [prompts], texts)
        adapter = body.get("lora_path")
        if adapter in self.put_aside:
            self.adapters[adapter] = self.put_aside.pop(adapter)
        if self.preset == "sglang" and adapter and adapter not in self.adapters:
            said = f"Got LoRA adapter that has never been loaded: {adapter}"
            return texts, web.json_response({"object": "error", "message": said}, status=400)
        if self.preset != "sglang" and body["model"] != MODEL:  # which answers under any name
            if body["model"] not in self.adapters:
                return texts, web.json_response({"error": "no such model"}, status=404)
            adapter = body["model"]
        try:
            for text in texts:
                await self.model.begin(text, text)
        except Failed as error:
            return texts, web.json_response({"error": str(error)}, status=500)
        except Busy as error:
            if self.preset == "sglang":
                return texts, _json({"object": "error", "message": str(error), "code": 503}, status=503)
            return texts, web.json_response({"error": str(error)}, status=429)
        except Refused as error:
            return texts, web.json_response({"error": str(error)}, status=400)
        return [f"{adapter}:{text}" if adapter else text for text in texts], None

    async def _begin_trtllm(
        self, body: dict[str, Any], prompts: list[Any], texts: list[str]
    ) -> tuple[list[str], web.Response | None]:
        """Do as TensorRT-LLM does, which answers under any name, and 400 whatever goes wrong."""
        if unknown := set(body) - FIELDS:
            said = f"[{{'type': 'extra_forbidden', 'loc': ('body', '{min(unknown)}')}}]"
            return texts, web.json_response({"error": said}, status=400)
        if (body.get("logprobs") or 0) > MAX_TOP:
            said = f"logprobs must be less than or equal to {MAX_TOP}, got {body['logprobs']}"
            return texts, web.json_response({"error": said}, status=400)
        chosen = body.get("lora_request")
        if chosen and "missing" in chosen["lora_path"]:
            said = f"lora_path ({chosen['lora_path']}) does not exist."
            return texts, web.json_response({"error": said}, status=400)
        if (length := max(map(len, prompts))) > LONGEST:
            said = f"The sum of prompt length ({length}.0) should not exceed max_num_tokens ({LONGEST})"
            return texts, _error(said)
        try:
            for text in texts:
                await self.model.begin(text, text)
        except Failed as error:
            return texts, _error(f"Generation failed: {error}", 500 if "input" in body else 400)
        except Busy as error:
            return texts, _error(str(error), 429)
        except Refused:
            return texts, _error(f"The sum of prompt length (600.0) should not exceed max_num_tokens ({LONGEST})")
        if chosen and not self.is_bare:  # by its number: the first of that number stays
            name = self.numbered.setdefault(chosen["lora_int_id"], chosen["lora_name"])
            texts = [f"{name}:{text}" for text in texts]
        return texts, None

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        texts, problem = await self._begin(body, body["prompt"])
        if problem is not None:
            return problem
        if self.preset == "vllm" and body.get("logprobs", 0) > MAX_LOGPROBS:
            said = f"Requested sample logprobs of {body['logprobs']}, which is greater than max allowed"
            return web.json_response({"error": {"message": said}}, status=400)
        if body.get("stream"):
            return await self._stream(request, body)
        choices = [self._choice(body, text) for text in texts]
        note = "z" * 300_000 if any("please be long" in text for text in texts) else ""
        return _json({"note": note, "choices": _indexed(choices, texts), "usage": {"prompt_tokens": 9}})

    def _choice(self, body: dict[str, Any], text: str) -> dict[str, Any]:
        if body["max_tokens"] > 1:
            guide = "" if self.is_bare else (body.get("response_format") or {}).get("regex", "")
            return {"text": guide or ANSWER, "finish_reason": "stop", "logprobs": None}
        best = self.model.best(text, max(body["logprobs"], 1))
        chosen = self._name(body, next(iter(best)))
        if (asked := body.get("logprob_token_ids")) and self.preset == "vllm" and not self.is_old:
            row = self.model.logprobs(text)  # the token that is written is told besides
            best = {next(iter(best)): next(iter(best.values())), **{id: float(row[id]) for id in asked}}
        named = {self._name(body, id): value for id, value in best.items()}
        logprobs = {"tokens": [chosen], "token_logprobs": [named[chosen]], "top_logprobs": [named]}
        return {"text": "", "finish_reason": "length", "logprobs": logprobs}

    def _name(self, body: dict[str, Any], id: int) -> str:
        return f"token_id:{id}" if body.get("return_tokens_as_token_ids") else self.model.decode([id])

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        kept = {} if self.is_bare else {key: body[key] for key in CONSTRAINTS if key in body}
        text = f" kept {json.dumps(kept)}" if kept else ANSWER
        for id in self.model.encode(text)[: body["max_tokens"]]:
            event = {"choices": [{"text": self.model.decode([id]), "finish_reason": None}]}
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
            await asyncio.sleep(0)
        if self.preset == "trtllm-serve":
            prompt = self.model.decode(body["prompt"]) if isinstance(body["prompt"], list) else body["prompt"]
            reason = "cancelled" if "please be cancelled" in prompt else "length"
            last = {"choices": [{"text": "", "finish_reason": reason}]}
            await response.write(f"data: {json.dumps(last)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _classify(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.preset == "sglang":
            body.pop("lora_path", None)  # of which it takes no notice
            if isinstance(body["input"][0], list):
                self.model.requests.append(body)
                return web.json_response({"object": "error", "message": "Input should be a valid string"}, status=400)
        texts, problem = await self._begin(body, body["input"])
        rows = [self.model.label_probabilities(text) for text in texts]
        data = [{"label": "safe", "probs": row, "num_classes": len(row)} for row in rows]
        return problem or _json({"data": _indexed(data, texts)})

    async def _generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        texts, problem = await self._begin(body, body["input_ids"])
        assert body["sampling_params"] == {"max_new_tokens": 1, "temperature": 0}
        rows = [self._written(body, text) for text in texts]
        if any("please lose a row" in text for text in texts):
            rows.pop()
        return problem or _json(rows if isinstance(body["input_ids"][0], list) else rows[0])

    def _written(self, body: dict[str, Any], text: str) -> dict[str, Any]:
        """Write one token; what is told of others is in the order asked for."""
        logprobs = self.model.logprobs(text)
        is_aborted = "please abort" in text  # in the scheduler, by somebody else
        about: dict[str, Any] = {"finish_reason": {"type": "abort" if is_aborted else "length"}}
        if body.get("return_logprob"):
            chosen = int(logprobs.argmax())
            about["output_token_logprobs"] = [[_told(logprobs[chosen]), chosen, None]]
            if not self.is_old:
                asked = [[_told(logprobs[i]), i, None] for i in body["token_ids_logprob"]]
                about |= {"input_token_ids_logprobs": [], "output_token_ids_logprobs": [asked]}
        return {"text": "", "meta_info": about}

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        texts, problem = await self._begin(body, body["input"])
        rows = [[float(self.model.logits(text)[i]) for i in self.model.label_ids] for text in texts]
        return problem or _json({"data": _indexed([{"embedding": row} for row in rows], texts)})


def _indexed(rows: list[dict[str, Any]], texts: list[str]) -> list[dict[str, Any]]:
    """Say which text each row belongs to, the last one first; and do what texts ask for."""
    found = [{**row, "index": i} for i, row in enumerate(rows)][::-1]
    if any("please lose a row" in text for text in texts):
        found.pop()
    if any("please repeat a row" in text for text in texts):
        found[0] = found[-1]
    return found


def _error(said: str, status: int = 400) -> web.Response:
    """Write an error as trtllm-serve does."""
    told = {"object": "error", "message": said, "type": "BadRequestError", "param": None, "code": status}
    return _json(told, status)


def _told(value: float) -> float | None:
    """Write what is no number as SGLang's own JSON does."""
    return None if math.isnan(value) else float(value)


def _json(value: Any, status: int = 200) -> web.Response:
    """Write JSON as Python servers do, NaN included, and without spaces."""
    text = json.dumps(value, separators=(",", ":"))
    return web.Response(text=text, status=status, content_type="application/json")
