"""What a decision was weighed by says where another one would have come out."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.explanation import weigh
from controlplane.packs.registry import load_pack
from protos.contract.head import Head

TASK = load_pack("brand-safety").task
SHARES = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(lambda s: [x / sum(s) for x in s])
OFFSETS = st.lists(st.floats(-0.2, 0.2), min_size=3, max_size=3)


def moved(probabilities: list[float], score: float) -> list[float]:
    """Give the score label another probability, the others keeping their proportions."""
    rest = 1 - probabilities[TASK.score_index]
    return [
        score if i == TASK.score_index else p / rest * (1 - score)
        for i, p in enumerate(probabilities)
    ]  # fmt: skip


@given(SHARES, OFFSETS)
def test_up_to_the_threshold_the_decision_stands_and_just_beyond_it_is_another(
    probabilities: list[float], offsets: list[float]
) -> None:
    head = Head(offsets=tuple(offsets))
    decision = TASK.decisions[head.decide(TASK, probabilities)]
    found = weigh(TASK, offsets, probabilities, decision)
    assert found is not None and min(found.costs) == found.costs[TASK.decisions.index(decision)]
    score = probabilities[TASK.score_index]
    if found.threshold is None:
        assert {head.decide(TASK, moved(probabilities, s / 20)) for s in range(21)} == {TASK.decisions.index(decision)}
        return
    step = found.threshold - score
    before = moved(probabilities, score + 0.99 * step)
    assert TASK.decisions[head.decide(TASK, before)] == decision
    beyond = found.threshold + 1e-6 * (1 if step > 0 else -1)
    if 0 <= beyond <= 1 and abs(step) > 1e-9:
        assert TASK.decisions[head.decide(TASK, moved(probabilities, beyond))] != decision


def test_a_task_of_one_decision_has_no_threshold_and_a_stranger_is_not_weighed() -> None:
    one = replace(TASK, decisions=("allow",), cost=((0.0,), (0.3,), (1.0,)))
    found = weigh(one, (), [0.2, 0.3, 0.5], "allow")
    assert found is not None and found.threshold is None
    assert weigh(TASK, (), [], "allow") is None and weigh(TASK, (), [0.2, 0.3, 0.5], "shout") is None
