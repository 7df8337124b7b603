"""Text that a decoder writes: greedily, token by token, within a constraint, wherever its logits come from."""

from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from gateway.worker.backend import BackendFailed
from gateway.worker.constraint import Constraint, grammar_of
from protos import decide_pb2

MAX_CONSTRAINTS = 16  # kept ready; a grammar over a large vocabulary takes a while to make

Steps = Generator[NDArray[np.float32], int, None]  # yields the next token's logits; is sent the token chosen


class Writer:
    """One bundle's way to write: its tokenizer, the tokens that end a text, and its own constraint."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, ends: Sequence[int], grammar: str | None) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._ends = tuple(ends)
        self._known: OrderedDict[str, Constraint] = OrderedDict()
        self._own = self._compiled(grammar) if grammar is not None else None

    @property
    def constrains(self) -> bool:
        """Whether texts can be held to a constraint: they must be able to end."""
        return bool(self._ends)

    def write(self, steps: Steps, room: int, asked: decide_pb2.Constraint | None = None) -> Iterator[str]:
        """Yield text, one token a piece, at most ``room`` of them; a request's own constraint replaces the bundle's.

        Raises:
            BackendFailed: The constraint cannot be kept, or logits are not finite.
        """
        constraint = self._own if asked is None else self._compiled(grammar_of(asked))
        return self._write(steps, room, constraint)

    def _write(self, steps: Steps, room: int, constraint: Constraint | None) -> Iterator[str]:
        place = constraint.start() if constraint is not None else None
        stream = DecodeStream(skip_special_tokens=True)
        logits = next(steps)
        for left in range(room, 0, -1):
            if not np.isfinite(logits).all():
                raise BackendFailed("logits are not finite")
            if place is not None:
                place.restrict(logits)
            token = int(logits.argmax())
            if token in self._ends:
                return
            if place is not None:
                place.take(token)
            yield stream.step(self._tokenizer, token) or ""
            if (place is not None and place.is_over) or left == 1:
                return
            logits = steps.send(token)

    def _compiled(self, grammar: str) -> Constraint:
        """Return a constraint, made once while it is asked for again and again."""
        if not self._ends:
            raise BackendFailed("the model has no eos_token_id, expected one for constrained generation")
        if grammar not in self._known:
            self._known[grammar] = Constraint(grammar, self._tokenizer, self._vocabulary, self._ends)
            if len(self._known) > MAX_CONSTRAINTS:
                self._known.popitem(last=False)
        self._known.move_to_end(grammar)
        return self._known[grammar]
