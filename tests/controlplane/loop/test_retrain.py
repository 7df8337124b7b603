"""What a training is prepared from: live days, hard cases, scenarios, behind the fence; and the lock on its suite."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from controlplane.datasets.build import DatasetRefused, Part, build, write
from controlplane.evals.suite import Suite, SuiteInvalid
from controlplane.loop import evaluate, observe, retrain
from controlplane.packs.example import Example
from controlplane.packs.registry import load_pack
from controlplane.settings import SpecialistSettings
from controlplane.store import ledger
from controlplane.store import pairs as pair_rows
from controlplane.training.dataset import read_dataset
from protos import capture_pb2
from protos.contract.digest import parse_json_object
from tests.controlplane.loop.fixture import NAME, World, outcome, world


def job(**request: Any) -> Any:
    return SimpleNamespace(
        id="train-1",
        attempt=1,
        kind="train",
        specialist=NAME,
        cause="operator",
        request={"seed": 0, "author": "bob", **request},
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    """Labelled traffic with a held-out text among it, and from longer ago cases that were answered wrong."""
    tmp_path = tmp_path_factory.mktemp("prepared")
    made = world(tmp_path, training={"examples": 60, "held_out": 40, "live_examples": 50})
    bundle = made.bundle()
    made.first_plan(bundle)
    rows = made.deployment.pack(NAME).training_set(100, 5)
    leaked = evaluate.held_out_parts(made.deployment, NAME)["core"][0]
    records = []
    for i, row in enumerate([*rows, leaked], 1):
        answered = "unsafe" if row.label == "safe" and i % 2 else row.label
        records += [made.sample(row.text, bundle=bundle, label=answered), outcome(i, row.label)]
    made.capture(records)
    observe.observe(made.deployment)
    config = retrain.prepare(made.deployment, job(), tmp_path / "job")
    return made, Path(config["train_file"])


def entries(made: World, action: str) -> list[dict[str, Any]]:
    with made.deployment.store.reading() as unit:
        return [dict(e.detail) for e in ledger.entries(unit.connection, 0, 1000) if e.action == action]


def test_what_is_held_out_is_not_trained_on_though_callers_sent_it(prepared: tuple[World, Path]) -> None:
    made, train = prepared
    locked = entries(made, "suite.locked")[0]
    assert locked["fenced_out"]["exact"] >= 1
    held = {e.text for part in evaluate.held_out_parts(made.deployment, NAME).values() for e in part}
    assert not held & {row.text for row in read_dataset(train)}
    slices = [row.slice for row in read_dataset(train)]
    assert 0 < slices.count("hard") <= 25 and 40 <= slices.count("live") <= 50
    manifest = parse_json_object(made.deployment.artifacts.get(locked["manifest"]))
    assert [source["kind"] for source in manifest["sources"]] == ["captured", "hard", "pack"]


def test_a_suite_that_was_changed_after_the_lock_judges_nobody(tmp_path: Path) -> None:
    made = world(tmp_path)
    pack = made.deployment.pack(NAME)
    data = made.deployment.artifacts.put(b'{"text": "a", "label": "safe", "slice": ""}\n')
    lineage = {"author": "trainer", "dataset": data, "suite": pack.suite.digest}
    bundle = made.deployment.bundles.add(
        task=pack.task, engine={"backend": "simulator"}, contents={}, base={}, lineage=lineage
    ).digest
    asked = job(bundle=bundle, suite=pack.suite.digest)
    assert evaluate.prepare(made.deployment, asked, tmp_path)["candidate"] == bundle
    value = pack.suite.to_json()
    value["regressions"]["max_share"] = 0.5
    pack.suite = Suite.from_json(value)
    with pytest.raises(SuiteInvalid, match="was locked as"):
        evaluate.prepare(made.deployment, asked, tmp_path)


def test_a_bundle_that_was_made_elsewhere_is_judged_beside_a_control_of_the_packs_own_cases(tmp_path: Path) -> None:
    made = world(tmp_path, training={"examples": 60, "held_out": 40})
    pack = made.deployment.pack(NAME)
    bundle = made.bundle()
    assert "dataset" not in made.deployment.bundles.manifest(bundle).lineage
    config = evaluate.prepare(made.deployment, job(bundle=bundle, suite=pack.suite.digest), tmp_path)
    learned = {row.text for row in read_dataset(Path(config["train_file"]))}
    assert len(learned) == 60 and not learned & {row.text for row in read_dataset(Path(config["parts"]["core"]))}


def test_live_cases_that_a_suite_asks_for_are_judged_on_and_never_trained_on(prepared: tuple[World, Path]) -> None:
    made, train = prepared
    pack = made.deployment.pack(NAME)
    before = pack.suite
    value = before.to_json()
    value["gates"].append({"metric": "accuracy", "part": "live", "min": 0.1})
    pack.suite = Suite.from_json(value)
    try:
        live = evaluate.held_out_parts(made.deployment, NAME)["live"]
        config = retrain.prepare(made.deployment, job(), train.parents[1] / "other")
    finally:
        pack.suite = before
    seen = {row.text for row in read_dataset(train)}
    assert {case.text for case in live} & seen, "they came in as any other traffic"
    learned = {row.text for row in read_dataset(Path(config["train_file"])) if row.slice in ("live", "hard")}
    assert learned and not learned & {case.text for case in live}


def test_a_pack_with_few_held_out_cases_shares_them_between_judging_and_training(
    prepared: tuple[World, Path], tmp_path: Path
) -> None:
    made, _ = prepared
    few = load_pack(NAME)
    cases = few.held_out(30, 5)
    few.held_out = lambda n, seed: cases[:n]  # type: ignore[method-assign]
    deployment = replace(made.deployment, packs={NAME: few})
    looked_at = read_dataset(Path(retrain.prepare(deployment, job(), tmp_path)["dev_file"]))
    judged = evaluate.held_out_parts(deployment, NAME)["core"]
    assert (len(judged), len(looked_at)) == (20, 10)
    assert {case.text for case in judged} | {case.text for case in looked_at} == {case.text for case in cases}


def test_from_longer_ago_the_cases_two_bundles_differed_over_are_learned_from_first() -> None:
    task = load_pack(NAME).task
    rows = [
        SimpleNamespace(decision_id=f"d-{i}", text=f"case {i}", label="unsafe", answered="unsafe" if i < 30 else "safe")
        for i in range(40)
    ]
    pairs = {"d-2": ("allow", "block"), "d-21": ("allow", "block"), "d-22": ("block", "allow")}
    found = {part.name: part for part in retrain._live(rows, pairs, task, 10)}
    assert [row.text for row in found["live"].rows] == [f"case {i}" for i in range(10)], "recent ones come anyway"
    assert [row.text for row in found["regression"].rows] == ["case 22"], "the candidate lost it"
    assert [row.text for row in found["disagreement"].rows] == ["case 21"]
    assert len(found["wrong"].rows) == 3 and {part.kind for part in found.values()} == {"captured", "hard"}


def test_a_training_set_of_a_folder_is_learned_from_once_it_is_checked(
    prepared: tuple[World, Path], tmp_path: Path
) -> None:
    made, _ = prepared
    pack = made.deployment.pack(NAME)
    rows = tuple(Example(f"a page that somebody wrote down, number {i}", "safe", "file") for i in range(30))
    write(build(pack.task, [Part("file", "pages", rows, licence="CC BY 4.0")], []), tmp_path / "v1")
    source = SpecialistSettings(NAME, None, None, dataset=tmp_path / "v1")
    deployment = replace(made.deployment, sources={NAME: source})
    config = retrain.prepare(deployment, job(), tmp_path / "job")
    assert {row.text for row in rows} <= {row.text for row in read_dataset(Path(config["train_file"]))}
    manifest = parse_json_object(deployment.artifacts.get(config["data_manifest"]))
    named = [source for source in manifest["sources"] if source["kind"] == "dataset"]
    assert [(one["name"], one["licence"], one["rows"]) for one in named] == [("v1", "CC BY 4.0", 30)]
    (tmp_path / "v1" / "train.jsonl").write_text('{"text": "other", "label": "safe", "slice": ""}\n')
    with pytest.raises(DatasetRefused, match="hashes to"):
        retrain.prepare(deployment, job(), tmp_path / "again")


def test_shadow_pairs_that_differ_are_found_by_decision(tmp_path: Path) -> None:
    made = world(tmp_path)
    pairs = [("d-1", "allow", "block", False), ("d-2", "allow", "allow", False), ("d-3", "allow", "block", True)]
    made.capture(
        [
            capture_pb2.CaptureRecord(
                shadow_pair=capture_pb2.ShadowPair(
                    decision_id=name, specialist=NAME, primary_decision=a, candidate_decision=b, primary_fallback=fell
                )
            )
            for name, a, b, fell in pairs
        ]
    )
    observe.observe(made.deployment)
    with made.deployment.store.reading() as unit:
        assert pair_rows.disagreements(unit, NAME, 100) == {"d-1": ("allow", "block")}
