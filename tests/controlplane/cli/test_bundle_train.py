"""``interlock bundle train`` as it is typed: from somebody's file to a bundle that is measured."""

import csv
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from controlplane.evals.inputs import input_of
from controlplane.packs.registry import load_pack
from controlplane.store.artifacts import Artifacts
from controlplane.training.dataset import read_dataset
from controlplane.training.on_file import FileTraining, prepare
from protos.contract.bundle import BundleStore
from protos.contract.digest import digest_bytes
from tests.controlplane.cli.fake import interlock, said

HELD_OUT = 30


def rows_of(pack: Any, examples: Any) -> list[dict[str, Any]]:
    found = []
    for example in examples:
        given = input_of(pack.task, example.text)
        found.append({n: getattr(v, v.WhichOneof("kind")) for n, v in given.fields.items()} | {"is_bad": example.label})
    return found


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A specialist of somebody's own, and a file of its cases, some of which its suite holds out."""
    root = tmp_path_factory.mktemp("own")
    assert interlock("specialist", "init", "refund-abuse", "--into", str(root))[0] == 0
    pack = load_pack(f"{root}/refund-abuse")
    held_out = pack.held_out(HELD_OUT, 1)
    write(root / "cases.csv.gz", rows_of(pack, [*pack.training_set(200, 5), *held_out]))
    return root


def words(folder: Path, *more: str) -> tuple[str, ...]:
    where = ("--data", str(folder / "cases.csv.gz"), "--label", "is_bad", "--author", "ann", "--seed", "3")
    kept = ("--store", str(folder / "bundles"), "--artifacts", str(folder / "artifacts"))
    return ("bundle", "train", f"{folder}/refund-abuse", *where, *kept, *more)


def test_a_labelled_file_becomes_a_measured_bundle_that_names_what_it_learned_from(folder: Path) -> None:
    keep = folder / "kept"
    code, found = said(*words(folder, "--keep", str(keep)))
    assert code == 0, found
    assert set(found["models"]) == {"bundle", "control"} and found["models"]["bundle"]["auc"]["value"] > 0.9
    assert found["judged"]["cases"] == (200 + HELD_OUT) // 5
    lineage = BundleStore(folder / "bundles").load(found["bundle"]).manifest.lineage
    pack = load_pack(f"{folder}/refund-abuse")
    assert (lineage["author"], lineage["suite"], lineage["recipe"]["seed"]) == ("ann", pack.suite.digest, 3)
    kept = Artifacts(folder / "artifacts")
    assert 0 < json.loads(kept.get(lineage["data_manifest"]))["exact"] == found["data"]["exact"] <= HELD_OUT
    assert digest_bytes(kept.get(lineage["dataset"])) == found["data"]["rows_file"]
    learned = {row.text for row in read_dataset(keep / "train.jsonl")}
    assert not learned & {example.text for example in pack.held_out(HELD_OUT, 1)}
    judged = [json.loads(line) for line in (keep / "judged.jsonl").read_text().splitlines()]
    assert not {row["text"] for row in judged} & {line for text in learned for line in text.splitlines()}
    assert found["next"]["submit"] == f"interlock rollout start refund-abuse {found['bundle']} --as ann"
    assert found["next"]["measure"].endswith(f"--data {keep / 'judged.jsonl'}")
    assert said(*words(folder, "--keep", str(keep)))[1]["error"]["status"] == "FAILED_PRECONDITION"


def changed(rows: list[dict[str, Any]], how: str) -> list[dict[str, Any]]:
    match how:
        case "label":
            rows[3]["is_bad"] = "weird"
        case "number":
            rows[2]["amount"] = "12x"
        case "column":
            rows = [{k: v for k, v in row.items() if k != "amount"} for row in rows]
        case "one":
            rows = [row for row in rows if row["is_bad"] == "ordinary"]
        case _:
            rows = rows[:15]
    return rows


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("label", "row 4: column 'is_bad' is 'weird', expected one of ordinary, unusual"),
        ("number", "row 3: column 'amount' is '12x', expected a finite number"),
        ("column", "row 1: column 'amount' is missing, expected among text, is_bad"),
        ("one", "column 'is_bad' is always 'ordinary', expected at least two of ordinary, unusual"),
        ("few", "leaves 11 rows to learn from, expected at least 20"),
    ],
)
def test_a_file_that_teaches_nothing_is_refused_by_row_and_column(folder: Path, how: str, complaint: str) -> None:
    with gzip.open(folder / "cases.csv.gz", "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    path = write(folder / f"{how}.csv.gz", changed(rows, how))
    code, found = said(*words(folder, "--data", str(path)))
    assert (code, found["error"]["status"]) == (2, "INVALID_ARGUMENT")
    assert found["error"]["message"].startswith(str(path)) and complaint in found["error"]["message"]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (("--trainer", "magic"), "--trainer is 'magic', expected one of encoder, additive, trees"),
        (("--recipe", "rank=huge"), "recipe.rank is 'huge', expected a whole number from 1 to 256"),
        (("--dev", "/nowhere.csv"), "/nowhere.csv cannot be read"),
        (("--author", " "), "--author is ' ', expected who makes it"),
        (("--label-value", "ordinary=normal"), " is 'ordinary', taken for 'normal', expected one of ordinary, unusual"),
    ],
)
def test_wrong_use_is_one_sentence(folder: Path, more: tuple[str, ...], complaint: str) -> None:
    code, found = said(*words(folder, *more))
    assert code == 2 and complaint in found["error"]["message"]


def test_a_published_file_is_read_as_it_is_and_cases_that_weigh_keep_their_weight(tmp_path: Path) -> None:
    draw, pack = random.Random(1), load_pack("fraud")
    one = next(one for one in pack.sets if one.columns.weight)
    rows = [
        {field.name: round(draw.random() + i, 4) for field in one.task.fields}
        | {"Class": i % 2, "weight": (56.65, 1.0)[i % 2]}
        for i in range(100)
    ]
    asked = FileTraining(
        source=one,
        data=write(tmp_path / "cards.csv.gz", rows),
        bundles=tmp_path / "bundles",
        author="ann",
        pack="fraud",
        trainer="trees",
        suite=pack.suite.digest,
    )
    made = prepare(asked, tmp_path / "work")
    assert (made.manifest.rows, made.config["dev_file"]) == (80, None), (
        "what the rare ones stand for is all learned from"
    )
    assert {(row.label, row.weight) for row in read_dataset(made.rows)} == {("legitimate", 56.65), ("fraud", 1.0)}
    assert len(made.learned.read_text().splitlines()) == 80 and len(made.judged.read_text().splitlines()) == 20
