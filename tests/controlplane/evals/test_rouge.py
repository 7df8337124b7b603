"""ROUGE by hand-counted cases and by what has to hold for any texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.evals.rouge import rouge

WORDS = st.lists(st.sampled_from("abcde"), max_size=12).map(" ".join)


def test_hand_counted_overlaps() -> None:
    # Five words and four, three in common and in order; four pairs and three, one in common.
    found = rouge("the cat sat down quickly", "The dog sat down.")
    assert found.rouge1 == pytest.approx(6 / 9)
    assert found.rouge2 == pytest.approx(2 / 7)
    assert found.rouge_l == pytest.approx(6 / 9)


def test_a_word_counts_as_often_as_both_have_it() -> None:
    assert rouge("no no no", "no").rouge1 == pytest.approx(2 / 4)


def test_order_counts_for_the_longest_common_subsequence_alone() -> None:
    assert rouge("a b c", "c b a").rouge1 == 1
    assert rouge("a b c", "c b a").rouge_l == pytest.approx(1 / 3)


@given(WORDS, WORDS)
def test_it_is_symmetric_within_bounds_and_one_of_itself(a: str, b: str) -> None:
    there, back = rouge(a, b), rouge(b, a)
    assert (there.rouge1, there.rouge2, there.rouge_l) == pytest.approx((back.rouge1, back.rouge2, back.rouge_l))
    assert 0 <= there.rouge_l <= there.rouge1 <= 1
    assert rouge(a, a).rouge1 == (1 if a else 0)
