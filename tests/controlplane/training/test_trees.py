"""Boosted trees: served as scikit-learn fitted them, safe to load, and their reasons are what deletion shows."""

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from controlplane.packs.example import Example
from controlplane.training import trees
from controlplane.training.classical import Fitted
from controlplane.training.trees import fit
from gateway.worker.backend import BackendFailed, Host
from gateway.worker.engine import Engine, open_engine
from protos.contract.bundle import BundleStore
from protos.contract.fields import FieldInvalid
from protos.contract.task import Field
from protos.contract.trees import Trees
from tests.tasks import TASK

TABLE = replace(
    TASK,
    fields=(
        Field("amount", "number", False, True),
        Field("count", "integer", False, True),
        Field("country", "text", False, True),
    ),
    template="amount: {amount}\ncount: {count}\ncountry: {country}",
)
WHOLE = {"country": "whole"}
SHAPES = [{"max_leaf_nodes": leaves, "max_iter": 40, "learning_rate": 0.2} for leaves in (2, 8)]


def case(rng: random.Random) -> Example:
    amount, count, country = rng.gauss(0, 1), rng.randrange(2), rng.choice(["aa", "bb", "cc"])
    # The amount counts one way or the other as the count says: no sum of fields can tell.
    odds = 2.5 * amount * (1 if count else -1) + (country == "bb")
    shown = "" if rng.random() < 0.05 else f"{amount:.4f}"
    label = TASK.labels[1] if rng.random() < 1 / (1 + np.exp(-odds)) else TASK.labels[0]
    return Example(f"amount: {shown}\ncount: {count}\ncountry: {country}", label)


def cases(n: int, seed: int) -> list[Example]:
    rng = random.Random(seed)
    return [case(rng) for _ in range(n)]


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit(TABLE, cases(900, 1), cases(120, 2), seed=1, analysers=WHOLE, shapes=SHAPES)


@pytest.fixture(scope="module")
def engine(fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    store = BundleStore(tmp_path_factory.mktemp("bundles"))
    return open_engine(store.load(fitted.export(TABLE, store, {"author": "trainer"})), Host())


def test_trees_learn_what_no_sum_of_fields_can_say(fitted: Fitted) -> None:
    held = cases(400, 3)
    guess = Trees.from_json(TABLE, fitted.body, "m").logits([example.text for example in held]).argmax(1)
    assert np.mean([TABLE.labels[g] == example.label for g, example in zip(guess, held, strict=True)]) > 0.75


@pytest.mark.parametrize("labels", [2, 3])
def test_what_is_written_answers_as_what_was_fitted(labels: int) -> None:
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(400, 3)).round(3)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    targets = np.digitize(np.nan_to_num(rows[:, 0] * rows[:, 1]), [0, 0.4][: labels - 1])
    model = HistGradientBoostingClassifier(max_iter=20, max_leaf_nodes=6, early_stopping=False).fit(rows, targets)
    names = [f"f{i}" for i in range(3)]
    task = replace(
        TASK,
        fields=tuple(Field(name, "number", False, True) for name in names),
        labels=tuple(f"l{i}" for i in range(labels)),
        cost=tuple((0.0, 1.0) for _ in range(labels)),
        score_label="l1",
    )
    written = trees._written(task, model, [trees.Column(name) for name in names], rows)
    logits = Trees.from_json(task, written, "m").scores(rows)
    told = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(told, model.predict_proba(rows), atol=1e-4)


def test_a_reason_is_what_the_answer_loses_when_the_field_is_made_typical(engine: Engine, fitted: Fitted) -> None:
    model = Trees.from_json(TABLE, fitted.body, "m")
    usual = dict(zip(("amount", "count"), model.typical[:2], strict=True))
    for example in cases(30, 7):
        prepared = engine.backend.prepare(example.text)
        scores = engine.backend.score([prepared])
        for name, said in scores.reasons[0]:
            lines = dict(line.split(": ") if line[-1] != " " else (line[:-2], "") for line in example.text.split("\n"))
            first = next(c.value for c in model.columns if c.field == "country")
            lines[name] = first if name == "country" else str(usual[name])
            without = model.logits(["\n".join(f"{key}: {value}" for key, value in lines.items())])[0]
            full = np.asarray(scores.logits[0], dtype=np.float64)
            assert said == pytest.approx((full[1] - full[0]) - (without[1] - without[0]), abs=1e-3)
            assert said > 0


def test_rows_of_a_batch_do_not_touch_each_other(engine: Engine) -> None:
    prepared = [engine.backend.prepare(example.text) for example in cases(20, 9)]
    together = np.stack(list(engine.backend.score(prepared).logits))
    assert np.allclose(together, np.stack([engine.backend.score([one]).logits[0] for one in prepared]))


def test_a_missing_or_absurd_value_still_gets_an_answer(engine: Engine) -> None:
    for text in ("", "amount: \ncount: \ncountry: ", "amount: 1e308\ncount: -9\ncountry: " + "z" * 5000, "nonsense"):
        assert engine.probabilities([engine.backend.prepare(text)]).sum() == pytest.approx(1)


def test_text_is_refused_by_its_field() -> None:
    with pytest.raises(FieldInvalid, match="'country' is text"):
        fit(TABLE, cases(50, 1), [], seed=1)


def _loop(body: dict[str, Any]) -> None:
    body["left"][body["roots"][1]] = 0


def _beyond(body: dict[str, Any]) -> None:
    body["right"][0] = len(body["right"])


def _column(body: dict[str, Any]) -> None:
    body["column"][0] = 99


def _infinite(body: dict[str, Any]) -> None:
    body["value"][-1] = float("inf")


def _short(body: dict[str, Any]) -> None:
    body["value"].pop()


def _stranger(body: dict[str, Any]) -> None:
    body["columns"][0]["field"] = "income"


def _too_large(body: dict[str, Any]) -> None:
    body["value"][-1] = 1e39


def _in_words(body: dict[str, Any]) -> None:
    body["typical"][0] = "usual"


BROKEN = {
    _loop: "children are not behind it",
    _beyond: "right is not a list of integers",
    _column: "column is not a list of integers",
    _infinite: "value is not a list of finite numbers",
    _short: "nodes, expected",
    _stranger: "field is 'income'",
    _too_large: "add up to more than single precision holds",
    _in_words: "typical is not a list of",
}


@pytest.mark.parametrize("break_it", BROKEN)
def test_a_broken_file_is_refused_before_it_is_walked(
    break_it: Callable[[dict[str, Any]], None], fitted: Fitted
) -> None:
    body = copy.deepcopy(dict(fitted.body))
    break_it(body)
    with pytest.raises(FieldInvalid, match=f"trees.json.*{BROKEN[break_it]}"):
        Trees.from_json(TABLE, body, "trees.json")


def test_a_bundle_without_its_trees_is_refused(tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    made = store.add(task=TABLE, engine={"backend": "trees"}, contents={}, base={}, lineage={"author": "a"})
    with pytest.raises(BackendFailed, match=r"trees\.json is missing"):
        open_engine(store.load(made.digest), Host())
