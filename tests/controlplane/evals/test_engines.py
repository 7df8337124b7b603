"""Bundles of servers elsewhere in an evaluation, beside those of a worker: real processes, a server on real stubs."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.evals.engine import EngineFailed
from controlplane.evals.engines import RELAY, Engines
from controlplane.evals.evaluation import Evaluation
from controlplane.evals.gateway_trial import GatewayTrial
from controlplane.evals.labelled import LabelledRun
from controlplane.evals.labelled_run import run_labelled
from controlplane.evals.run import evaluate
from controlplane.evals.suite import Suite
from controlplane.packs.example import Example
from protos.contract.bundle import BundleStore
from protos.decide_pb2 import Input
from tests.controlplane.elsewhere import ENGINE, TOKEN, Elsewhere, elsewhere
from tests.gateway.engines.fake_model import Failed, Refused
from tests.tasks import TASK

ROWS = [Example(f"label:{label} item {i}", label) for i in range(40) for label in TASK.labels]
IMPATIENT = (*RELAY, "--patience-s", "0.05")
SUITE = {
    "version": 1,
    "bootstrap": {"rounds": 100, "confidence": 0.95, "seed": 1},
    "regressions": {"part": "core", "max_share": 0.1},
    "gates": [
        {"metric": "accuracy", "part": "core", "min": 0.9},
        {"metric": "accuracy", "part": "core", "vs": "primary", "margin": 0.1},
        {"metric": "accuracy", "part": "core", "vs": "control", "margin": -0.1},
    ],
}


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Elsewhere]:
    with elsewhere(tmp_path, TASK, {row.text: row.label for row in ROWS}) as found:
        yield found


def bundle(root: Path, **engine: object) -> str:
    store = BundleStore(root / "bundles")
    return store.add(task=TASK, engine={**ENGINE, **engine}, contents={}, base={}, lineage={"author": "trainer"}).digest


def test_a_candidate_elsewhere_is_compared_with_a_primary_here_and_the_control(tmp_path: Path, far: Elsewhere) -> None:
    there = bundle(tmp_path)
    store = BundleStore(tmp_path / "bundles")
    poor = {"backend": "simulator", "accuracy": 0.6, "seed": 1}
    here = store.add(task=TASK, engine=poor, contents={}, base={}, lineage={"author": "trainer"}).digest
    suite = Suite.from_json(SUITE)
    found = evaluate(TASK, suite, {"core": ROWS}, ROWS, there, here, store.root, engines=far.declared)
    assert found.accepted, found.gates
    assert found.values["core"]["candidate"]["accuracy"].value == 1 > found.values["core"]["primary"]["accuracy"].value
    assert set(found.elsewhere) == {"candidate"}, "a worker answered for the primary"
    about = found.elsewhere["candidate"]
    assert about["servers"] == [
        {
            "engine": "far",
            "kind": "oip",
            "model": "tiny/decoder",
            "model_version": "3",
            "server": "fake server",
            "server_version": "1.2",
        }
    ]
    assert (about["backend"], about["preset"]) == ("oip", "generic")
    assert "nobody here hashed them" in about["weights"]
    assert Evaluation.from_json(found.to_json()) == found
    assert far.servicer.authorizations == {f"Bearer {TOKEN}"} and TOKEN not in str(found.to_json())


def test_a_bundle_that_no_declared_server_holds_is_refused_with_all_that_was_looked_at(
    tmp_path: Path, far: Elsewhere
) -> None:
    other = bundle(tmp_path, model="other")
    expected = (
        f"bundle {other} is for a server elsewhere, 'oip' with model 'other', expected one declared by "
        r"\[\[gateway.engines\]\] in the settings that are used here \(far is oip for tiny/decoder\)"
    )
    with Engines(tmp_path / "bundles", far.declared) as engines, pytest.raises(EngineFailed, match=expected):
        engines.load(other)
    with pytest.raises(EngineFailed, match=r"\(they declare none\)"), GatewayTrial(tmp_path / "bundles", other):
        pass


def test_a_server_that_is_away_is_an_error_and_answers_when_it_is_asked_again(tmp_path: Path, far: Elsewhere) -> None:
    digest = bundle(tmp_path)
    far.model.is_up = False
    with Engines(tmp_path / "bundles", far.declared, relay=IMPATIENT) as engines:
        with pytest.raises(EngineFailed, match=f"bundle {digest}: far: the server is not ready"):
            engines.load(digest)
        far.model.is_up = True
        with pytest.raises(EngineFailed, match="input 1: RESULT_STATUS_ENGINE_ERROR: INTERNAL: the model broke"):
            _loaded_in_time(engines, digest).score(digest, [Input(text=ROWS[0].text), Input(text="please fail")])
        far.servicer.model_version = "4"
        with pytest.raises(EngineFailed, match="servers were .*'model_version': '3'.*, and are .*'model_version': '4'"):
            engines.elsewhere(digest)


def test_an_input_that_the_server_refuses_is_counted_never_right_and_never_the_end(
    tmp_path: Path, far: Elsewhere
) -> None:
    far.model.longest = 50_000
    task = replace(TASK, max_input_bytes=110_000)
    store = BundleStore(tmp_path / "bundles")
    digest = store.add(task=task, engine=ENGINE, contents={}, base={}, lineage={"author": "trainer"}).digest
    changed = [
        {"change": "long", "part": "core", "max_changed": 0.9},
        {"change": "typos", "part": "core", "max_changed": 1},
    ]
    suite = Suite.from_json({**SUITE, "gates": SUITE["gates"][:1], "robustness": changed})

    def judged(rows: list[Example]) -> Evaluation:
        return evaluate(task, suite, {"core": rows}, ROWS, digest, None, store.root, engines=far.declared)

    found = judged(ROWS)
    long, typos = (gate for gate in found.gates if "of decisions change" in gate.text)
    assert (long.passed, long.found) == (False, 1) and long.text.endswith("; 80 refused")
    assert typos.passed and "refused" not in typos.text
    assert found.refused == {} and not found.accepted

    far.model.longest = max(len(row.text) for row in ROWS)
    refused = judged([*ROWS, Example("please refuse this", "safe"), Example("please refuse that", "unsafe")])
    (gate,) = (gate for gate in refused.gates if gate.text == "core: no case is refused")
    assert (gate.passed, gate.found, refused.accepted) == (False, 2 / 82, False)
    assert refused.refused == {"core": {"candidate": 2}} and Evaluation.from_json(refused.to_json()) == refused
    cost = refused.values["core"]["candidate"]["mean_cost"].value
    assert cost == pytest.approx(sum(row[task.decisions.index(task.fallback_decision)] for row in task.cost) / 82)


@pytest.mark.parametrize("way", [Refused, Failed], ids=["says so", "breaks over it"])
def test_a_labelled_file_counts_what_the_server_refuses(tmp_path: Path, far: Elsewhere, way: type[Exception]) -> None:
    far.model.longest, far.model.too_long = 50_000, way
    store = BundleStore(tmp_path / "bundles")
    task = replace(TASK, max_input_bytes=110_000)
    digest = store.add(task=task, engine=ENGINE, contents={}, base={}, lineage={"author": "trainer"}).digest
    rows = [*ROWS[:20], Example("please refuse this", "safe")]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"text": row.text, "label": row.label}) + "\n" for row in rows))
    asked = LabelledRun(store.root, digest, data, rounds=10, robustness_cases=21, gateway_cases=0, engines=far.declared)
    report = run_labelled(asked)
    assert report["refused"] == {"bundle": 1}
    found = {one["change"]: one for one in report["robustness"]}
    assert (found["long"]["refused"], found["long"]["decisions_changed"]) == (21, 1)
    assert (found["upper_case"]["refused"], found["spacing"]["refused"]) == (0, 0)


def _loaded_in_time(engines: Engines, digest: str) -> Engines:
    """Load a bundle of a server that came up a moment ago; its health is asked every second."""
    for _ in range(200):
        try:
            engines.load(digest)
        except EngineFailed:
            continue
        return engines
    raise AssertionError("the server never came back")


def test_a_token_that_others_may_read_is_refused_and_not_shown(tmp_path: Path, far: Elsewhere) -> None:
    (tmp_path / "engine.token").chmod(0o644)
    digest = bundle(tmp_path)
    with (
        Engines(tmp_path / "bundles", far.declared) as engines,
        pytest.raises(EngineFailed, match="engine.token is readable by others, expected mode 600") as failed,
    ):
        engines.load(digest)
    assert TOKEN not in str(failed.value)


def test_callers_of_the_trial_are_answered_by_the_server(tmp_path: Path, far: Elsewhere) -> None:
    task = replace(TASK, deadline_us=5_000_000)
    store = BundleStore(tmp_path / "bundles")
    digest = store.add(task=task, engine=ENGINE, contents={}, base={}, lineage={"author": "trainer"}).digest
    with GatewayTrial(store.root, digest, "grpcio", far.declared) as trial:
        seen = trial.ask([Input(text=row.text) for row in ROWS[:4]], 5_000_000)
    assert seen.decisions.tolist() == [0, 1, 0, 1] and not seen.fell_back.any()
    assert far.servicer.authorizations == {f"Bearer {TOKEN}"}
