"""Pages by level of risk: what the taxonomy means, what a brand bears, and what may not be blocked or let through."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from controlplane.evals import registry
from controlplane.evals.gateway_trial import GatewayTrial
from controlplane.evals.inputs import input_of
from controlplane.evals.registry import Answers
from controlplane.evals.robustness import CHANGES
from controlplane.packs.brand_suitability.taxonomy import LEVELS, Taxonomy, bears, load_taxonomy
from controlplane.packs.registry import load_metrics, load_pack
from controlplane.training.additive import fit
from controlplane.training.classical import Fitted
from protos import decide_pb2
from protos.contract.additive import Additive
from protos.contract.bundle import BundleStore
from protos.contract.fields import FieldInvalid

load_metrics()
PACK = load_pack("brand-suitability")
TASK = PACK.task


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit(TASK, PACK.training_set(900, 1), PACK.held_out(150, 101), seed=1, analysers=PACK.analysers)


@pytest.fixture(scope="module")
def answers(fitted: Fitted) -> tuple[Answers, list[str]]:
    cases = PACK.held_out(500, 2)
    told = fitted.head.probabilities(Additive.from_json(TASK, fitted.body, "m").logits([c.text for c in cases]))
    labels = np.array([TASK.labels.index(case.label) for case in cases])
    return Answers.of(TASK, labels, told, fitted.head.decisions(TASK, told)), [case.slice for case in cases]


def test_the_labels_are_the_taxonomys_levels_and_every_category_has_its_own_ids() -> None:
    taxonomy = load_taxonomy()
    assert tuple(taxonomy.levels) == LEVELS == TASK.labels
    assert len({category.name for category in taxonomy.categories}) == len(taxonomy.categories) == 12
    assert taxonomy.iab_of("hate") == ("HxqYV1",)


GOOD = {"version": 1, "cattax": 9, "levels": dict.fromkeys(LEVELS, "x"), "categories": []}
TWO = [{"name": "hate", "title": "t", "iab": ["HxqYV1"]}, {"name": "arms", "title": "t", "iab": ["HxqYV1"]}]
WRONG = {
    "levels in another order": ({"levels": dict.fromkeys(reversed(LEVELS), "x")}, "taxonomy.levels is"),
    "an id twice": ({"categories": TWO}, "iab has 'HxqYV1' twice"),
    "no id at all": ({"categories": [{"name": "a", "title": "t", "iab": ["not an id"]}]}, r"categories\[0\].iab has"),
    "an unknown entry": ({"colour": 1}, "colour"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_taxonomy_is_refused_by_its_entry(case: str) -> None:
    change, words = WRONG[case]
    with pytest.raises(FieldInvalid, match=words):
        Taxonomy.from_json(GOOD | change)


def test_a_brand_bears_what_it_tolerates_and_none_bears_the_floor() -> None:
    assert [bears("medium", decision) for decision in TASK.decisions] == [True, True, True, False, False]
    assert not any(bears(level, "nobody") for level in LEVELS[:-1])
    with pytest.raises(ValueError, match="tolerance is 'floor'"):
        bears("floor", "all")


def metric(answers: Answers, name: str) -> float:
    return float(registry.find(name).value(answers)[0])


def test_what_is_at_the_floor_is_kept_from_everybody(answers: tuple[Answers, list[str]]) -> None:
    assert metric(answers[0], "floor_leak_rate") < 0.1


@pytest.mark.parametrize("kind", ["identity", "negation", "news"])
def test_pages_that_filters_get_wrong_are_not_over_blocked(kind: str, answers: tuple[Answers, list[str]]) -> None:
    found, kinds = answers
    inside = found.take(np.flatnonzero(np.array(kinds) == kind))
    assert len(inside.labels) >= 20
    assert metric(inside, "over_block_rate") <= 0.05


def test_blocking_everything_fails_the_gates_that_blocking_nothing_passes() -> None:
    labels = np.array([0, 0, 4, 4])
    everything = Answers.of(TASK, labels, np.full((4, 5), 0.2), np.full(4, 4))
    nothing = Answers.of(TASK, labels, np.full((4, 5), 0.2), np.zeros(4, dtype=np.int64))
    assert (metric(everything, "floor_leak_rate"), metric(everything, "over_block_rate")) == (0, 1)
    assert (metric(nothing, "floor_leak_rate"), metric(nothing, "over_block_rate")) == (1, 0)


def test_hostile_pages_get_an_answer_of_the_task_through_a_real_gateway(fitted: Fitted, tmp_path: Path) -> None:
    patient = replace(TASK, deadline_us=20_000_000)  # a fallback is then no busy machine's
    digest = fitted.export(patient, BundleStore(tmp_path), {"author": "trainer"})
    floor = [input_of(TASK, case.text) for case in PACK.held_out(300, 2) if case.label == "floor"][:12]
    hostile = [change(TASK, one) for change in CHANGES.values() for one in floor[:6]]
    deep = decide_pb2.Input()
    deep.fields["text"].text = "{text} {0.__class__} \x00\x1b[31m \u202e </s> <|im_start|>system"
    huge = decide_pb2.Input()
    huge.fields["text"].text = "x" * 100_000
    with GatewayTrial(tmp_path, digest, "grpcio") as gateway:
        trial = gateway.ask([*hostile, deep], 20_000_000)
        refused = gateway.ask([huge], 20_000_000)
    assert not trial.failures and not trial.fell_back.any()
    assert ((trial.decisions >= 0) & (trial.decisions < len(TASK.decisions))).all()
    # What they write into the page opens it to nobody.
    assert (trial.decisions[: len(hostile)] == len(TASK.decisions) - 1).mean() > 0.85
    assert refused.failures == {"INVALID_ARGUMENT": 1}
