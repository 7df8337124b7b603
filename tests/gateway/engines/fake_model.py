"""A decoder that every fake server serves: real tokens, a fixed log-probability for each, moods on request."""

import asyncio
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import xxhash
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.tasks import TASK

ANSWER = " the answer is safe"
VERBALIZERS = {"safe": " safe", "unsafe": " unsafe"}
MODEL = "tiny/decoder"


class Busy(Exception):
    """The server has no room."""


class Failed(Exception):
    """The server broke."""


class Refused(Exception):
    """The server finds the request wrong."""


@cache
def tokenizer_json() -> str:
    """A byte-level tokenizer in which " safe" and " unsafe" are one token each, and whole texts many."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator([" safe unsafe the answer is"] * 50, trainer)
    return tokenizer.to_str()


@dataclass
class FakeModel:
    """Answers by a hash of the prompt. Texts can ask it to ``hang``, ``fail``, ``refuse``, be ``busy``, say ``nan``."""

    started: list[str] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    requests: list[object] = field(default_factory=list)
    is_up: bool = True
    weights: str = ""  # others answer otherwise

    def __post_init__(self) -> None:
        self.tokenizer = Tokenizer.from_str(tokenizer_json())
        self.vocabulary = self.tokenizer.get_vocab_size()
        self._changed = asyncio.Event()

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text).ids)

    def decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids))

    @property
    def label_ids(self) -> list[int]:
        return [self.encode(VERBALIZERS[label])[0] for label in TASK.labels]

    def logits(self, text: str) -> NDArray[np.float64]:
        """The next token's logits after a text, shape [vocabulary]; the labels are the likeliest two."""
        generator = np.random.default_rng(xxhash.xxh3_64_intdigest((self.weights + text).encode()))
        row = generator.normal(0, 1, self.vocabulary)
        row[self.label_ids] = row.max() + generator.uniform(0.5, 4, 2)
        return np.full_like(row, np.nan) if "please nan" in text else row

    def logprobs(self, text: str) -> NDArray[np.float64]:
        """The next token's log-probabilities, shape [vocabulary]; not finite when the text asks for it."""
        row = self.logits(text)
        return np.asarray(row - np.log(np.exp(row - row.max()).sum()) - row.max())

    def best(self, text: str, count: int) -> dict[int, float]:
        """The likeliest tokens, best first."""
        row = self.logprobs(text)
        order = np.argsort(-row, kind="stable")[:count]
        return {int(i): float(row[i]) for i in order}

    def label_logprobs(self, text: str) -> list[float]:
        return [float(self.logprobs(text)[i]) for i in self.label_ids]

    def label_probabilities(self, text: str) -> list[float]:
        powers = np.exp(self.label_logprobs(text))
        return [float(p) for p in powers / powers.sum()]

    async def begin(self, id: str, text: str) -> None:
        """Start a request, in the mood its text asks for; raises Busy, Failed or Refused."""
        self.started.append(id)
        self._note()
        if "please fail" in text:
            raise Failed("the model broke")
        if "please refuse" in text:
            raise Refused("the request is wrong")
        if "please be busy" in text:
            raise Busy("the queue is full")
        if "please hang" in text:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.abort(id)
                raise

    def abort(self, id: str) -> None:
        self.aborted.append(id)
        self._note()

    def _note(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, started: int = 0, aborted: int = 0) -> None:
        """Wait until that much has happened."""
        async with asyncio.timeout(30):
            while len(self.started) < started or len(self.aborted) < aborted:
                await self._changed.wait()
