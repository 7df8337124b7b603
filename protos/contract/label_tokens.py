"""Labels as single tokens: the only way a decoder's one forward pass can answer a classification.

Built, loaded and served bundles are checked by the same rule, since a label that is two tokens
somewhere would be scored by its first half there.
"""

from collections.abc import Callable, Sequence

Encode = Callable[[str], Sequence[int]]


class LabelTokensInvalid(ValueError):
    """A label is not one token in its context, or two labels are the same token."""


def label_token_ids(encode: Encode, prompt: str, answers: Sequence[str]) -> list[int]:
    """Return the one token of each answer as it follows the prompt.

    Args:
        encode: Text to token ids, special tokens before the text included, none after it.
        prompt: A rendered prompt; tokenizers merge across the seam, so the context decides.
        answers: What the model would write for each label, in label order, such as " yes".
    Raises:
        LabelTokensInvalid: Names the answer, the tokens it became, and what was expected.
    """
    context = list(encode(prompt))
    ids: list[int] = []
    for answer in answers:
        whole = list(encode(prompt + answer))
        if len(whole) != len(context) + 1 or whole[:-1] != context:
            raise LabelTokensInvalid(
                f"answer {answer!r} after the prompt makes {len(context)} tokens {len(whole)}, "
                "expected exactly one more and the prompt's own unchanged"
            )
        if whole[-1] in ids:
            raise LabelTokensInvalid(
                f"answers {answers[ids.index(whole[-1])]!r} and {answer!r} are both token {whole[-1]}"
            )
        ids.append(int(whole[-1]))
    return ids
