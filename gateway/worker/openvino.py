"""Encoders and small decoders exported to OpenVINO IR, on the CPU. Loaded from verified bytes, never from a path.

A decoder's graph ends in its label rows: it reads a prompt and gives one logit a label, so both kinds are run alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import openvino as ov
from tokenizers import Tokenizer

from gateway.worker.backend import BackendFailed, Prepared, Scores
from protos.contract.bundle import Bundle
from protos.contract.digest import parse_digest
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.prompt import Prompt
from protos.contract.task import InputInvalid

MODEL, WEIGHTS, TOKENIZER = "model.xml", "model.bin", "tokenizer.json"
REQUIRED = frozenset({"input_ids", "attention_mask"})
OPTIONAL = frozenset({"token_type_ids"})
PADS = ("[PAD]", "<pad>", "<|endoftext|>")


MAX_ACCURACY_LOSS = 0.005  # of int8 against the float model, on held-out texts


@dataclass(frozen=True, slots=True)
class Settings:
    """``manifest.engine`` of a bundle for this backend.

    Attributes:
        precision: ``auto`` is bf16 where the CPU has it, else f32; ``int8`` is a quantised graph.
        overlong: What becomes of texts over the task's limit.
        label_tokens: The tokens whose rows a decoder's graph ends in.
    """

    precision: str
    kind: str
    overlong: str
    verbalizers: dict[str, Any]
    label_tokens: tuple[int, ...]

    @classmethod
    def read(cls, engine: Any) -> "Settings":
        """Read and check; raises FieldInvalid."""
        read = Reader(engine, "manifest.engine")
        read.text("backend")
        found = cls(
            precision=read.text("precision", "auto", choices=("auto", "bf16", "f32", "int8")),
            kind=read.text("kind", "encoder", choices=("encoder", "decoder")),
            overlong=read.text("overlong", "cut", choices=("cut", "refuse")),
            verbalizers=read.object("verbalizers", {}),
            label_tokens=tuple(read.items("label_tokens", [])),
        )
        accuracy = read.object("accuracy", {})
        read.flag("merged", False)  # whether the bundle's adapter is in the graph: no other one would be applied
        read.done()
        if found.kind == "encoder" and (found.verbalizers or found.label_tokens):
            raise FieldInvalid("manifest.engine.kind is 'encoder', expected 'decoder' with verbalizers or label_tokens")
        if found.precision == "int8":
            _check_accuracy(accuracy)
        return found


def _check_accuracy(value: dict[str, Any]) -> None:
    """Refuse a quantised graph that was not compared with the float model, or lost too much; raises FieldInvalid."""
    where = "manifest.engine.accuracy"
    read = Reader(value, where)
    plain, quantised = read.number("float", 0.0, 1.0), read.number("int8", 0.0, 1.0)
    read.integer("rows", 1, 2**53)
    parse_digest(read.text("data"), f"{where}.data")
    read.done()
    if not plain - quantised <= MAX_ACCURACY_LOSS:
        raise FieldInvalid(
            f"{where} falls from {plain:g} to {quantised:g}, expected at most {100 * MAX_ACCURACY_LOSS:g} points less"
        )


class OpenVinoBackend:
    """A classifier with inputs ``input_ids`` and ``attention_mask`` and the output ``logits``."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        settings = Settings.read(bundle.manifest.engine)
        for name in (MODEL, WEIGHTS, TOKENIZER):
            if name not in bundle.contents:
                raise BackendFailed(f"{name} is missing from the bundle, expected an OpenVINO IR and its tokenizer")
        task = bundle.manifest.task
        self._labels = len(task.labels)
        is_decoder = settings.kind == "decoder"
        self._limit, self._cuts = task.max_tokens, settings.overlong == "cut"
        self._tokenizer, self._pad = _tokenizer(bundle.contents[TOKENIZER], None if is_decoder else task.max_tokens)
        self._prompt: Prompt | None = None
        if is_decoder:
            verbalizers = {str(label): str(text) for label, text in settings.verbalizers.items()}
            self._prompt = Prompt(self._tokenizer, task, settings.overlong, task.max_tokens)
            tokens = self._prompt.label_tokens(verbalizers)
            if settings.label_tokens != tokens:
                raise BackendFailed(
                    f"manifest.engine.label_tokens is {list(settings.label_tokens)}, "
                    f"expected {list(tokens)} of the labels behind this template"
                )
        self._weights = _tensor(bundle.contents[WEIGHTS])  # the model borrows it for as long as it lives
        self._request, self._inputs = self._compile(bundle.contents[MODEL], threads, settings.precision)

    @property
    def resident_bytes(self) -> int:
        """Size of the weights."""
        return int(self._weights.byte_size)

    def prepare(self, text: str) -> Prepared:
        """Tokenise, cutting at the task's limit; a decoder's prompt keeps its end.

        Raises:
            InputInvalid: The text is over the limit and the bundle wants such refused.
        """
        if self._prompt is not None:
            tokens, truncated = self._prompt.encode(text)
            return Prepared(len(tokens), truncated, np.asarray(tokens, dtype=np.int64))
        encoding = self._tokenizer.encode(text)
        if encoding.overflowing and not self._cuts:
            raise InputInvalid(f"the text is over {self._limit} tokens, expected at most that")
        ids = np.asarray(encoding.ids, dtype=np.int64)
        return Prepared(max(1, len(ids)), bool(encoding.overflowing), ids)

    def score(self, batch: Sequence[Prepared]) -> Scores:
        """Score every row of the batch."""
        shape = len(batch), max(prepared.tokens for prepared in batch)
        ids = np.full(shape, self._pad, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for row, prepared in enumerate(batch):
            ids[row, : len(prepared.data)] = prepared.data
            mask[row, : len(prepared.data)] = 1
        feed = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self._inputs:
            feed["token_type_ids"] = np.zeros(shape, dtype=np.int64)
        try:
            self._request.infer(feed, share_inputs=True)
            # Copied: the request reuses its output memory for the next batch.
            return Scores(np.array(self._request.get_tensor("logits").data, dtype=np.float32))
        except RuntimeError as error:
            raise BackendFailed(f"inference failed: {_last_line(error)}") from error

    def warm(self) -> None:
        """Run one row and several, whose kernels differ, and check what comes out."""
        one = Prepared(2, False, np.full(2, self._pad, dtype=np.int64))
        for rows in (1, 4):
            logits = self.score([one] * rows).logits
            if np.shape(logits) != (rows, self._labels):
                raise BackendFailed(f"logits have shape {np.shape(logits)}, expected {(rows, self._labels)}")
            if not np.isfinite(logits).all():
                raise BackendFailed("logits are not finite")

    def close(self) -> None:
        """Free the compiled model."""
        self._request = None
        self._weights = ov.Tensor(ov.Type.u8, ov.Shape([0]))

    def _compile(self, xml: bytes, threads: int, precision: str) -> tuple[Any, frozenset[str]]:
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        if precision in ("bf16", "f32"):
            options["INFERENCE_PRECISION_HINT"] = precision
        try:
            core = ov.Core()
            model = core.read_model(model=xml, weights=self._weights)
            inputs = frozenset(port.any_name for port in model.inputs)
            outputs = frozenset(name for port in model.outputs for name in port.get_names())
            if not REQUIRED <= inputs <= REQUIRED | OPTIONAL or "logits" not in outputs:
                raise BackendFailed(
                    f"{MODEL} maps {sorted(inputs)} to {sorted(outputs)}, "
                    f"expected {sorted(REQUIRED)} and perhaps {sorted(OPTIONAL)} to logits"
                )
            return core.compile_model(model, "CPU", options).create_infer_request(), inputs
        except RuntimeError as error:
            raise BackendFailed(f"{MODEL}: {_last_line(error)}") from error


@lru_cache(maxsize=4)
def _tokenizer(data: bytes, max_length: int | None) -> tuple[Tokenizer, int]:
    """Return a tokenizer that neither pads nor, without ``max_length``, cuts, and the token to pad with.

    Reading one takes 30 ms in which no other Python runs, the worker's answers included; bundles of one base, such
    as a primary and its candidate, share one.
    """
    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises plain Exception
        raise BackendFailed(f"{TOKENIZER}: {error}") from error
    if tokenizer.padding is not None:
        pad = int(tokenizer.padding["pad_id"])
    else:
        pad = next((int(i) for i in map(tokenizer.token_to_id, PADS) if i is not None), 0)
    tokenizer.no_padding()
    if max_length is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(max_length=max_length)
    return tokenizer, pad


def _tensor(data: bytes) -> ov.Tensor:
    """Copy weights to where the library wants them; numpy lets other threads run meanwhile, the library does not."""
    tensor = ov.Tensor(ov.Type.u8, ov.Shape([len(data)]))
    np.copyto(tensor.data, np.frombuffer(data, dtype=np.uint8))
    return tensor


def _last_line(error: Exception) -> str:
    """OpenVINO puts its source positions first and the reason last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
