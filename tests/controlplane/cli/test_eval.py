"""``interlock eval run`` as it is typed, through a real worker and a real gateway."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from controlplane.packs.registry import load_pack
from controlplane.training.additive import fit
from protos.contract.bundle import BundleStore
from tests.controlplane.cli.fake import interlock, said
from tests.tasks import TASK


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("eval")
    store = BundleStore(root / "bundles")
    for seed, accuracy in ((1, 0.9), (2, 0.6)):
        engine = {"backend": "simulator", "accuracy": accuracy, "seed": seed}
        made = store.add(task=TASK, engine=engine, contents={}, base={}, lineage={"author": "trainer"})
        (root / f"{accuracy}.digest").write_text(made.digest)
    draw = random.Random(1)
    with (root / "rows.jsonl").open("w") as file:
        for i in range(300):
            label = draw.choice(TASK.labels)
            row = {"body": f"label:{label} item {i}", "truth": label.upper(), "site": "ab"[i % 3 == 0]}
            file.write(json.dumps(row) + "\n")
    return root


def words(folder: Path, *more: str) -> tuple[str, ...]:
    values = tuple(f"--label-value={label.upper()}={label}" for label in TASK.labels)
    data = more[more.index("--data") + 1] if "--data" in more else str(folder / "rows.jsonl")
    rest = tuple(word for i, word in enumerate(more) if word != "--data" and more[i - 1] != "--data")
    where = ("--bundles", str(folder / "bundles"), "--data", data, "--field", "text=body", "--label", "truth")
    return ("eval", "run", "brand", "--bundle", (folder / "0.9.digest").read_text(), *where, *values, *rest)


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    rows = str(folder / "rows.jsonl")
    rival = (folder / "0.6.digest").read_text()
    code, found = said(
        *words(
            folder, "--rival", rival, "--train", rows, "--slice", "site", "--gateway-cases", "30", "--front", "grpcio"
        ),
        *("--tmax-ms", "5000"),
    )
    assert code == 0, found
    return found


def test_the_better_bundle_is_better_beyond_doubt(report: dict[str, Any]) -> None:
    assert report["models"]["bundle"]["accuracy"]["value"] == pytest.approx(0.9, abs=0.06)
    assert report["differences"]["rival"]["accuracy"]["low"] > 0
    assert report["differences"]["rival"]["log_loss"]["low"] > 0, "lower is better, so an advantage is positive"
    assert report["models"]["control"]["accuracy"]["value"] == 1, "the label is written in the text"


def test_slices_and_bins_hold_every_case_once(report: dict[str, Any]) -> None:
    assert [(s["value"], s["cases"]) for s in report["slices"]["site"]] == [("a", 200), ("b", 100)]
    assert sum(b["cases"] for b in report["calibration"]) == 300
    assert sum(map(sum, report["confusion"]["counts"])) == 300


def test_hostile_texts_are_slices_of_their_own_and_what_is_too_long_is_refused(report: dict[str, Any]) -> None:
    found = {one["change"]: one for one in report["robustness"]}
    assert {"homoglyphs", "injection", "long"} <= set(found) and "extreme" not in found, "a text has no absurd value"
    assert found["homoglyphs"]["cases"] == 100
    # The simulator reads the label in the text: written in look-alike letters, it is gone; in a longer text it is not.
    assert found["homoglyphs"]["metrics"]["accuracy"]["high"] < report["models"]["bundle"]["accuracy"]["low"]
    assert found["homoglyphs"]["decisions_changed"] > 0.2
    assert found["long"]["metrics"]["accuracy"]["value"] == pytest.approx(0.9, abs=0.1)
    assert report["gateway"]["oversize"] == {
        "bytes": 100_000,
        "cases": 10,
        "answered": 0,
        "refused": {"INVALID_ARGUMENT": 10},
    }


def test_what_callers_of_a_gateway_saw_is_in_the_report(report: dict[str, Any]) -> None:
    seen = report["gateway"]
    assert (seen["cases"], seen["decided_in_time"], seen["fallback_rate"]) == (30, 1.0, 0.0)
    assert seen["mean_cost"] == pytest.approx(seen["mean_cost_of_engine"])
    assert 0 < seen["latency_ms"]["p50"] <= seen["latency_ms"]["p99"] < 5000


def test_callers_in_a_hurry_get_fallbacks_and_their_cost_is_told(folder: Path) -> None:
    store = BundleStore(folder / "bundles")
    engine = {"backend": "simulator", "latency_us": 40_000}
    slow = store.add(task=TASK, engine=engine, contents={}, base={}, lineage={}).digest
    rows = (folder / "rows.jsonl").read_text().splitlines(keepends=True)
    (folder / "few.jsonl").write_text("".join(rows[:16]))
    given = words(folder, "--data", str(folder / "few.jsonl"))
    arguments = [slow if word.startswith("sha256:") else word for word in given]
    code, found = said(*arguments, "--tmax-ms", "4", "--gateway-cases", "8", "--front", "grpcio", "--rounds", "100")
    assert code == 0, found
    assert found["gateway"]["fallback_rate"] == 1.0 and found["gateway"]["decided_in_time"] == 0.0
    assert sum(found["gateway"]["fallbacks"].values()) == 8


def test_groups_judge_by_coarser_labels_and_leave_costs_out(folder: Path) -> None:
    groups = ("--group", "SAFE=safe", "--group", "UNSAFE=unsafe")
    arguments = [word for word in words(folder) if not word.startswith("--label-value")]
    code, found = said(*arguments, *groups, "--gateway-cases", "0", "--rounds", "100")
    assert code == 0, found
    assert found["models"]["bundle"]["f1[UNSAFE]"]["value"] > 0.8
    assert "mean_cost" not in found["models"]["bundle"]


def test_recorded_answers_of_another_model_stand_beside_the_bundle(folder: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    said_by_it = [
        {"id": i, "label": "who knows" if i == 1 else row["truth"].lower(), "latency_ms": 800 + i, "cost": 0.002}
        for i, row in enumerate(rows, 1)
    ]
    path = tmp_path / "large.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in said_by_it))
    few = ("--gateway-cases", "0", "--rounds", "100")
    code, found = said(*words(folder, *few), "--answers", f"large={path}")
    assert code == 0, found
    assert found["differences"]["large"]["accuracy"]["high"] < 0, "it read the label, the bundle is wrong in a tenth"
    about = found["recorded"]["large"]
    assert (about["failures"], about["cost_per_decision"]) == (1, pytest.approx(0.002))
    assert 800 < about["latency_ms"]["p50"] < about["latency_ms"]["p99"]
    path.write_text("".join(json.dumps(row) + "\n" for row in said_by_it[:-1]))
    code, found = said(*words(folder, *few), "--answers", f"large={path}")
    assert code == 2 and "no answer to 1 cases" in found["error"]["message"]


def test_people_see_intervals_slices_and_latency(folder: Path) -> None:
    code, text = interlock(*words(folder, "--slice", "site", "--gateway-cases", "0", "--rounds", "100"))
    assert code == 0
    for word in ("accuracy", "by site", "changed cases", "homoglyphs", "calibration", "p99 ms", "300 cases"):
        assert word in text


@pytest.mark.parametrize(
    ("more", "status", "complaint"),
    [
        (("--group", "x=safe"), "INVALID_ARGUMENT", "label 'unsafe' is in 0 groups"),
        (("--metric", "charm"), "INVALID_ARGUMENT", "metric is 'charm'"),
        (("--slice", "nowhere"), "INVALID_ARGUMENT", "column 'nowhere' is missing"),
        (("--data", "/nowhere/rows.csv"), "INVALID_ARGUMENT", "cannot be read"),
        (("--rival", "ffff"), "NOT_FOUND", "no bundle begins so"),
        (("--field", "text"), "INVALID_ARGUMENT", "expected NAME=VALUE"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_wrong_use_is_one_sentence(folder: Path, more: tuple[str, ...], status: str, complaint: str) -> None:
    code, found = said(*words(folder, *more))
    assert code in (1, 2)
    assert found["error"]["status"] == status and complaint in found["error"]["message"]


def test_a_bundle_of_another_specialist_is_refused(folder: Path) -> None:
    arguments = ["other" if word == "brand" else word for word in words(folder)]
    code, found = said(*arguments)
    assert (code, found["error"]["status"]) == (2, "INVALID_ARGUMENT")


def test_a_published_file_that_the_bundle_never_learned_from_is_refused_by_its_name(tmp_path: Path) -> None:
    made = BundleStore(tmp_path).add(
        task=load_pack("bid-shading").task, engine={"backend": "simulator"}, contents={}, base={}, lineage={}
    )
    path = tmp_path / "dev.jsonl"
    row = {"best_losing_ratio": 1.25, "winning_price": 1e6, "n_bids_total": 3, "country": "", "currency": "USD"}
    path.write_text(json.dumps(row) + "\n")
    code, found = said(
        "eval", "run", "bid-shading", "--bundle", made.digest, "--bundles", str(tmp_path), "--data", str(path)
    )
    assert code == 2
    message = found["error"]["message"]
    assert message.startswith(f"{path} holds no row") and "column 'floor_share' is missing" in message
    assert message.endswith("the file is of bids-first-price-worldbank, expected a bundle that learned from that set")


@pytest.fixture
def messages(tmp_path: Path) -> tuple[str, ...]:
    """A published set's file and a bundle of its task, as words of a command."""
    one = next(one for one in load_pack("fraud").sets if one.name == "fraud-sms-spam")
    made = BundleStore(tmp_path).add(task=one.task, engine={"backend": "simulator"}, contents={}, base={}, lineage={})
    rows = [
        {"id": i, "text": f"label:{'fraud' if i % 3 else 'legitimate'} {i}", "label": "spam" if i % 3 else "ham"}
        for i in range(60)
    ]
    (tmp_path / "sms.jsonl").write_text("".join(json.dumps(row | {"net": "ab"[row["id"] % 2]}) + "\n" for row in rows))
    where = ("--bundles", str(tmp_path), "--data", str(tmp_path / "sms.jsonl"))
    few = ("--rounds", "100", "--gateway-cases", "0", "--robustness-cases", "0")
    return ("eval", "run", "fraud", "--bundle", made.digest, *where, *few)


def test_a_published_set_is_known_by_its_columns_whatever_slices_it_is_cut_into(messages: tuple[str, ...]) -> None:
    code, found = said(*messages, "--slice", "net", "--name", "id")
    assert code == 0, found
    assert found["data"]["set"] == "fraud-sms-spam"
    assert {one["value"] for one in found["slices"]["net"]} == {"a", "b"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--answers", "large=/nowhere/large.jsonl"), "large.jsonl cannot be read: No such file or directory"),
        (("--train", "/nowhere/train.jsonl"), "train.jsonl cannot be read: No such file or directory"),
        (("--group", "all=legit,fraud"), "group label is 'legit', expected one of legitimate, fraud"),
    ],
    ids=["answers", "train", "group"],
)
def test_a_published_sets_name_is_blamed_for_nothing_else(
    messages: tuple[str, ...], more: tuple[str, ...], expected: str
) -> None:
    code, found = said(*messages, *more)
    assert code == 2 and found["error"]["message"].endswith(expected)


def test_whole_notes_are_held_to_those_that_people_wrote(tmp_path: Path) -> None:
    pack = load_pack("clinical-note")
    fitted = fit(pack.task, pack.training_set(400, 1), pack.held_out(100, 2), seed=1, analysers=pack.analysers)
    digest = fitted.export(pack.task, BundleStore(tmp_path), {"author": "trainer"})
    small_talk = "Doctor: let me just close the door\nPatient: thank you doctor, see you next time"
    visit = small_talk + "\nDoctor: what are you taking?\nPatient: {}"
    said_by_them = ("warfarin 10 milligrams every morning.", "metformin 500 milligrams every morning.")
    rows = [{"id": i, "dialogue": visit.format(one), "note": one, "sections": {}} for i, one in enumerate(said_by_them)]
    path = tmp_path / "dev.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ("eval", "run", "clinical-note", "--bundle", digest, "--bundles", str(tmp_path), "--data", str(path))
    code, found = said(*asked, "--gateway-cases", "0", "--rounds", "100")
    assert code == 0, found
    assert (found["data"]["cases"], found["data"]["sentences"]) == (2, 8)
    ours, control = found["models"]["bundle"], found["models"]["control"]
    assert ours["critical_recall"]["value"] == 1.0 and ours["rouge1"]["value"] > control["rouge1"]["value"] > 0.3
    assert found["differences"]["control"]["rouge1"]["low"] > 0
    code, found = said(*asked, "--train", str(path))
    assert code == 2 and "train is given" in found["error"]["message"]
    path.write_text(json.dumps({**rows[0], "note": ""}) + "\n")
    code, found = said(*asked)
    assert code == 2 and "row 1: column 'note' is '', expected text" in found["error"]["message"]


def test_every_metric_is_listed_with_its_direction() -> None:
    code, found = said("eval", "metrics")
    assert code == 0
    better = {one["name"]: one["higher_is_better"] for one in found}
    assert better["accuracy"] and not better["mean_cost"] and "recall_at_fpr[RATE]" in better
