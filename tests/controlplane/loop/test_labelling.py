from pathlib import Path

import pytest

from controlplane.datasets.agreement import cohen_pairs, krippendorff_alpha, majority
from controlplane.loop import observe
from controlplane.loop.labelling import import_labels, next_cases
from controlplane.store import labels, samples
from protos import capture_pb2
from tests.controlplane.loop.fixture import NAME, World, outcome, world


@pytest.fixture
def captured(tmp_path: Path) -> World:
    made = world(tmp_path)
    bundle = made.bundle()
    made.first_plan(bundle)
    scores = (0.01, 0.55, 0.99, 0.02)
    records = [made.sample(f"text {i}", bundle=bundle, score=score) for i, score in enumerate(scores)]
    pair = capture_pb2.ShadowPair(
        decision_id="d-4", specialist=NAME, salt="r-0", primary_decision="allow", candidate_decision="block"
    )
    made.capture([*records, capture_pb2.CaptureRecord(shadow_pair=pair)])
    observe.observe(made.deployment)
    return made


def give(world: World, *rows: tuple[str, str, str]) -> tuple[int, list[str]]:
    with world.deployment.store.writing(world.clock()) as unit:
        kept, refused = import_labels(unit, world.deployment, NAME, list(rows))
    return kept, [one.problem for one in refused]


def queue(world: World, person: str) -> list[tuple[str, str]]:
    with world.deployment.store.reading() as unit:
        return [(c.row.decision_id, c.why) for c in next_cases(unit, world.deployment, NAME, person, 10)]


def test_disagreements_come_first_then_close_calls_then_the_rest(captured: World) -> None:
    assert queue(captured, "ann") == [("d-4", "disagreement"), ("d-2", "margin"), ("d-3", "random"), ("d-1", "random")]


def test_what_most_people_say_becomes_the_outcome_and_a_split_becomes_none(captured: World) -> None:
    assert give(captured, ("d-1", "ann", "safe"), ("d-1", "bob", "unsafe")) == (2, [])
    with captured.deployment.store.reading() as unit:
        assert samples.labelled(unit, NAME, 0, 10) == []
    give(captured, ("d-1", "cyd", "safe"))
    with captured.deployment.store.reading() as unit:
        assert [(row.text, row.label) for row in samples.labelled(unit, NAME, 0, 10)] == [("text 0", "safe")]
    assert "d-1" not in [name for name, _ in queue(captured, "dan")]


def test_a_case_one_person_labelled_is_asked_of_the_next_first_and_a_third_decides_where_two_differ(
    captured: World,
) -> None:
    give(captured, ("d-1", "ann", "safe"))
    assert "d-1" not in [name for name, _ in queue(captured, "ann")]
    assert queue(captured, "bob") == [("d-4", "disagreement"), ("d-2", "margin"), ("d-1", "random"), ("d-3", "random")]
    give(captured, ("d-1", "bob", "unsafe"))
    with captured.deployment.store.reading() as unit:
        assert samples.labelled(unit, NAME, 0, 10) == []  # one word is no longer the outcome once another is against it
    assert "d-1" in [name for name, _ in queue(captured, "cyd")]
    give(captured, ("d-1", "cyd", "unsafe"))
    with captured.deployment.store.reading() as unit:
        assert [row.label for row in samples.labelled(unit, NAME, 0, 10)] == ["unsafe"]
    assert "d-1" not in [name for name, _ in queue(captured, "dan")]


def test_what_callers_know_is_not_asked_of_people(captured: World) -> None:
    captured.capture([outcome(1, "safe")], "000000000000002-run-000001.seg")
    observe.observe(captured.deployment)
    assert "d-1" not in [name for name, _ in queue(captured, "ann")]


def test_labels_outside_the_set_unknown_cases_and_nameless_people_are_refused_with_reasons(captured: World) -> None:
    kept, problems = give(
        captured, ("d-1", "ann", "odd"), ("d-99", "ann", "safe"), ("d-1", " ", "safe"), ("d-1", "ann", "safe")
    )
    assert kept == 1
    assert [words.split(" is")[0] for words in problems] == ["label", "decision_id", "person"]
    with captured.deployment.store.reading() as unit:
        assert [(row.person, row.label) for row in labels.given(unit, NAME)] == [("ann", "safe")]


def test_agreement_is_what_the_formulas_give_by_hand() -> None:
    # Both yes 4, both no 3, yes and no 2, no and yes 1. Agreed 0.7; Cohen expects 0.6 * 0.5 + 0.4 * 0.5 = 0.5.
    ann, bob = "yyyynnnyyn", "yyyynnnnny"
    given = {str(i): {"ann": a, "bob": b} for i, (a, b) in enumerate(zip(ann, bob, strict=True))}
    pair = cohen_pairs(given)[0]
    assert (pair.first, pair.second, pair.cases) == ("ann", "bob", 10)
    assert pair.kappa == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    # Krippendorff: of 20 labels 11 are y and 9 n, so chance disagrees in 1 - (11 * 10 + 9 * 8) / (20 * 19).
    assert krippendorff_alpha(given, ("y", "n")) == pytest.approx(1 - 0.3 / (1 - 182 / 380))


def test_agreement_beyond_chance_is_unknown_where_nothing_can_disagree() -> None:
    assert krippendorff_alpha({"1": {"a": "x", "b": "x"}}, ("x", "y")) is None
    assert cohen_pairs({"1": {"a": "x", "b": "x"}})[0].kappa is None
    assert (majority(["x", "x", "y"]), majority(["x", "y"]), majority([])) == ("x", None, None)
