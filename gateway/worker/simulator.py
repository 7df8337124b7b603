"""A backend without a model: deterministic answers after a known time, for demos and tests."""

import math
import time
from collections.abc import Iterator, Sequence

import xxhash

from gateway.worker.backend import BackendFailed, Prepared, Scores
from protos import decide_pb2, engine_pb2
from protos.contract.bundle import Bundle
from protos.contract.fields import Reader
from protos.contract.task import LABEL_LOGPROBS

ORACLE = "label:"
WORDS = ("the", "answer", "is", "clear", "and", "safe", "but", "look", "again", "when", "more", "is", "known", "here")
MAX_WAIT_US = 60_000_000
_LABEL, _CONFIDENCE = b"label\0", b"confidence\0"


class SimulatorBackend:
    """Answers drawn from a hash of the text and a seed.

    A text that starts with ``label:NAME `` is answered NAME with high probability, in
    ``accuracy`` of such texts; ``oracle_prefix: false`` turns this off.

    A batch takes ``latency_us``, ``token_us`` for each of its tokens, padding included, and a ``jitter_us`` drawn
    from its first text. Faults are drawn from texts too, so that a run repeats: ``fail`` of them get no answer, and
    ``stall`` of them hold their batch up by ``stall_us``.
    """

    def __init__(self, bundle: Bundle) -> None:
        read = Reader(bundle.manifest.engine, "manifest.engine")
        read.text("backend")
        self._seed = read.integer("seed", 0, 2**53, 0)
        self._latency_us = read.integer("latency_us", 0, MAX_WAIT_US, 0)
        self._jitter_us = read.integer("jitter_us", 0, MAX_WAIT_US, 0)
        self._token_us = read.integer("token_us", 0, 1_000_000, 0)
        self._fail = read.number("fail", 0.0, 1.0, 0.0)
        self._stall = read.number("stall", 0.0, 1.0, 0.0)
        self._stall_us = read.integer("stall_us", 0, MAX_WAIT_US, 0)
        self._accuracy = read.number("accuracy", 0.0, 1.0, 1.0)
        self._is_oracle = read.flag("oracle_prefix", True)
        self._exactness = read.text("label_logprobs", "exact", choices=LABEL_LOGPROBS)  # changes no answer
        read.done()
        self._labels = bundle.manifest.task.labels
        self._max_tokens = bundle.manifest.task.max_tokens
        self._resident_bytes = sum(map(len, bundle.contents.values()))

    @property
    def is_instant(self) -> bool:
        """Whether no wait was asked for."""
        return not (self._latency_us or self._jitter_us or self._token_us or self._stall_us)

    @property
    def resident_bytes(self) -> int:
        """Size of the bundle's files."""
        return self._resident_bytes

    def prepare(self, text: str) -> Prepared:
        """Count words as tokens, no further than they matter."""
        words = len(text.split(None, self._max_tokens))
        return Prepared(max(1, min(words, self._max_tokens)), words > self._max_tokens, text)

    def score(self, batch: Sequence[Prepared]) -> Scores:
        """Wait as long as told, then answer."""
        if not self.is_instant:
            time.sleep(self.batch_us(batch) / 1e6)
        return Scores([self._logits(prepared.data) for prepared in batch])

    def batch_us(self, batch: Sequence[Prepared]) -> float:
        """Return how long a batch takes, in microseconds."""
        padded = len(batch) * max(prepared.tokens for prepared in batch)
        taken = self._latency_us + self._token_us * padded + self._jitter_us * self._draw("jitter", batch[0].data)
        stalls = any(self._draw("stall", prepared.data) < self._stall for prepared in batch)
        return taken + self._stall_us if stalls else taken

    def generate(self, text: str, max_tokens: int) -> Iterator[str]:
        """Write ``max_tokens`` words that depend on the text and the seed only."""
        for i in range(max_tokens):
            if self._latency_us:
                time.sleep(self._latency_us / 1e6)
            word = WORDS[int(self._draw(f"word {i}", text) * len(WORDS))]
            yield word if i == 0 else " " + word

    def generate_within(self, text: str, max_tokens: int, constraint: decide_pb2.Constraint) -> Iterator[str]:
        """Write one of the choices, drawn as words are."""
        texts = constraint.choice.texts
        if not texts:
            raise BackendFailed("the simulator keeps choices only")
        chosen = texts[int(self._draw("choice", text) * len(texts))]
        for i, word in enumerate(chosen.split(" ")[:max_tokens]):
            yield word if i == 0 else " " + word

    def capabilities(self) -> engine_pb2.Capabilities:
        """Say what a bundle has it pretend."""
        return engine_pb2.Capabilities(label_logprobs=self._exactness, constraints=["choice"])

    def warm(self) -> None:
        """Nothing to warm."""

    def close(self) -> None:
        """Nothing to free."""

    def _draw(self, purpose: str, text: str) -> float:
        """Return a number in [0, 1) that depends on seed, purpose and text only."""
        return self._place(purpose.encode() + b"\0", text.encode())

    def _place(self, domain: bytes, text: bytes) -> float:
        drawn: int = xxhash.xxh3_64_intdigest(domain + text, self._seed)
        return drawn / 2**64

    def _logits(self, text: str) -> list[float]:
        count = len(self._labels)
        if self._fail and self._draw("fail", text) < self._fail:
            return [math.nan] * count  # refused by the worker, for this text alone
        encoded = text.encode()
        label = min(int(self._place(_LABEL, encoded) * count), count - 1)
        confidence = 0.6 + 0.39 * self._place(_CONFIDENCE, encoded)
        if self._is_oracle and text.startswith(ORACLE):
            name, space, _ = text[len(ORACLE) :].partition(" ")
            if space and name in self._labels:
                label = self._labels.index(name)
                confidence = 0.95 + 0.04 * self._draw("confidence", text)
                if self._draw("accuracy", text) >= self._accuracy:
                    label = (label + 1) % count
        rest = (1.0 - confidence) / (count - 1)
        logits = [math.log(rest)] * count
        logits[label] = math.log(max(confidence, rest))
        return logits
