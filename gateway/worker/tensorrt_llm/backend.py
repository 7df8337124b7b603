"""TensorRT-LLM in the worker's process.

``generate`` mode asks for one greedy token and reads the best few log-probabilities at its place, or with
``generation_logits`` all of them; it has per-request LoRA and prefix reuse. ``encode`` mode is one forward pass
without scheduler and cache: exact, merged weights only, from 1.3 on. What an installation has is found by looking.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from gateway.engines.label_scores import from_best
from gateway.engines.ports import Broken
from gateway.engines.text_pieces import TextPieces
from gateway.worker.backend import BackendFailed, BackendGone, Host, Prepared, Scores
from gateway.worker.tensorrt_llm.llms import Shared, acquire, api, explain, is_well, options, release, short
from gateway.worker.tensorrt_llm.lora import MODULES, check_adapter, write_adapter
from protos import decide_pb2, engine_pb2
from protos.contract.bundle import Bundle
from protos.contract.engines import TENSORRT_LLM_MODES
from protos.contract.fields import Reader
from protos.contract.prompt import Prompt

PATIENCE_S = 60.0
CONSTRAINTS = ("json_schema", "regex")


def open_backend(bundle: Bundle, host: Host) -> "TensorRtLlmBackend":
    """Load a bundle; raises BackendFailed, BaseInvalid, FieldInvalid."""
    mode = bundle.manifest.engine.get("mode", "generate")
    return (TensorRtLlmBackend if mode == "encode" else WritingBackend)(bundle, host)


class Settings:
    """A bundle's ``engine`` table, checked."""

    def __init__(self, engine: Mapping[str, Any], labels: int) -> None:
        read = Reader(engine, "manifest.engine")
        read.text("backend")
        self.mode = read.text("mode", "generate", choices=TENSORRT_LLM_MODES)
        self.top = read.integer("top_logprobs", labels, 1000, max(20, labels))
        self.generation_logits = read.flag("generation_logits", False)
        self.overlong = read.text("overlong", "cut", choices=("cut", "refuse"))
        verbalizers = read.object("verbalizers", {})
        self.verbalizers = {str(label): str(text) for label, text in verbalizers.items()}
        # What the LLM is made with; bundles that agree on it share one.
        self.shared: dict[str, Any] = {
            "mode": self.mode,
            "max_batch_size": read.integer("max_batch_size", 1, 4096, 32),
            "max_num_tokens": read.integer("max_num_tokens", 16, 1 << 20, 8192),
            "free_gpu_memory_fraction": read.number("free_gpu_memory_fraction", 0.05, 0.95, 0.5),
            "kv_cache_dtype": read.text("kv_cache_dtype", "auto", choices=("auto", "fp8", "nvfp4")),
            "tensor_parallel_size": read.integer("tensor_parallel_size", 1, 64, 1),
            "enable_lora": read.flag("enable_lora", self.mode == "generate"),
            "gather_generation_logits": self.generation_logits,
        }
        read.done()


class TensorRtLlmBackend:
    """One bundle on a shared LLM, which scores."""

    def __init__(self, bundle: Bundle, host: Host) -> None:
        task = bundle.manifest.task
        self._settings = settings = Settings(bundle.manifest.engine, len(task.labels))
        digest = str(bundle.manifest.base.get("digest", ""))
        if not digest:
            raise BackendFailed("manifest.base is empty, expected the model to load")
        base = host.bases.listing(digest)
        files = {name: host.bases.read(digest, base, name) for name in base.files}  # every byte, before the engine
        config = json.loads(files["config.json"])
        tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
        self._resident_bytes = sum(len(data) for name, data in files.items() if name.endswith(".safetensors"))
        positions = int(config.get("max_position_embeddings", 1 << 20))
        written = 0 if settings.mode == "encode" else 1  # the token that is asked for needs its place too
        self._prompt = Prompt(tokenizer, task, settings.overlong, positions - written)
        self._labels = self._prompt.label_tokens(settings.verbalizers)
        vocabulary = int(config.get("vocab_size", 1 << 31))
        if max(self._labels) >= vocabulary:
            raise BackendFailed(f"a label's token is {max(self._labels)}, expected below {vocabulary}")
        if task.max_tokens > settings.shared["max_num_tokens"]:
            raise BackendFailed(
                f"manifest.engine.max_num_tokens is {settings.shared['max_num_tokens']}, expected at least "
                f"the task's max_tokens {task.max_tokens}"
            )
        self._tokenizer = tokenizer
        has_adapter = check_adapter(
            bundle.contents,
            (base.name, digest),
            hidden=int(config.get("hidden_size", 0)),
            layers=int(config.get("num_hidden_layers", 0)),
            max_rank=host.max_rank,
        )
        if has_adapter and not settings.shared["enable_lora"]:
            raise BackendFailed(f"the bundle has an adapter, expected merged weights: {settings.mode} mode takes none")
        self.group = f"tensorrt_llm {digest} {options(settings.shared)}"
        path = str(host.bases.path(digest))
        self._shared = acquire(self.group, lambda: _open(path, settings, host))
        self._folder = None
        self._lora: Any = None
        try:
            if has_adapter:
                self._folder = write_adapter(bundle.contents)
                self._lora = _lora_request(bundle.digest, self._shared, self._folder.name)
        except BaseException:
            self.close()
            raise

    @property
    def resident_bytes(self) -> int:
        """Size of the base's weights, also where bundles share them."""
        return self._resident_bytes

    def capabilities(self) -> engine_pb2.Capabilities:
        """Say what this mode has."""
        is_encode = self._settings.mode == "encode"
        return engine_pb2.Capabilities(
            label_logprobs="exact" if is_encode or self._settings.generation_logits else "topk",
            lora="none" if is_encode else "per_request",
            prefix_cache=not is_encode,
            constraints=() if is_encode else CONSTRAINTS,
            vocabulary_mass=True,
            max_batch_tokens=self._settings.shared["max_num_tokens"],
        )

    def prepare(self, text: str) -> Prepared:
        """Tokenise; a text over the limit is cut or refused, as the bundle says."""
        ids, is_cut = self._prompt.encode(text)
        return Prepared(len(ids), is_cut, (ids, self))

    def score(self, batch: Sequence[Prepared]) -> Scores:
        """Score rows of any bundle on the same LLM; a row that fails alone is a problem of that row."""
        if self._shared.is_gone:
            raise BackendGone("TensorRT-LLM has shut down")
        if self._settings.mode == "encode":
            return self._encode(batch)
        pending = [self._ask(prepared) for prepared in batch]
        rows, masses, bounded, problems = [], [], [], []
        for prepared, (answer, problem) in zip(batch, pending, strict=True):
            owner: TensorRtLlmBackend = prepared.data[1]
            row, mass, is_bounded = np.full(len(owner._labels), np.nan, np.float32), 0.0, False
            if not problem:
                try:
                    done = answer.result(timeout=PATIENCE_S)
                except Exception as error:
                    problem = self._problem(error)
                else:
                    try:
                        row, mass, is_bounded = owner._read(done)
                    except Broken as error:
                        problem = str(error)
            rows.append(row)
            masses.append(mass)
            bounded.append(is_bounded)
            problems.append(problem)
        return Scores(rows, masses, bounded=bounded, problems=problems)

    def _problem(self, error: Exception) -> str:
        """Return what is wrong with one request; raises BackendGone when the engine itself is."""
        told = explain(error, self._shared)
        if isinstance(told, BackendGone):
            raise told from error
        return str(told)

    def _ask(self, prepared: Prepared) -> tuple[Any, str]:
        ids, owner = prepared.data
        try:
            parameters = api().SamplingParams(
                max_tokens=1,
                temperature=0.0,
                logprobs=owner._settings.top,
                detokenize=False,
                return_generation_logits=owner._settings.generation_logits,
            )
            answer = self._shared.llm.generate_async(
                inputs={"prompt_token_ids": list(ids)}, sampling_params=parameters, lora_request=owner._lora
            )
        except Exception as error:
            # In one process an adapter that cannot be read is the library's own error, and the engine lives on.
            return None, f"request refused: {short(error)}" if is_well(self._shared) else self._problem(error)
        return answer, ""

    def _read(self, done: Any) -> tuple[np.ndarray, float, bool]:
        """Return label log-probabilities, the mass they hold, and whether some are bounds; raises Broken."""
        if said := getattr(done, "error", None):
            raise Broken(f"request refused: {said}")
        output = done.outputs[0]
        _check_finish(output)
        if not (output.generation_logits is not None if self._settings.generation_logits else output.logprobs):
            raise Broken("log-probabilities are missing")
        labels = self._labels
        if self._settings.generation_logits:
            return (*_exact(np.asarray(_plain(output.generation_logits[0]), np.float64), labels), False)
        place = output.logprobs[0]
        if not isinstance(place, Mapping):
            raise Broken("log-probabilities of the best few are missing")
        best = {
            int(token): float(value.logprob if hasattr(value, "logprob") else value) for token, value in place.items()
        }
        found = from_best(labels, best)
        return np.array(found.values, np.float32), found.vocabulary_mass or 0.0, found.is_bounded

    def _encode(self, batch: Sequence[Prepared]) -> Scores:
        rows, masses = [], []
        shared = self._settings.shared
        for chunk in _chunks(batch, shared["max_batch_size"], shared["max_num_tokens"]):
            try:
                with self._shared.calling:  # until all is read: rows lie where the next call computes its own
                    for values in self._encode_chunk(chunk):
                        rows.append(values.astype(np.float32))
                        masses.append(float(np.exp(values).sum()))
            except BackendFailed:
                raise
            except Exception as error:
                raise explain(error, self._shared) from error
        return Scores(rows, [min(1.0, mass) for mass in masses])

    def _encode_chunk(self, chunk: Sequence[Prepared]) -> Iterator[np.ndarray]:
        answers = self._shared.llm.encode(
            [list(prepared.data[0]) for prepared in chunk], add_special_tokens=False, copy_logits_to_host=False
        )
        if len(answers) != len(chunk):
            raise BackendFailed(f"encode answered {len(answers)} rows, expected {len(chunk)}")
        for prepared, answer in zip(chunk, answers, strict=True):
            # The labels are taken on the device: a whole row is as long as the vocabulary.
            row = answer.logits.float()
            row = row[-1] if row.ndim == 2 else row
            total = float(row.logsumexp(-1))
            yield np.asarray(_plain(row[list(prepared.data[1]._labels)]), np.float64) - total

    def warm(self) -> None:
        """Score one prompt and several, through the path that callers take."""
        one = self.prepare("x")
        for rows in (1, 2):
            problems = self.score([one] * rows).problems
            if any(problems):
                raise BackendFailed(str(next(filter(None, problems))))

    def close(self) -> None:
        """Leave the LLM; the last bundle to go shuts it down."""
        release(self.group, self._shared)
        if self._folder is not None:
            self._folder.cleanup()


async def _next(stream: Any) -> Any:
    try:
        return await stream.__anext__()
    except StopAsyncIteration:
        return None


class WritingBackend(TensorRtLlmBackend):
    """``generate`` mode, which also writes text."""

    def generate(self, text: str, max_tokens: int) -> Iterator[str]:
        """Write text, a piece at a time."""
        return self._write(text, max_tokens, None)

    def generate_within(self, text: str, max_tokens: int, constraint: decide_pb2.Constraint) -> Iterator[str]:
        """Write text that keeps a constraint."""
        kind = constraint.WhichOneof("kind")
        if kind not in CONSTRAINTS:
            raise BackendFailed(f"constraint is {kind}, expected {' or '.join(CONSTRAINTS)}")
        from tensorrt_llm.llmapi import GuidedDecodingParams

        name = {"json_schema": "json", "regex": "regex"}[kind]
        return self._write(text, max_tokens, GuidedDecodingParams(**{name: getattr(constraint, kind)}))

    def _write(self, text: str, max_tokens: int, guide: Any) -> Iterator[str]:
        ids, _ = self._prompt.encode(text)
        parameters = api().SamplingParams(
            max_tokens=max_tokens, temperature=0.0, guided_decoding=guide, detokenize=False
        )
        pieces = TextPieces(lambda found: str(self._tokenizer.decode(list(found))))
        # A request asserts that it was created while a loop ran in its thread; this one is the device's own.
        loop = asyncio.new_event_loop()
        answer: Any = None

        async def begin() -> Any:
            return self._shared.llm.generate_async(
                inputs={"prompt_token_ids": list(ids)},
                sampling_params=parameters,
                lora_request=self._lora,
                streaming=True,
            )

        try:
            answer = loop.run_until_complete(begin())
            stream = answer.__aiter__()
            seen = 0
            last = None
            while (step := loop.run_until_complete(_next(stream))) is not None:
                last = step.outputs[0]
                tokens = last.token_ids
                for piece in pieces.add(tokens[seen:]):
                    yield piece.text
                seen = len(tokens)
            for piece in pieces.end():
                yield piece.text
            if last is not None:
                _check_finish(last)
        except Broken as error:
            raise BackendFailed(str(error)) from error
        except (BackendFailed, GeneratorExit):
            raise
        except Exception as error:
            raise explain(error, self._shared) from error
        finally:
            if answer is not None and not answer.finished:
                answer.abort()
            loop.close()


def _check_finish(output: Any) -> None:
    if output.finish_reason not in (None, "stop", "length"):  # cancelled, timeout
        raise Broken(f"finish_reason is {output.finish_reason!r}, expected stop or length")


def _open(path: str, settings: Settings, host: Host) -> Any:
    library = api()
    from tensorrt_llm.llmapi import KvCacheConfig

    shared = settings.shared
    wanted: dict[str, Any] = {
        "model": path,
        "tensor_parallel_size": shared["tensor_parallel_size"],
        "max_batch_size": shared["max_batch_size"],
        "max_num_tokens": shared["max_num_tokens"],
    }
    if settings.mode == "encode":
        if not hasattr(library.LLM, "encode"):
            raise BackendFailed(f"encode mode needs LLM.encode of 1.3 or later, this is {library.__version__}")
        from tensorrt_llm.llmapi import EncodeCudaGraphConfig

        graphs = EncodeCudaGraphConfig(
            max_batch_size=shared["max_batch_size"], enable_padding=True, max_num_token=shared["max_num_tokens"]
        )
        return library.LLM(**wanted, encode_only=True, cuda_graph_config=graphs)
    wanted["kv_cache_config"] = KvCacheConfig(
        enable_block_reuse=True,
        free_gpu_memory_fraction=shared["free_gpu_memory_fraction"],
        dtype=shared["kv_cache_dtype"],
    )
    wanted["guided_decoding_backend"] = "xgrammar"
    if settings.generation_logits:
        wanted["gather_generation_logits"] = True
    if shared["enable_lora"]:
        from tensorrt_llm.lora_helper import LoraConfig

        # Modules and counts instead of a directory: with one, only that one adapter could ever be used.
        wanted["enable_lora"] = True
        wanted["lora_config"] = LoraConfig(
            lora_target_modules=list(MODULES.values()),
            max_lora_rank=host.max_rank,
            max_loras=host.max_adapters,
            max_cpu_loras=host.max_adapters,
        )
    return library.LLM(**wanted)


def _lora_request(digest: str, shared: Shared, path: str) -> Any:
    from tensorrt_llm.executor.request import LoRARequest

    shared.adapters += 1  # never used twice: the engine caches adapters by number
    try:
        return LoRARequest(lora_name=digest, lora_int_id=shared.adapters, lora_path=path)
    except ValueError as error:
        raise BackendFailed(f"TensorRT-LLM refuses the adapter: {error}") from error


def _chunks(batch: Sequence[Prepared], most_rows: int, most_tokens: int) -> Iterator[list[Prepared]]:
    chunk: list[Prepared] = []
    tokens = 0
    for prepared in batch:
        if chunk and (len(chunk) == most_rows or tokens + prepared.tokens > most_tokens):
            yield chunk
            chunk, tokens = [], 0
        chunk.append(prepared)
        tokens += prepared.tokens
    if chunk:
        yield chunk


def _exact(row: np.ndarray, labels: Sequence[int]) -> tuple[np.ndarray, float]:
    highest = row.max()
    values = row[list(labels)] - highest - np.log(np.exp(row - highest).sum())
    return values.astype(np.float32), float(min(1.0, np.exp(values).sum()))


def _plain(tensor: Any) -> Any:
    """Return a tensor's numbers, from whichever device it is on."""
    return tensor.float().cpu().tolist() if hasattr(tensor, "cpu") else tensor
