"""A decoder specialist's prompt: its fixed parts, its labels' tokens, and how long texts are cut.

A label is scored as one token, so each must be a single token, distinct from the others, wherever the
prompt ends. Whether it is depends on what stands before it; that is why it is tried behind real prompts.
Training cuts and scores by the same rules as serving: a model must not meet prompts it never saw.
"""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from protos.contract.task import InputInvalid, TaskSpec

# Texts that begin and end as callers' texts may: tokenizers join across a boundary by what stands there.
PROBES = ("a", "The page", "word.", "9", "!", '"', " x ", "é", "日本", "A\n", "end)")
MAX_MIDDLE_TOKENS = 4  # least room for a caller's text that is still a prompt


class PromptInvalid(ValueError):
    """A template leaves no room, or a label is not one token of its own behind it; says which and why."""


@dataclass(frozen=True, slots=True)
class Literals:
    """The template's fixed text before the first field and after the last one."""

    before: str
    between: str
    after: str


class Prompt:
    """Turns rendered texts into tokens. Made once per bundle; refuses at that moment what cannot be scored.

    Attributes:
        prefix: Tokens that every prompt begins with, whatever the caller wrote.
        suffix: Tokens that every prompt ends with; a text that is too long loses what is before them.

    Args:
        tokenizer: Neither cuts nor pads.
        overlong: ``cut`` or ``refuse``.
        positions: How many tokens the base can read.
    Raises:
        PromptInvalid: The base or the template leaves too little room.
    """

    def __init__(self, tokenizer: Tokenizer, task: TaskSpec, overlong: str, positions: int) -> None:
        self._tokenizer = tokenizer
        self._task = task
        self._cuts = overlong == "cut"
        self.limit = task.max_tokens
        if task.max_tokens > positions:
            raise PromptInvalid(f"task.max_tokens is {task.max_tokens}, expected at most the base's {positions}")
        self._literals = _literals(task.template)
        specials = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special and t.content]
        self._special = re.compile("|".join(re.escape(s) for s in sorted(specials, key=len, reverse=True)) or r"(?!)")
        if self._special.search(self._literals.between):
            raise PromptInvalid(
                "task.template has a special token between two fields, where it cannot be told from a caller's, "
                "expected it before the first or after the last"
            )
        self._probes = [task.template.format_map({field.name: probe for field in task.fields}) for probe in PROBES]
        self.prefix, self.suffix = _shared([self._encode(text) for text in self._probes])
        room = task.max_tokens - len(self.prefix) - len(self.suffix)
        if room < MAX_MIDDLE_TOKENS:
            raise PromptInvalid(
                f"task.template takes {len(self.prefix) + len(self.suffix)} tokens, expected at most "
                f"max_tokens {task.max_tokens} less {MAX_MIDDLE_TOKENS}"
            )

    def label_tokens(self, verbalizers: Mapping[str, str]) -> tuple[int, ...]:
        """Return one token a label, in the task's order.

        Args:
            verbalizers: What is written for each label; one that is not named is written behind a space.
        Raises:
            PromptInvalid: Names the label and the tokens it became.
        """
        unknown = sorted(set(verbalizers) - set(self._task.labels))
        if unknown:
            raise PromptInvalid(f"manifest.engine.verbalizers names {unknown[0]!r}, expected labels of the task")
        rows = [self._encode(text) for text in self._probes]
        found: dict[int, str] = {}
        for label in self._task.labels:
            verbalizer = verbalizers.get(label, " " + label)
            token = None
            for text, ids in zip(self._probes, rows, strict=True):
                longer = self._tokenizer.encode(text + verbalizer).ids if text else []
                if longer[:-1] != ids and self._encode(text) == ids:
                    raise PromptInvalid(
                        f"label {label!r} is not one token behind the prompt: {verbalizer!r} adds "
                        f"{self._pieces(longer[len(ids) :] or longer)}, expected a single one"
                    )
                if token not in (None, longer[-1]):
                    raise PromptInvalid(f"label {label!r} is another token behind another text, expected the same")
                token = longer[-1]
            assert token is not None
            if token in found:
                raise PromptInvalid(f"labels {found[token]!r} and {label!r} are both {self._pieces([token])}")
            found[token] = label
        return tuple(found)

    def encode(self, text: str) -> tuple[list[int], bool]:
        """Return a rendered text's tokens and whether some were cut.

        Raises:
            InputInvalid: Over the limit, and the bundle wants such prompts refused.
        """
        ids = self._encode(text)
        if len(ids) <= self.limit:
            return ids, False
        if not self._cuts:
            raise InputInvalid(f"the prompt is {len(ids)} tokens, expected at most {self.limit}")
        return ids[: self.limit - len(self.suffix)] + list(self.suffix), True

    def _encode(self, text: str) -> list[int]:
        """Tokenise, a caller's special tokens taken apart: nobody but the template ends a turn."""
        before, after = self._literals.before, self._literals.after
        has_room = len(text) >= len(before) + len(after)
        if has_room and text.startswith(before) and text.endswith(after):
            middle = text[len(before) : len(text) - len(after)]
            if self._special.search(middle):
                text = before + self._special.sub(lambda m: m[0][0] + " " + m[0][1:], middle) + after
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def _pieces(self, ids: Sequence[int]) -> list[str]:
        return [str(self._tokenizer.id_to_token(i)) for i in ids]


def _literals(template: str) -> Literals:
    """Split a format string at its first and last field."""
    parts = list(string.Formatter().parse(template))
    texts = [literal for literal, _, _, _ in parts]
    has_field = [name is not None for _, name, _, _ in parts]
    first = has_field.index(True)
    last = len(has_field) - 1 - has_field[::-1].index(True)
    return Literals("".join(texts[: first + 1]), "".join(texts[first + 1 : last + 1]), "".join(texts[last + 1 :]))


def _shared(rows: Sequence[list[int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the longest common beginning and end, which never overlap in any row."""
    shortest = min(map(len, rows)) - 1  # something of each row is the caller's
    head = 0
    while head < shortest and len({row[head] for row in rows}) == 1:
        head += 1
    tail = 0
    while tail < shortest - head and len({row[-1 - tail] for row in rows}) == 1:
        tail += 1
    first = rows[0]
    return tuple(first[:head]), tuple(first[len(first) - tail :])
