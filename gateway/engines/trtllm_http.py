"""What trtllm-serve does over HTTP and does not say: tried when a bundle is loaded, read between the lines later.

It lists no longest prompt and refuses more log-probabilities than its version tells. It knows an adapter by its number
alone, and without ``enable_lora`` takes no notice of one; nor of a ``response_format`` without a
``guided_decoding_backend``. Whatever goes wrong is a 400, what it does wrong itself too.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gateway.engines.openai_answers import reading
from gateway.engines.ports import Broken, EngineProblem, Forgotten, InputRefused, Unreachable
from gateway.engines.trial import MAX_WORD_TOKENS, WORD
from gateway.serving.ports import BundleRefused

PATH = "/v1/completions"
SAME = 1e-4  # two answers of one model differ by more when they share batches with others
Ask = Callable[[dict[str, Any]], Awaitable[Any]]
_OF_THE_INPUT = re.compile(r'\{"error":|max_num_tokens|max_seq_len|max_tokens|prompt length|token id', re.IGNORECASE)


def adapter_id(name: str, path: str) -> int:
    """Number an adapter: the same one everywhere, and no other, since a server asks for it by number alone."""
    return int.from_bytes(hashlib.sha256(f"{name}\0{path}".encode()).digest()[:4], "big") % (2**31 - 1) + 1


def cause_of(error: InputRefused) -> EngineProblem:
    """Tell a server's own failure from an input it refuses; both are a 400."""
    said = str(error)
    if "shutting down" in said:
        return Unreachable(said)
    if "lora" in said.lower():  # its files are gone: no caller chose them
        return Forgotten(said)
    return error if _OF_THE_INPUT.search(said) else Broken(said)


async def check_answers(ask: Ask, plain: dict[str, Any], chosen: dict[str, Any] | None) -> None:
    """Ask for the longest prompt and for as many log-probabilities as labels need, with the adapter and without.

    Args:
        ask: Asks for a completion.
        plain: The question to the base.
        chosen: The same with the bundle's adapter, if it has one.
    """
    try:
        told = _told(await ask(plain))
        also = None if chosen is None else _told(await ask(chosen))
    except (InputRefused, Broken, Forgotten) as error:
        length = len(plain["prompt"])
        raise BundleRefused(f"the server does not answer a prompt of {length} tokens: {error}") from error
    if also is not None and told.keys() == also.keys() and all(abs(told[k] - also[k]) <= SAME for k in told):
        raise BundleRefused("the server answers with the adapter as without it, expected it to run with enable_lora")


def _told(answer: Any) -> Mapping[str, float]:
    with reading(PATH):
        return {str(k): float(v) for k, v in answer["choices"][0]["logprobs"]["top_logprobs"][0].items()}


async def keeps_constraints(ask: Ask, question: dict[str, Any]) -> bool:
    """Say whether a text that is to be one word is that word."""
    try:
        answer = await ask(question | {"max_tokens": MAX_WORD_TOKENS})
    except (InputRefused, Broken, Forgotten):
        return False
    with reading(PATH):
        return bool(answer["choices"][0]["text"] == WORD)
