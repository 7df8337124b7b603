"""Bid shading: the cheapest decision is the one of most surplus, and learning closes most of the gap to the best."""

import json
import random
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.datasets.rows import DataInvalid
from controlplane.evals import registry
from controlplane.evals.registry import Answers
from controlplane.evals.run import evaluate
from controlplane.packs.bid_shading.auction import Auction, draw_auction
from controlplane.packs.bid_shading.buckets import (
    BOUNDS,
    DECISIONS,
    LABELS,
    bound_of,
    label_of,
    labels_left,
)
from controlplane.packs.bid_shading.censored import Notice, fit_censored, learn, read_notices
from controlplane.packs.bid_shading.scenarios import fields_of
from controlplane.packs.bid_shading.tenders import prepare
from controlplane.packs.folder import to_input
from controlplane.packs.registry import load_metrics, load_pack
from controlplane.training.additive import fit
from controlplane.training.classical import Fitted
from protos.contract.additive import Additive
from protos.contract.bundle import BundleStore
from protos.contract.fields import FieldInvalid
from protos.contract.task import InputInvalid, render

load_metrics()
PACK = load_pack("bid-shading")
TASK = PACK.task


def text_of(auction: Auction) -> str:
    return render(TASK, to_input(TASK, fields_of(auction)))


def auctions(n: int, seed: int, *, wave: bool = False) -> list[Auction]:
    rng = random.Random(seed)
    return [draw_auction(rng, wave=wave) for _ in range(n)]


def probabilities(fitted: Fitted, texts: list[str]) -> np.ndarray:
    return fitted.head.probabilities(Additive.from_json(TASK, fitted.body, "m").logits(texts))


def log_loss(fitted: Fitted, cases: list[Auction]) -> float:
    found = probabilities(fitted, [text_of(a) for a in cases])
    truth = [LABELS.index(label_of(a.least / a.price)) for a in cases]
    return -float(np.log(found[np.arange(len(cases)), truth]).mean())


def test_task_and_exchange_have_the_buckets() -> None:
    folder = Path(__file__).parents[3] / "controlplane/packs/bid_shading"
    assert (TASK.labels, TASK.decisions) == (LABELS, DECISIONS)
    (rule,) = tomllib.loads((folder / "exchange.toml").read_text())["gateway"]["mutations"]
    shade = rule["bid_shade"]
    assert shade["factors"] == shade["thresholds"] == dict(zip(DECISIONS, BOUNDS, strict=True))
    assert shade["above"] == LABELS[-1]


@given(st.lists(st.floats(0.001, 1), min_size=len(LABELS), max_size=len(LABELS)))
def test_the_cheapest_decision_keeps_the_most_surplus(weights: list[float]) -> None:
    told = [w / sum(weights) for w in weights]
    surplus = [(1 - bound_of(d)) * sum(told[: i + 1]) for i, d in enumerate(DECISIONS)]
    assert surplus[TASK.decide(told)] == pytest.approx(max(surplus), abs=1e-6)


@given(st.floats(0.01, 2), st.sampled_from(BOUNDS) | st.floats(0.01, 1))
def test_a_notice_never_rules_out_what_is_true(needed: float, submitted: float) -> None:
    assert label_of(needed) in labels_left(submitted, is_won=needed <= submitted)


def test_the_known_optimum_is_one() -> None:
    for auction in auctions(50, 3):
        best = auction.best_bid()
        others = [auction.expected_surplus(auction.price * share) for share in np.linspace(0.02, 1, 60)]
        assert auction.expected_surplus(best) >= max(others) - 0.005 * auction.price


@pytest.fixture(scope="module")
def shader() -> Fitted:
    return fit(TASK, PACK.training_set(2500, 1), PACK.held_out(200, 2), seed=1, analysers=PACK.analysers)


def surplus_of(fitted: Fitted, cases: list[Auction]) -> float:
    found = probabilities(fitted, [text_of(a) for a in cases]).tolist()
    shares = [bound_of(TASK.decisions[fitted.head.decide(TASK, row)]) for row in found]
    return sum(a.expected_surplus(max(s * a.price, a.floor)) for a, s in zip(cases, shares, strict=True))


def test_a_trained_shader_regrets_less_than_any_constant_share(shader: Fitted) -> None:
    cases = auctions(1500, 11)
    best = sum(a.expected_surplus(a.best_bid()) for a in cases)
    constant = max(sum(a.expected_surplus(max(b * a.price, a.floor)) for a in cases) for b in BOUNDS)
    regret, of_constant = 1 - surplus_of(shader, cases) / best, 1 - constant / best
    assert 0 < regret < 0.75 * of_constant


def log_of(cases: list[Auction], path: Path, *, only_told: bool = False) -> Path:
    """Write what a bidder knows of its bids. Exchanges tell the minimum to few, and more often to those who lost."""
    rng = random.Random(5)
    rows = []
    for auction in cases:
        submitted = rng.uniform(0.5, 1) * auction.price
        is_won = auction.least <= submitted
        told = auction.least if rng.random() < (0.02 if is_won else 0.2) else None
        row = {**fields_of(auction), "price": auction.price, "submitted": submitted, "won": is_won}
        if told or not only_told:
            rows.append({**row, "min_bid_to_win": told})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_untold_minimums_teach_too(tmp_path: Path) -> None:
    cases, losses, store = auctions(600, 31), [], BundleStore(tmp_path / "bundles")
    for only_told in (False, True):
        path = log_of(auctions(350, 21), tmp_path / "notices.jsonl", only_told=only_told)
        found = learn(path, store.root, "bob", seed=1)
        bundle = store.load(str(found["bundle"]))
        body = json.loads(bundle.contents["additive.json"])
        losses.append(log_loss(Fitted("additive", body), cases))
        assert bundle.manifest.author == "bob" and found["exact"] < 350 / 4
    assert found["bounds"] == 0 and losses[0] < losses[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"submitted": 9e9}, "row 2: column 'submitted' is 9e+09, expected more than 0 and at most the price"),
        ({"min_bid_to_win": "soon"}, "row 2: column 'min_bid_to_win' is 'soon', expected an amount of 0 or more"),
        ({"won": "perhaps"}, "column 'won' is 'perhaps', expected one of true, false"),
        ({"price": None}, "input.fields['price'] is missing"),
    ],
    ids=["above the price", "no amount", "neither won nor lost", "no price"],
)
def test_a_wrong_notice_is_refused_by_row_and_column(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = log_of(auctions(3, 1), tmp_path / "notices.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | (change if i == 1 else {})) + "\n" for i, row in enumerate(rows)))
    with pytest.raises(DataInvalid) as refused:
        read_notices(TASK, path)
    assert words in str(refused.value)


def test_a_notice_without_a_label_left_is_refused() -> None:
    with pytest.raises(ValueError, match=r"notices\[0\].possible is empty"):
        fit_censored(TASK, [Notice("x", ())], [], seed=1, analysers=PACK.analysers)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"price": None}, "input.fields['price'] is missing, expected number"),
        ({"exchange": None}, "input.fields['exchange'] is missing, expected text"),
        ({"price": float("nan")}, "input.fields['price'] is nan, expected a finite number"),
        ({"site": "x" * 5000}, "expected at most 2048"),
    ],
    ids=["no price", "no exchange", "not a number", "too long"],
)
def test_a_wrong_input_is_refused_by_field(change: dict[str, float | str | None], words: str) -> None:
    fields = {**fields_of(auctions(1, 1)[0]), **change}
    with pytest.raises(InputInvalid) as refused:
        to_input(TASK, {name: value for name, value in fields.items() if value is not None})
    assert words in str(refused.value)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(FieldInvalid, match="field is 'bid', expected one of floor_share"):
        to_input(TASK, {"bid": 1.0})


def test_a_tender_is_an_auction_with_the_sign_mirrored() -> None:
    row = {"best_losing_ratio": 1.25, "winning_price": 1e6, "n_bids_total": 3, "country": None, "currency": "USD"}
    assert prepare(row) == {"label": "80", "magnitude": 6.0, "n_bids": 3, "country": "unknown", "currency": "USD"}
    assert prepare({**row, "best_losing_ratio": 0.9})["label"] == "beyond"  # the winner was not the lowest
    with pytest.raises(ValueError, match="winning_price is 0"):
        prepare({**row, "winning_price": 0})


def test_a_win_probability_is_judged_at_the_share_that_was_submitted() -> None:
    task, count = TASK, len(TASK.labels)
    labels = np.repeat(np.arange(count), 40)
    decisions = np.full(len(labels), 2)
    uniform = np.full((len(labels), count), 1 / count)
    honest = Answers.of(task, labels, uniform, decisions)
    boastful = Answers.of(task, labels, np.eye(count)[np.zeros(len(labels), dtype=int)], decisions)
    calibration, loss = registry.find("win_calibration"), registry.find("win_log_loss")
    # Where the same is said of all, deciles follow the order of the cases: shuffled, each holds its share.
    order = np.random.default_rng(1).permutation(len(labels))
    assert float(calibration.value(honest.take(order))[0]) < 0.12
    assert float(calibration.value(boastful)[0]) == pytest.approx(1 - 3 / count, abs=1e-3)
    assert float(loss.value(honest)[0]) < float(loss.value(boastful)[0])


WORKER = """
import socket, sys
sys.path.insert(0, ".")
from controlplane.packs.bid_shading.buckets import LABELS, label_of
from protos import engine_pb2 as e
from protos.contract import frames
from protos.contract.task import InputInvalid, TaskSpec, check_input
from pathlib import Path
import tomllib
task = TaskSpec.from_json(tomllib.loads(Path("controlplane/packs/bid_shading/task.toml").read_text()))
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[sys.argv.index("--socket") + 1]); s.listen()
c, _ = s.accept()
send = lambda **b: c.sendall(frames.encode(e.Frame(**b)))
send(hello=e.Hello(protocol=frames.PROTOCOL, max_queue=8))
d = frames.FrameDecoder()

def answer(given, kind):
    numbers = {n: given.fields[n].number for n in ("floor_share", "landscape_share", "price") if n in given.fields}
    is_absurd = any(not 0 <= value < 1e9 for value in numbers.values()) or not 0 <= given.fields["hour"].integer < 24
    site = given.fields["site"].text
    if kind == "b" and not (site.isascii() and len(site) < 40) or kind == "c" and is_absurd:
        return 0  # the lowest bid there is
    wanted = max(numbers["floor_share"], 1.15 * numbers.get("landscape_share", 0.6))
    return min(LABELS.index(label_of(wanted)), len(LABELS) - 2)

while data := c.recv(65536):
    for f in d.feed(data):
        if f.WhichOneof("body") == "load":
            send(loaded=e.Loaded(id=f.load.id, ok=True))
            continue
        try:
            check_input(task, f.job.input)
            k = answer(f.job.input, f.job.bundle_digest[7])
        except InputInvalid:
            send(result=e.Result(id=f.job.id, status=e.RESULT_STATUS_BAD_INPUT))
            continue
        p = [0.01] * len(LABELS); p[k] = 0.9
        send(result=e.Result(id=f.job.id, probabilities=p, label=k, decision=k, score=p[-1]))
"""
BY_SITE = {f"core {change}: under_floor" for change in ("homoglyphs", "injection", "long")}
ABSURD = {f"core {change}: under_floor" for change in ("extreme", "contradictory")}


@pytest.mark.parametrize(
    ("letter", "failed"),
    [("a", set()), ("b", BY_SITE), ("c", ABSURD)],
    ids=["as told", "low where the site is odd", "low where a number is absurd"],
)
def test_a_bundle_that_hostile_input_has_bid_under_the_floor_fails_its_suite(
    letter: str, failed: set[str], tmp_path: Path
) -> None:
    # Where no floor is above half of the price nobody bids under one.
    drawn = [case for case in PACK.training_set(3000, 5) if 0.5 < float(case.text.split()[1]) <= 0.95][:150]
    (tmp_path / "worker.py").write_text(WORKER)
    command = (sys.executable, str(tmp_path / "worker.py"))
    candidate = "sha256:" + letter * 64
    found = evaluate(
        TASK, PACK.suite, {"core": drawn}, drawn, candidate, None, tmp_path, command=command, is_partial=True
    )
    gates = {gate.text.split(" at most")[0]: gate for gate in found.gates if "under_floor" in gate.text}
    assert len(gates) == 7, "of the cases as they are, and with each of six changes"
    assert {text for text, gate in gates.items() if not gate.passed} == failed


def test_no_share_is_above_the_price_and_a_bid_at_the_floor_is_not_under_it() -> None:
    assert max(BOUNDS) < 1
    decisions = np.array([DECISIONS.index("60")] * 4)
    answers = Answers.of(TASK, np.zeros(4, dtype=np.int64), np.full((4, len(LABELS)), 1 / len(LABELS)), decisions)
    metric = registry.find("under_floor")
    for floors, share in (([0.6, 0.61, 0.0, -1.0], 0.5), ([0.99, 1e15, 0.5, np.nan], 0.0)):
        told = replace(answers, columns={"floor_share": floors})
        assert float(metric.value(told)[0]) == share, "none can reach 0.99, and no floor is none"
    assert np.isnan(metric.value(answers)[0])
