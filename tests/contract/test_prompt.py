"""Labels are single tokens in their context, or the bundle is refused; long texts lose their middle's end."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from protos.contract.prompt import Prompt, PromptInvalid
from protos.contract.task import InputInvalid, TaskSpec
from tests.tasks import TASK

# Pieces that join across the seam: "?" and " yes" behind it become "? yes".
PIECES = ["is", " it", " yes", " no", " unsafe", " un", "safe", "?", "? yes", "<end>", " a", " 9"]


def tokenizer() -> Tokenizer:
    """Words with the space before them, and "? yes" whole: what a subword tokenizer does at a seam."""
    vocabulary = {"[UNK]": 0, **{piece: i for i, piece in enumerate(PIECES, 1)}}
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.Split(Regex(r"\? yes|\?| ?[^ ?]+"), "isolated")
    built.add_special_tokens(["<end>"])
    return built


def prompt(template: str = "is it {text} it", overlong: str = "cut", labels: tuple[str, ...] = ("yes", "no")) -> Prompt:
    task: TaskSpec = replace(TASK, template=template, labels=labels, max_tokens=12)
    return Prompt(tokenizer(), task, overlong, 64)


def test_each_label_is_the_one_token_that_follows_the_prompt() -> None:
    assert prompt().label_tokens({}) == (3, 4)
    assert prompt().label_tokens({"no": " unsafe"}) == (3, 5)


@pytest.mark.parametrize(
    ("template", "verbalizers", "message"),
    [
        ("is it {text} it", {"no": " un safe"}, "label 'no' is not one token behind the prompt"),
        ("is it {text} it", {"no": " yes"}, "labels 'yes' and 'no' are both"),
        ("is it {text}?", {}, "label 'yes' is not one token behind the prompt"),
        ("is it {text} it", {"no": ""}, "label 'no' is not one token"),
        ("is it {text} it", {"maybe": " a"}, "names 'maybe', expected labels of the task"),
    ],
    ids=["two tokens", "the same token", "merged with the prompt", "nothing", "no label"],
)
def test_a_label_that_is_not_one_token_of_its_own_is_refused(
    template: str, verbalizers: dict[str, str], message: str
) -> None:
    with pytest.raises(PromptInvalid, match=message):
        prompt(template).label_tokens(verbalizers)


def test_a_template_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(PromptInvalid, match=r"template takes 11 tokens, expected at most max_tokens 12 less 4"):
        prompt("is it" + " it" * 8 + " {text} it")
    with pytest.raises(PromptInvalid, match="expected at most the base's 8"):
        Prompt(tokenizer(), replace(TASK, labels=("yes", "no"), max_tokens=12), "cut", 8)


@given(st.lists(st.sampled_from(["a", "yes", "<end>", "it", "9"]), max_size=30))
def test_a_prompt_begins_and_ends_as_the_template_says_however_long_the_text(words: list[str]) -> None:
    found = prompt()
    ids, is_cut = found.encode(f"is it {' '.join(words)} it")
    assert len(ids) <= 12
    assert is_cut == (len(words) + words.count("<end>") > 9)
    assert tuple(ids[: len(found.prefix)]) == found.prefix
    assert tuple(ids[len(ids) - len(found.suffix) :]) == found.suffix
    assert PIECES.index("<end>") + 1 not in ids  # nobody but the template ends a turn


def test_a_prompt_over_the_limit_is_refused_where_the_bundle_says_so() -> None:
    with pytest.raises(InputInvalid, match="the prompt is 23 tokens, expected at most 12"):
        prompt(overlong="refuse").encode("is it" + " a" * 20 + " it")
