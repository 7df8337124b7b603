"""What a generation may say: one of several texts, a regular expression, or JSON of a schema.

llguidance turns the constraint into the tokens that may come next; a text that ends is always whole.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, apply_token_bitmask_inplace, fill_next_token_bitmask
from numpy.typing import NDArray
from tokenizers import Tokenizer

from gateway.worker.backend import BackendFailed, ConstraintInvalid
from protos import decide_pb2
from protos.contract.fields import Reader

KINDS = ("choice", "regex", "json_schema")
MAX_GRAMMAR = 1 << 16  # characters; reading more than that alone stops a device for longer than a decision takes
# Of one constraint, since batches wait while it is worked out: `(a{1000}){1000}` took 5.6 s of a core before, .3 s
# with these. Grammars of 5,000 choices, or of a schema of 300 fields, stay far within.
LIMITS = LLParserLimits(
    initial_lexer_fuel=200_000, step_lexer_fuel=50_000, step_max_items=20_000, max_lexer_states=50_000
)
_LITERAL = {c: "\\" + c for c in r"\.+*?()|[]{}^$/"}


def grammar_of(asked: decide_pb2.Constraint) -> str:
    """Turn a request's own constraint into a grammar; raises ConstraintInvalid."""
    kind = asked.WhichOneof("kind")
    if kind == "choice":
        return _one_of(asked.choice.texts)
    if kind == "regex":
        return str(LLMatcher.grammar_from_regex(asked.regex))
    if kind == "json_schema":
        return _json(asked.json_schema)
    raise ConstraintInvalid("constraint is empty, expected a choice, a regex or a json_schema")


def _one_of(texts: Sequence[str]) -> str:
    if not texts:
        raise ConstraintInvalid("constraint.choice is empty, expected texts")
    return str(LLMatcher.grammar_from_regex("|".join("".join(_LITERAL.get(c, c) for c in t) for t in texts)))


def _json(schema: str) -> str:
    # Without free white space: a model unsure of itself would fill its tokens with it.
    try:
        return str(LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_flexible": False}))
    except ValueError as error:
        raise ConstraintInvalid(f"constraint.json_schema: {error}") from error


def read_constraint(value: Mapping[str, Any]) -> str | None:
    """Read ``manifest.engine.generate`` as a grammar; None when anything may be said.

    Raises:
        FieldInvalid: An unknown kind, several kinds, or a value of the wrong type.
        BackendFailed: A choice without texts, or a schema that is no JSON.
    """
    where = "manifest.engine.generate"
    read = Reader(value, where)
    given = [kind for kind in KINDS if kind in value]
    if len(given) > 1:
        raise BackendFailed(f"{where} has {' and '.join(given)}, expected at most one of them")
    grammar = None
    if "choice" in value:
        grammar = _one_of(read.texts("choice"))
    elif "regex" in value:
        grammar = str(LLMatcher.grammar_from_regex(read.text("regex")))
    elif "json_schema" in value:
        grammar = _json(json.dumps(read.object("json_schema")))
    read.done()
    return grammar


class Constraint:
    """A grammar over one tokenizer, made once; ``start`` gives each generation its own place in it."""

    def __init__(self, grammar: str, tokenizer: Tokenizer, vocabulary: int, ends: Sequence[int]) -> None:
        if len(grammar) > MAX_GRAMMAR:
            raise ConstraintInvalid(f"the constraint has {len(grammar)} characters, expected at most {MAX_GRAMMAR}")
        try:
            self._tokenizer = LLTokenizer(tokenizer.to_str(), n_vocab=vocabulary, eos_token=list(ends))
        except (ValueError, RuntimeError) as error:
            raise BackendFailed(f"the tokenizer does not serve constrained generation: {error}") from error
        problem = LLMatcher.validate_grammar(grammar, self._tokenizer, limits=LIMITS)
        if problem and not problem.startswith("WARNING"):
            raise ConstraintInvalid(f"the constraint is refused: {' '.join(problem.split())[:200]}")
        self._grammar = grammar
        self._vocabulary = vocabulary

    def start(self) -> "Place":
        """Begin a generation."""
        return Place(LLMatcher(self._tokenizer, self._grammar, limits=LIMITS), self._vocabulary)


class Place:
    """Where one generation stands in its grammar."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._allowed = allocate_token_bitmask(1, vocabulary)

    @property
    def is_over(self) -> bool:
        """Whether nothing more can be said."""
        return bool(self._matcher.is_stopped())

    def restrict(self, logits: NDArray[np.float32]) -> None:
        """Set the logits of tokens that may not come next to minus infinity, in place; raises ConstraintInvalid."""
        fill_next_token_bitmask(self._matcher, self._allowed)
        if self._matcher.is_error():
            raise self._failed()
        apply_token_bitmask_inplace(logits[None], self._allowed)

    def take(self, token: int) -> None:
        """Go on behind a token; raises ConstraintInvalid when the grammar does not allow it."""
        if not self._matcher.consume_token(token):
            raise self._failed()

    def _failed(self) -> ConstraintInvalid:
        said = self._matcher.get_error().partition("<state>")[0]
        return ConstraintInvalid(f"the constraint failed: {' '.join(said.split())[:200]}")
