"""Encoders and small decoders exported to OpenVINO IR, on the CPU. Loaded from verified bytes, never from a path.

A decoder's graph ends in its label rows: it reads a prompt and gives one logit a label, so both kinds are run alike.
One that reads ``past`` gets what its template begins with computed once, when it is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from tokenizers import Tokenizer

from gateway.worker.backend import BackendFailed, Prepared, Scores
from protos import engine_pb2
from protos.contract.bundle import Bundle
from protos.contract.digest import parse_digest
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.prompt import Prompt
from protos.contract.task import InputInvalid

MODEL, WEIGHTS, TOKENIZER = "model.xml", "model.bin", "tokenizer.json"
REQUIRED = frozenset({"input_ids", "attention_mask"})
OPTIONAL = {"encoder": frozenset({"token_type_ids"}), "decoder": frozenset({"token_type_ids", "past"})}
TOLERANCE = {"f32": 1e-3}  # of the spread of logits, between a prefix that was kept and one that was not
ROUNDED = 0.2  # the same in fewer bits
PADS = ("[PAD]", "<pad>", "<|endoftext|>")


MAX_ACCURACY_LOSS = 0.005  # of int8 against the float model, on held-out texts


@dataclass(frozen=True, slots=True)
class Writes:
    """``manifest.engine.writes``: the tokens that end a text, and how many tokens the model was made for."""

    end_tokens: tuple[int, ...]
    positions: int

    @classmethod
    def read(cls, value: dict[str, Any]) -> "Writes":
        """Read and check; raises FieldInvalid."""
        read = Reader(value, "manifest.engine.writes")
        ends = tuple(read.items("end_tokens", []))
        found = cls(ends, read.integer("positions", 1, 1 << 24))
        read.done()
        if not all(isinstance(token, int) and token >= 0 for token in ends):
            raise FieldInvalid(f"manifest.engine.writes.end_tokens is {list(ends)}, expected tokens")
        return found


@dataclass(frozen=True, slots=True)
class Settings:
    """``manifest.engine`` of a bundle for this backend.

    Attributes:
        precision: ``auto`` is bf16 where the CPU has it, else f32; ``int8`` is a quantised graph.
        overlong: What becomes of texts over the task's limit.
        prefix_cache: Keep the keys and values of what the template begins with.
        label_tokens: The tokens whose rows a decoder's graph ends in.
        writes: What it takes to write text besides, where the graph gives every token's logit; else nothing.
        generate: What written text is held to.
    """

    precision: str
    kind: str
    overlong: str
    prefix_cache: bool
    verbalizers: dict[str, Any]
    label_tokens: tuple[int, ...]
    writes: Writes | None
    generate: dict[str, Any]

    @classmethod
    def read(cls, engine: Any) -> "Settings":
        """Read and check; raises FieldInvalid."""
        read = Reader(engine, "manifest.engine")
        read.text("backend")
        found = cls(
            precision=read.text("precision", "auto", choices=("auto", "bf16", "f32", "int8")),
            kind=read.text("kind", "encoder", choices=("encoder", "decoder")),
            overlong=read.text("overlong", "cut", choices=("cut", "refuse")),
            prefix_cache=read.flag("prefix_cache", True),
            verbalizers=read.object("verbalizers", {}),
            label_tokens=tuple(read.items("label_tokens", [])),
            writes=Writes.read(given) if (given := read.object("writes", {})) else None,
            generate=read.object("generate", {}),
        )
        accuracy = read.object("accuracy", {})
        read.flag("merged", False)  # whether the bundle's adapter is in the graph: no other one would be applied
        read.done()
        if found.kind == "encoder" and (found.verbalizers or found.label_tokens):
            raise FieldInvalid("manifest.engine.kind is 'encoder', expected 'decoder' with verbalizers or label_tokens")
        if found.writes is not None and (found.kind, found.precision == "int8") != ("decoder", False):
            raise FieldInvalid("manifest.engine.writes is given, expected it of a float decoder only")
        if found.generate and found.writes is None:
            raise FieldInvalid("manifest.engine.generate is given, expected writes beside it")
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


@dataclass(frozen=True, slots=True)
class Row:
    """A text's own tokens, and whether they go on from the kept prefix."""

    ids: NDArray[np.int64]
    is_kept: bool


class OpenVinoBackend:
    """A classifier with inputs ``input_ids`` and ``attention_mask`` and the output ``logits``."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self.settings = settings = Settings.read(bundle.manifest.engine)
        for name in (MODEL, WEIGHTS, TOKENIZER):
            if name not in bundle.contents:
                raise BackendFailed(f"{name} is missing from the bundle, expected an OpenVINO IR and its tokenizer")
        task = bundle.manifest.task
        self._labels = len(task.labels)
        self._kind, is_decoder = settings.kind, settings.kind == "decoder"
        self._limit, self._cuts = task.max_tokens, settings.overlong == "cut"
        self.tokenizer, self._pad = _tokenizer(bundle.contents[TOKENIZER], None if is_decoder else task.max_tokens)
        self._prompt: Prompt | None = None
        if is_decoder:
            verbalizers = {str(label): str(text) for label, text in settings.verbalizers.items()}
            self._prompt = Prompt(self.tokenizer, task, settings.overlong, task.max_tokens)
            tokens = self._prompt.label_tokens(verbalizers)
            if settings.label_tokens != tokens:
                raise BackendFailed(
                    f"manifest.engine.label_tokens is {list(settings.label_tokens)}, "
                    f"expected {list(tokens)} of the labels behind this template"
                )
        self._weights = _tensor(bundle.contents[WEIGHTS])  # the model borrows it for as long as it lives
        self._whole: Any = None  # the graph with all its outputs, where text is written
        self._past: NDArray[np.float32] | None = None  # of no tokens; None where the graph reads none
        self._kept: NDArray[np.float32] | None = None  # of the prefix
        prefix = self._prompt.prefix if self._prompt is not None and settings.prefix_cache else ()
        self._request, self._inputs = self._compile(bundle.contents[MODEL], threads, settings.precision, prefix)
        self._prefix = prefix if self._kept is not None else ()
        self.tolerance = TOLERANCE.get(settings.precision, ROUNDED)

    @property
    def resident_bytes(self) -> int:
        """Size of the weights and of the kept prefix."""
        return int(self._weights.byte_size) + (0 if self._kept is None else self._kept.nbytes)

    def capabilities(self) -> engine_pb2.Capabilities:
        """Say whether a prefix is kept; a graph that ends in label rows writes no text."""
        return engine_pb2.Capabilities(prefix_cache=self._kept is not None)

    def prepare(self, text: str) -> Prepared:
        """Tokenise, cutting at the task's limit; a decoder's prompt keeps its end.

        Raises:
            InputInvalid: The text is over the limit and the bundle wants such refused.
        """
        if self._prompt is not None:
            tokens, truncated = self._prompt.encode(text)
            kept = len(self._prefix)
            is_kept = bool(kept) and len(tokens) > kept and tuple(tokens[:kept]) == self._prefix
            own = tokens[kept:] if is_kept else tokens
            return Prepared(len(own), truncated, Row(np.asarray(own, dtype=np.int64), is_kept))
        encoding = self.tokenizer.encode(text)
        if encoding.overflowing and not self._cuts:
            raise InputInvalid(f"the text is over {self._limit} tokens, expected at most that")
        ids = np.asarray(encoding.ids, dtype=np.int64)
        return Prepared(max(1, len(ids)), bool(encoding.overflowing), Row(ids, False))

    def score(self, batch: Sequence[Prepared]) -> Scores:
        """Score every row; the few whose prompt begins otherwise than the template run after the others."""
        rows: list[Row] = [prepared.data for prepared in batch]
        logits = np.empty((len(rows), self._labels), dtype=np.float32)
        for past, wanted in ((self._kept, True), (self._past, False)):
            places = [i for i, row in enumerate(rows) if row.is_kept is wanted]
            if places:
                found = self._infer([rows[i].ids for i in places], past)
                if len(places) == len(rows):
                    return Scores(found)
                logits[places] = found
        return Scores(logits)

    def _infer(self, rows: Sequence[NDArray[np.int64]], past: NDArray[np.float32] | None) -> NDArray[np.float32]:
        shape = len(rows), max(1, *map(len, rows))
        ids = np.full(shape, self._pad, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
            mask[place, : len(row)] = 1
        feed: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if past is not None:
            feed["past"] = past
        if "token_type_ids" in self._inputs:
            feed["token_type_ids"] = np.zeros(shape, dtype=np.int64)
        try:
            self._request.infer(feed, share_inputs=True)
            # Copied: the request reuses its output memory for the next batch.
            return np.array(self._request.get_tensor("logits").data, dtype=np.float32)
        except RuntimeError as error:
            raise BackendFailed(f"inference failed: {_last_line(error)}") from error

    def kept_tokens(self, row: Row) -> int:
        """Return how many tokens a row goes on from."""
        return len(self._prefix) if row.is_kept else 0

    def past_of(self, row: Row) -> NDArray[np.float32]:
        """Return the keys and values that a row goes on from."""
        found = self._kept if row.is_kept else self._past
        assert found is not None
        return found

    @property
    def vocabulary(self) -> int:
        """Return how many tokens the whole graph has logits for."""
        return int(self._whole.output("next").partial_shape[1].get_length())

    def step(self, ids: NDArray[np.int64], past: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run the whole graph over one row's tokens, shape [1, tokens], and return all its outputs, copied."""
        try:
            found = self._whole({"input_ids": ids, "attention_mask": np.ones_like(ids), "past": past})
        except RuntimeError as error:
            raise BackendFailed(f"inference failed: {_last_line(error)}") from error
        return {name: np.array(found[name], dtype=np.float32) for name in ("logits", "present", "next")}

    def warm(self) -> None:
        """Run one row and several, whose kernels differ, and check what comes out."""
        one = Prepared(2, False, Row(np.full(2, self._pad, dtype=np.int64), False))
        for rows in (1, 4):
            logits = np.asarray(self.score([one] * rows).logits)
            if logits.shape != (rows, self._labels):
                raise BackendFailed(f"logits have shape {logits.shape}, expected {(rows, self._labels)}")
            if not np.isfinite(logits).all():
                raise BackendFailed("logits are not finite")
        if self._kept is not None and self._prompt is not None:
            own = np.array(self._prompt.suffix[:1] or (self._pad,), dtype=np.int64)
            whole = np.concatenate([np.array(self._prefix, dtype=np.int64), own])
            plain, quick = self._infer([whole], self._past)[0], self._infer([own] * 2, self._kept)[0]
            difference = float(np.abs((plain - plain.mean()) - (quick - quick.mean())).max())
            if not difference <= self.tolerance * max(1.0, float(np.ptp(plain))):
                raise BackendFailed(f"a kept prefix changes logits by {difference:.4g}: {MODEL} does not read its past")

    def close(self) -> None:
        """Free the compiled model."""
        self._request, self._whole, self._past, self._kept = None, None, None, None
        self._weights = ov.Tensor(ov.Type.u8, ov.Shape([0]))

    def _compile(self, xml: bytes, threads: int, precision: str, prefix: tuple[int, ...]) -> tuple[Any, frozenset[str]]:
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        if precision in ("bf16", "f32"):
            options["INFERENCE_PRECISION_HINT"] = precision
        try:
            core = ov.Core()
            model = core.read_model(model=xml, weights=self._weights)
            inputs = frozenset(port.any_name for port in model.inputs)
            outputs = frozenset(name for port in model.outputs for name in port.get_names())
            optional = OPTIONAL[self._kind]
            wanted = {"logits", "present"} if "past" in inputs else {"logits"}
            if self.settings.writes is not None:
                wanted |= {"present", "next"}
            if not REQUIRED <= inputs <= REQUIRED | optional or not wanted <= outputs:
                raise BackendFailed(
                    f"{MODEL} maps {sorted(inputs)} to {sorted(outputs)}, "
                    f"expected {sorted(REQUIRED)} and perhaps {sorted(optional)} to {sorted(wanted)}"
                )
            if "past" in inputs:
                sizes = [0 if size.is_dynamic else size.get_length() for size in model.input("past").partial_shape]
                self._past = np.zeros(sizes, dtype=np.float32)
                whole = core.compile_model(model, "CPU", options) if prefix or self.settings.writes else None
                if prefix:
                    self._kept = _states_of(whole, prefix, self._past)
                if self.settings.writes:
                    self._whole = whole
                # Nobody reads a batch's keys and values: without that output they are not written out.
                model = ov.Model([model.output("logits")], model.get_parameters(), "scores")
            return core.compile_model(model, "CPU", options).create_infer_request(), inputs
        except RuntimeError as error:
            raise BackendFailed(f"{MODEL}: {_last_line(error)}") from error


def _states_of(model: Any, prefix: tuple[int, ...], past: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a prefix and return its keys and values, shape [2 x layers, 1, heads, tokens, width]."""
    ids = np.array([prefix], dtype=np.int64)
    found = model({"input_ids": ids, "attention_mask": np.ones_like(ids), "past": past})
    return np.array(found["present"], dtype=np.float32)


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
