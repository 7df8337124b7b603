"""Labels are single tokens in their context, or the bundle is refused."""

import pytest

from protos.contract.label_tokens import LabelTokensInvalid, label_token_ids

VOCABULARY = ["<s>", "is", " it", " yes", " no", " unsafe", " un", "safe", "?", "? yes"]


def encode(text: str) -> list[int]:
    """Take the longest piece first, as subword tokenizers in effect do."""
    ids, rest = [0], text
    while rest:
        piece = max((p for p in VOCABULARY if rest.startswith(p)), key=len)
        ids.append(VOCABULARY.index(piece))
        rest = rest[len(piece) :]
    return ids


def test_each_answer_is_the_one_token_that_follows_the_prompt() -> None:
    assert label_token_ids(encode, "is it", [" yes", " no", " unsafe"]) == [3, 4, 5]


@pytest.mark.parametrize(
    ("prompt", "answers", "message"),
    [
        ("is it", [" yes", " unsafe?"], "' unsafe\\?' .* tokens 5"),
        ("is it", [" yes", " yes"], "both token 3"),
        ("is it?", [" yes"], "prompt's own unchanged"),
        ("is it", [""], "makes 3 tokens 3"),
    ],
    ids=["two tokens", "the same token", "merged with the prompt", "nothing"],
)
def test_an_answer_that_is_not_one_token_of_its_own_is_refused(prompt: str, answers: list[str], message: str) -> None:
    with pytest.raises(LabelTokensInvalid, match=message):
        label_token_ids(encode, prompt, answers)
