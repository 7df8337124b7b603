"""What a server is asked when a bundle is loaded, because it does not say so, or takes no notice of it later."""

from gateway.domain.capabilities import Constraint
from gateway.engines.ports import Served

WORD = "Qz7Qz7"  # what no model says of itself: a server that writes it keeps constraints
MAX_WORD_TOKENS = 2 * len(WORD)
ONLY_THE_WORD = Constraint("regex", WORD)


def longest_prompt(served: Served) -> tuple[int, ...]:
    """Return tokens as long as a prompt of the bundle can get; none without a tokenizer."""
    some = served.answer_ids
    if not some and served.encode is not None:
        ids = tuple(served.encode("x"))
        some = ids[len(ids) // 2 :]  # special tokens stand around it
    return tuple(some[:1]) * served.task.max_tokens
