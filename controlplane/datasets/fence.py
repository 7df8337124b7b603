"""The fence: texts that candidates are judged on enter no training set, neither as they are nor nearly so."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.packs.example import Example
from controlplane.training.dataset import normalise, text_key
from protos.contract.digest import digest_json

NEAR = 0.75  # share of character 5-grams in common from which two texts count as copies of one another
PERMUTATIONS, SEED = 128, 1
_GRAM = 5


@dataclass(frozen=True, slots=True)
class Fenced:
    """What a fence let through, and what it did not.

    Attributes:
        exact: Rows whose normalised text is held out; ``near`` those that share ``NEAR`` of its 5-grams.
    """

    kept: tuple[Example, ...]
    exact: int
    near: int


class Fence:
    """Built on held-out texts; the same texts in any order make the same fence."""

    def __init__(self, held_out: Iterable[str], *, near: bool = True) -> None:
        from datasketch import MinHashLSH  # brings scipy: a second to import, and not needed at start

        self._is_near = near  # off for rows of named fields, whose names alone make any two of them alike
        by_key = {text_key(text): text for text in held_out}
        self._keys = frozenset(by_key)
        # Far below the threshold, and missing one counts nine times a needless look: what it finds is counted exactly.
        self._index = MinHashLSH(threshold=NEAR - 0.25, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
        self._grams: dict[str, frozenset[str]] = {}
        for key in sorted(by_key):
            grams = _grams(by_key[key]) if near else frozenset()
            self._grams[key] = grams
            if grams:
                self._index.insert(key, _signature(grams))
        self.texts = len(by_key)

    @property
    def digest(self) -> str:
        """Name the fence by the keys of what it holds out: they say nothing about the texts themselves."""
        return digest_json(sorted(self._keys))

    def blocks(self, text: str) -> str:
        """Return ``exact``, ``near`` or, when the text may be trained on, nothing."""
        if text_key(text) in self._keys:
            return "exact"
        grams = _grams(text) if self._is_near else frozenset()
        if not grams:
            return ""
        # The index finds candidates by chance; the overlap itself is then counted, so that nothing rests on luck alone.
        for key in self._index.query(_signature(grams)):
            other = self._grams[key]
            if len(grams & other) >= NEAR * len(grams | other):
                return "near"
        return ""

    def sift(self, examples: Sequence[Example]) -> Fenced:
        """Drop what is held out; keep the order."""
        verdicts = [self.blocks(example.text) for example in examples]
        kept = tuple(example for example, verdict in zip(examples, verdicts, strict=True) if not verdict)
        return Fenced(kept, verdicts.count("exact"), verdicts.count("near"))


def _grams(text: str) -> frozenset[str]:
    said = normalise(text)
    return frozenset(said[i : i + _GRAM] for i in range(max(1, len(said) - _GRAM + 1))) if said else frozenset()


def _signature(grams: frozenset[str]) -> Any:
    from datasketch import MinHash

    made = MinHash(num_perm=PERMUTATIONS, seed=SEED)
    made.update_batch([gram.encode() for gram in sorted(grams)])
    return made
