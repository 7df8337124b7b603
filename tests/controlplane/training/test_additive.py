"""Additive models: they learn, they are served as fitted, and their reasons are what moves their answers."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlplane.packs.example import Example
from controlplane.training.additive import fit
from controlplane.training.classical import Fitted
from gateway.worker.backend import BackendFailed, Host
from gateway.worker.engine import Engine, open_engine
from protos.contract.additive import Additive
from protos.contract.bundle import Bundle, BundleStore
from protos.contract.task import Field, TaskSpec
from tests.tasks import TASK

TABLE = replace(
    TASK,
    fields=(
        Field("amount", "number", False, True),
        Field("count", "integer", False, True),
        Field("known", "flag", False, True),
        Field("country", "text", False, True),
    ),
    template="amount: {amount}\ncount: {count}\nknown: {known}\ncountry: {country}",
)
MIXED = replace(
    TASK,
    fields=(Field("amount", "number", False, True), Field("note", "text", False, True)),
    template="amount: {amount}\nnote: {note}",
)
WHOLE = {"country": "whole"}


def table_case(rng: random.Random) -> tuple[str, float]:
    amount, count = rng.lognormvariate(3, 1), rng.randrange(6)
    known, country = rng.random() < 0.5, rng.choice(["aa", "bb", "cc"])
    odds = 0.04 * amount + 0.5 * count - 1.5 * known + {"aa": 2.0, "bb": 0.0, "cc": -1.0}[country] - 2.5
    shown = "" if rng.random() < 0.05 else f"{amount:.3f}"
    return f"amount: {shown}\ncount: {count}\nknown: {known}\ncountry: {country}", odds


def table(n: int, seed: int) -> list[Example]:
    rng = random.Random(seed)
    found = []
    for _ in range(n):
        text, odds = table_case(rng)
        found.append(Example(text, "unsafe" if rng.random() < 1 / (1 + math.exp(-odds)) else "safe"))
    return found


def mixed(n: int, seed: int) -> list[Example]:
    rng = random.Random(seed)
    found = []
    for _ in range(n):
        label = rng.choice(["safe", "unsafe"])
        word = rng.choice({"safe": ["garden", "soup"], "unsafe": ["weapon", "pills"]}[label])
        found.append(
            Example(f"amount: {rng.gauss(label == 'unsafe', 1):.3f}\nnote: a {word} on {rng.choice('xyz')}", label)
        )
    return found


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit(TABLE, table(3000, 1), table(300, 2), seed=1, analysers=WHOLE)


def served(task: TaskSpec, made: Fitted, root: Path) -> Engine:
    store = BundleStore(root)
    return open_engine(store.load(made.export(task, store, {"author": "trainer"})), Host())


def log_odds(engine: Engine, text: str) -> float:
    safe, unsafe = engine.probabilities([engine.backend.prepare(text)])[0]
    return math.log(unsafe / safe)


def test_it_learns_what_is_additive(fitted: Fitted) -> None:
    rng = random.Random(3)
    cases = [table_case(rng) for _ in range(500)]
    logits = Additive.from_json(TABLE, fitted.body, "m").logits([text for text, _ in cases])
    found = logits[:, 1] - logits[:, 0]
    assert np.corrcoef(found, [odds for _, odds in cases])[0, 1] > 0.93


@pytest.mark.parametrize("kind", ["table", "mixed"])
def test_what_is_served_is_what_was_fitted(kind: str, fitted: Fitted, tmp_path: Path) -> None:
    task = TABLE if kind == "table" else MIXED
    made = fitted if kind == "table" else fit(MIXED, mixed(300, 1), mixed(60, 2), seed=1)
    texts = [example.text for example in (table if kind == "table" else mixed)(50, 5)]
    engine = served(task, made, tmp_path)
    expected = made.head.probabilities(Additive.from_json(task, made.body, "m").logits(texts))
    got = engine.probabilities([engine.backend.prepare(text) for text in texts])
    assert np.allclose(got, expected, atol=1e-5)


def test_words_and_numbers_both_count(tmp_path: Path) -> None:
    engine = served(MIXED, fit(MIXED, mixed(400, 1), mixed(60, 2), seed=1), tmp_path)
    assert (
        log_odds(engine, "amount: 0.5\nnote: a weapon on x") > 0 > log_odds(engine, "amount: 0.5\nnote: a garden on x")
    )
    assert log_odds(engine, "amount: 3\nnote: on x") > log_odds(engine, "amount: -3\nnote: on x")


def test_a_label_with_one_case_does_not_stop_a_fit() -> None:
    task = replace(MIXED, labels=("safe", "unsafe", "odd"), cost=((0.0, 1.0), (1.0, 0.0), (1.0, 0.0)))
    made = fit(task, [*mixed(60, 1), Example("amount: 1\nnote: once", "odd")], mixed(30, 2), seed=1)
    assert Additive.from_json(task, made.body, "m").logits(["amount: 1\nnote: a garden"]).shape == (1, 3)


def test_deleting_a_reason_lowers_the_score_by_what_the_reason_says(fitted: Fitted, tmp_path: Path) -> None:
    engine = served(TABLE, fitted, tmp_path)
    model = Additive.from_json(TABLE, fitted.body, "m")
    means = {part.name: part.mean for part in model.parts}
    for example in table(40, 7):
        reasons = engine.backend.score([engine.backend.prepare(example.text)]).reasons[0]
        assert [value for _, value in reasons] == sorted((value for _, value in reasons), reverse=True)
        shares = dict(zip([part.name for part in model.parts], model.shares(example.text), strict=True))
        for name, value in reasons:
            whole = sum(shares.values()) + model.intercept
            without = whole - shares[name] + means[name]
            drop = (whole[1] - whole[0]) - (without[1] - without[0])
            assert value > 0 and drop == pytest.approx(value, abs=1e-4)


ODD = {
    "nothing at all": "",
    "missing values": "amount: \ncount: \nknown: \ncountry: ",
    "unseen category": "amount: 1\ncount: 1\nknown: True\ncountry: zz",
    "extreme": "amount: 1e308\ncount: -99999999\nknown: True\ncountry: aa",
    "infinite": "amount: inf\ncount: -inf\nknown: True\ncountry: aa",
    "not a number": "amount: nan\ncount: x\nknown: maybe\ncountry: aa",
    "a thousand lines": "amount: 1\n" * 1000,
    "100 kB": "country: " + "\N{PILE OF POO}" * 25_000,
}


@pytest.mark.parametrize("case", ODD)
def test_nothing_breaks_the_output_contract(case: str, fitted: Fitted, tmp_path: Path) -> None:
    engine = served(TABLE, fitted, tmp_path)
    found = engine.probabilities([engine.backend.prepare(ODD[case])])[0]
    assert found.shape == (2,) and (found > 0).all() and found.sum() == pytest.approx(1)


def change(body: dict[str, Any], at: tuple[Any, ...], value: Any) -> dict[str, Any]:
    if not at:
        return value  # type: ignore[no-any-return]
    copy = dict(body) if isinstance(body, dict) else list(body)
    copy[at[0]] = change(copy[at[0]], at[1:], value)  # type: ignore[index]
    return copy  # type: ignore[return-value]


WRONG: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "version": (("version",), 2, "additive.json.version is 2"),
    "labels": (("intercept",), [0.0], "additive.json.intercept is not rows of 2"),
    "field": (("fields", 0, "name"), "income", "expected some of amount, count, known, country"),
    "kind": (("fields", 0, "kind"), "tree", "additive.json.fields[0].kind is 'tree'"),
    "edges": (("fields", 0, "edges"), [1.0, 0.0], "for rising edges"),
    "not finite": (("fields", 0, "values"), [[1e999, 0.0]], "fields[0].values is not rows of 2 finite numbers"),
    "too large": (("intercept",), [1e39, 0.0], "add up to more than single precision holds"),
    "an edge in words": (("fields", 0, "edges"), ["x"], "fields[0].edges is not rows of 1 numbers"),
    "an edge in a list": (("fields", 0, "edges"), [[1.0, 2.0]], "fields[0].edges is not rows of 1 finite numbers"),
    "terms": (("fields", 3, "rarity"), [1.0], "terms, expected as many"),
    "analyser": (("fields", 3, "analyser"), "letters", "analyser is 'letters', expected one of words"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_broken_model_is_refused_by_name(case: str, fitted: Fitted, tmp_path: Path) -> None:
    at, value, message = WRONG[case]
    body = change(dict(fitted.body), at, value)
    store = BundleStore(tmp_path)
    bundle = store.load(fitted.export(TABLE, store, {"author": "trainer"}))
    broken = Bundle(bundle.digest, bundle.manifest, {**bundle.contents, "additive.json": json.dumps(body).encode()})
    with pytest.raises(BackendFailed) as refused:
        open_engine(broken, Host())
    assert message in str(refused.value)


def test_a_reason_is_told_in_the_bundles_own_words(fitted: Fitted, tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    words = {"amount": "The amount is high for the account"}
    engine = open_engine(store.load(fitted.export(TABLE, store, {"author": "t"}, words)), Host())
    assert engine.statements == words


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"income": "too low"}, "has 'income', expected one of amount"),
        ({"amount": ""}, "amount"),
        ({"amount": "x" * 500}, "has 500 characters"),
    ],
)
def test_words_for_no_field_or_no_words_are_refused(
    words: dict[str, str], problem: str, fitted: Fitted, tmp_path: Path
) -> None:
    store = BundleStore(tmp_path)
    with pytest.raises(BackendFailed, match=problem):
        open_engine(store.load(fitted.export(TABLE, store, {"author": "t"}, words)), Host())


def test_a_rare_label_is_guessed_more_often_when_labels_count_the_same() -> None:
    # Of the note only what both labels share, so that the amount has to tell, which it does not do well.
    vague = {"garden": "word", "soup": "word", "weapon": "word", "pills": "word"}
    cases = [Example(" ".join(vague.get(w, w) for w in c.text.split(" ")), c.label) for c in mixed(800, 4)]
    few = [c for c in cases if c.label == "unsafe"][:20] + [c for c in cases if c.label == "safe"]
    told = {}
    for balanced in (False, True):
        made = fit(MIXED, few, [], seed=1, is_balanced=balanced)
        logits = Additive.from_json(MIXED, made.body, "m").logits([case.text for case in cases])
        told[balanced] = np.mean(logits[:, 1] > logits[:, 0])
    assert told[True] > told[False]


def bends(n: int, seed: int, bend: bool) -> list[Example]:
    rng = random.Random(seed)
    found = []
    for _ in range(n):
        amount, count = rng.gauss(0, 1), rng.randrange(6)
        odds = 4 * (abs(amount) - 0.7) if bend else amount + 0.3 * (count - 2.5)
        text = f"amount: {amount:.3f}\ncount: {count}\nknown: {rng.random() < 0.5}\ncountry: {rng.choice(['aa', 'bb'])}"
        found.append(Example(text, "unsafe" if rng.random() < 1 / (1 + math.exp(-odds)) else "safe"))
    return found


@pytest.mark.parametrize("bend", [False, True], ids=["a line", "a bend"])
def test_a_table_is_learned_by_lines_where_they_tell_as_much_as_steps(bend: bool) -> None:
    body = fit(TABLE, bends(500, 1, bend), [], seed=1, analysers=WHOLE).body
    values = next(np.array(field["values"])[:-1, 1] for field in body["fields"] if field["name"] == "amount")
    is_rising = bool((np.diff(values) > 0).all())
    assert is_rising != bend


def test_a_weight_says_how_cases_compare_and_not_how_many_there_are() -> None:
    cases = table(400, 1)
    weights = [1.0 if case.label == "unsafe" else 20.0 for case in cases]
    bodies = [
        fit(TABLE, cases, [], seed=1, analysers=WHOLE, weights=[factor * weight for weight in weights]).body
        for factor in (1.0, 64.0)
    ]
    assert bodies[0] == bodies[1]
