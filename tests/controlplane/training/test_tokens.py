"""What the packaged encoder reads: look-alike letters as what they look like, in training and in the bundle alike."""

import pytest

pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from controlplane.evals.robustness import CHANGES  # noqa: E402
from controlplane.training.lora import folding_tokenizer, open_base, token_rows  # noqa: E402
from protos import decide_pb2  # noqa: E402
from tests.tasks import TASK  # noqa: E402

BASE = open_base("minilm")
PLAIN = Tokenizer.from_file(str(BASE.directory / "tokenizer.json"))
FOLDING = folding_tokenizer(BASE)
LATIN = st.text(st.characters(min_codepoint=32, max_codepoint=0x17F, exclude_characters="\u00ad"), max_size=60)


@given(LATIN)
def test_latin_text_is_read_as_before(text: str) -> None:
    # Compatibility forms aside: those are written out, which is what folding is for.
    if PLAIN.normalizer.normalize_str(text) == FOLDING.normalizer.normalize_str(text):
        assert FOLDING.encode(text).ids == PLAIN.encode(text).ids
    else:
        assert not text.isascii()


@pytest.mark.parametrize("text", ["Pay the customs fee now", "explicit offer, copies here"])
def test_look_alikes_are_read_as_latin(text: str) -> None:
    written = CHANGES["homoglyphs"](TASK, decide_pb2.Input(text=text)).text
    assert written != text and PLAIN.encode(written).ids != PLAIN.encode(text).ids
    assert token_rows(BASE, TASK, [written]) == token_rows(BASE, TASK, [text])
    assert token_rows(BASE, TASK, ["\u200b".join(text)]) == token_rows(BASE, TASK, [text])


def test_the_file_a_bundle_takes_along_reads_as_training_did() -> None:
    text = CHANGES["homoglyphs"](TASK, decide_pb2.Input(text="copies here")).text
    assert Tokenizer.from_str(FOLDING.to_str()).encode(text).ids == FOLDING.encode(text).ids
