import random

import pytest

from controlplane.detectors import TooFewSamples
from controlplane.detectors.two_sample import LARGEST, MINIMUM, classifier_two_sample

OLD = ["account", "refund", "order", "invoice", "parcel", "delivery", "late", "broken", "password", "login"]
NEW = ["crypto", "airdrop", "wallet", "token"]


def texts(count: int, seed: int, words: list[str]) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=12)) for _ in range(count)]


def test_the_same_traffic_cannot_be_told_apart() -> None:
    found = [classifier_two_sample(texts(200, s, OLD), texts(200, s + 50, OLD), s).auc for s in range(5)]
    assert 0.4 < sum(found) / len(found) < 0.6


def test_new_words_are_found_and_named() -> None:
    found = classifier_two_sample(texts(200, 1, OLD), texts(200, 2, OLD + NEW), 0)
    assert found.auc > 0.9
    assert set(found.words[:4]) == set(NEW)


def test_the_same_seed_gives_the_same_answer() -> None:
    reference, live = texts(LARGEST + 100, 1, OLD), texts(60, 2, OLD)
    assert classifier_two_sample(reference, live, 3) == classifier_two_sample(reference, live, 3)


def test_a_long_window_costs_no_more_than_its_subsample() -> None:
    class Counted(list[str]):
        reads = 0

        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            self.reads += 1
            return super().__getitem__(index)

    reference = Counted(texts(5_000, 1, OLD))
    classifier_two_sample(reference, texts(50, 2, OLD), 0)
    assert reference.reads == LARGEST


@pytest.mark.parametrize("text", ["", "   ", "\u200b"])
def test_texts_without_words_cannot_be_told_apart(text: str) -> None:
    found = classifier_two_sample([text] * 20, [text] * 20, 0)
    assert found.auc == 0.5 and found.words == ()


def test_too_few_texts_say_nothing() -> None:
    with pytest.raises(TooFewSamples):
        classifier_two_sample(["a"] * (MINIMUM - 1), ["b"] * 100, 0)
