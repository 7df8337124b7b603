"""What an engine can do for one bundle, as it says itself once the bundle is loaded."""

from dataclasses import dataclass

EXACT, TOPK, NONE = "exact", "topk", "none"
CONSTRAINTS = ("json_schema", "regex", "choice")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """An engine's answer to "what can you do".

    Attributes:
        label_logprobs: ``exact``: every label's log-probability. ``topk``: those among the engine's best few,
            a bound for the others. ``none``: the engine only writes text.
        lora: ``per_request``: adapters share one base; ``static``: one adapter a server; ``none``.
        prefix_cache: A prompt's unchanging beginning is computed once.
        constraints: What generated text can be held to, some of CONSTRAINTS.
        can_generate: The engine also writes text.
        vocabulary_mass: Scores say how much of the next token's probability the labels hold.
        max_batch_tokens: Most tokens one batch holds; 0: the engine forms batches by rules of its own.
    """

    label_logprobs: str = EXACT
    lora: str = "none"
    prefix_cache: bool = False
    constraints: tuple[str, ...] = ()
    can_generate: bool = False
    vocabulary_mass: bool = False
    max_batch_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Health:
    """Whether an engine answers; if not, why."""

    is_up: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Constraint:
    """What generated text must be. ``kind`` is one of CONSTRAINTS; a choice lists its texts."""

    kind: str
    pattern: str = ""
    choices: tuple[str, ...] = ()
