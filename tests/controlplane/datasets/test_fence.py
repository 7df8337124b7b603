import random
import string

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.datasets.fence import Fence
from controlplane.packs.example import Example

HELD = "The committee met on Tuesday to discuss the harbour's new ferry timetable, and rose without a vote."


def test_a_held_out_text_is_blocked_however_it_is_written_and_also_when_it_is_nearly_the_same() -> None:
    fence = Fence([HELD])
    assert fence.blocks(HELD.upper().replace(",", " ;")) == "exact"
    assert fence.blocks(HELD.replace("Tuesday", "Monday")) == "near"
    assert fence.blocks("The committee met on Tuesday and talked about schools instead.") == ""
    assert fence.blocks("") == ""


def test_rows_of_named_fields_are_compared_whole_because_their_names_make_them_alike() -> None:
    rows = [f"limit_bal: {n} age: 41 pay_0: 0 pay_2: 0 bill_amt1: 3913 bill_amt2: 3102" for n in (20, 50)]
    assert Fence(rows[:1]).blocks(rows[1]) == "near"
    assert Fence(rows[:1], near=False).blocks(rows[1]) == ""
    assert Fence(rows[:1], near=False).blocks(rows[0]) == "exact"


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(string.ascii_lowercase + " ", min_size=30, max_size=80), min_size=1, max_size=8, unique=True))
def test_nothing_that_is_held_out_ever_passes_and_order_does_not_matter(texts: list[str]) -> None:
    fence = Fence(texts)
    assert fence.digest == Fence(texts[::-1]).digest
    passed = fence.sift([Example(text, "a") for text in texts])
    assert passed.kept == () and passed.exact == len(texts)


def test_one_changed_letter_in_a_long_text_is_found_every_time() -> None:
    rng = random.Random(3)
    texts = [" ".join("".join(rng.choices(string.ascii_lowercase, k=6)) for _ in range(40)) for _ in range(100)]
    fence = Fence(texts)
    changed = [text[:100] + "#x" + text[102:] for text in texts]
    assert [fence.blocks(text) for text in changed] == ["near"] * 100
