"""A published file becomes a specialist's folder, and that a specialist that a deployment serves."""

import asyncio
import csv
import gzip
import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from controlplane.packs.adopt import MOST_ROWS
from controlplane.packs.published import PublishedSet
from controlplane.packs.registry import FOLDERS, Pack, load_pack, published_set
from protos import decide_pb2, decide_pb2_grpc
from tests.controlplane.cli.fake import said
from tests.controlplane.deployment import Deployment
from tests.controlplane.ready import Ready

DATA = Path(__file__).parents[4] / "shared" / "data"
SETS = [(name, one) for name in FOLDERS for one in load_pack(name).sets]


def set_of(name: str) -> PublishedSet:
    return next(one for _, one in SETS if one.name == name)


def table(path: Path, name: str, rows: int) -> Path:
    """Write a file of a set whose fields are told apart by its labels."""
    one, draw = set_of(name), random.Random(1)
    spelt = {label: value for value, label in one.columns.labels.items()}
    columns = dict.fromkeys([*one.needs, *one.columns.slices, *one.columns.bands], "1")
    with gzip.open(path, "wt", newline="") as file:
        writer: Any = None
        for i in range(rows):
            label = one.task.labels[i % 2]
            row: dict[str, Any] = dict(columns)
            for field in one.task.fields:
                row[field.name] = (
                    f"{label} {draw.random():.12f}" if field.kind == "text" else i % 2 * 5 + draw.randrange(9)
                )
            row |= {one.columns.label: spelt[label]} | (
                {one.columns.weight: 9 - 8 * (i % 2)} if one.columns.weight else {}
            )
            writer = writer or csv.DictWriter(file, row)
            if i == 0:
                writer.writeheader()
            writer.writerow(row)
    return path


def adopted(data: Path, root: Path, *more: str) -> tuple[str, Pack]:
    code, made = said("specialist", "init", "mine", "--from", str(data), "--into", str(root), *more)
    assert code == 0, made
    return f"{made['folder']}/", load_pack(f"{made['folder']}/")


@pytest.mark.skipif(not DATA.is_dir(), reason="the published sets are not on this machine")
@pytest.mark.parametrize(("name", "one"), SETS, ids=[one.name for _, one in SETS])
def test_task_columns_and_importer_are_the_sets_own(name: str, one: PublishedSet, tmp_path: Path) -> None:
    source = next((DATA / one.name).glob("dev.*"))
    data = tmp_path / source.name.removesuffix(".gz")
    data.write_bytes(b"".join(gzip.decompress(source.read_bytes()).splitlines(keepends=True)[:400]))
    if one.groups:
        code, refused = said("specialist", "init", "mine", "--from", str(data), "--into", str(tmp_path))
        assert code == 2 and "whose labels only judge" in refused["error"]["message"]
        assert not (tmp_path / "mine").exists()
        return
    folder, pack = adopted(data, tmp_path)
    assert {**pack.task.to_json(), "name": one.task.name} == one.task.to_json()
    assert (pack.trainer, pack.analysers) == (load_pack(name).trainer, one.analysers)
    (known,) = pack.sets
    assert (known.task, known.columns, known.is_balanced, known.metrics) == (
        pack.task,
        one.columns,
        one.is_balanced,
        one.metrics,
    )
    assert (known.prepare is None) == (one.prepare is None)
    same = published_set(folder, data)
    assert same is not None and same.name == one.name
    assert {example.label for example in pack.training_set(400, 1)} <= set(one.task.labels)
    # Nothing that is judged on is learned from, nor is it in live traffic.
    live = itertools.islice(pack.stream(1, 0.5), 300)
    free = {e.text for e in [*pack.training_set(400, 1), *pack.shifted(400, 1), *live]}
    assert free and not free & {e.text for e in [*pack.held_out(400, 1), *pack.held_out_shifted(400, 1)]}


def test_rows_that_weigh_are_drawn_once_with_their_weight_and_come_live_as_often_as_they_stand_for(
    tmp_path: Path,
) -> None:
    _, pack = adopted(table(tmp_path / "cards.csv.gz", "fraud-card-ulb", 200), tmp_path)
    drawn = pack.training_set(1000, 1)
    assert len(drawn) == len({example.text for example in drawn}) < 200
    assert {(example.label, example.weight) for example in drawn} == {("legitimate", 9.0), ("fraud", 1.0)}
    live = Counter(example.label for example in itertools.islice(pack.stream(1, 0.2), 2000))
    assert 0.85 < live["legitimate"] / live.total() < 0.95


def test_of_a_long_file_as_many_rows_are_kept_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    folder, _ = adopted(table(tmp_path / "long.csv.gz", "mfa-content-farm-domains", MOST_ROWS + 701), tmp_path)
    with gzip.open(f"{folder}/cases.jsonl.gz", "rt") as file:
        kept = [json.loads(line) for line in file]
    with gzip.open(tmp_path / "long.csv.gz", "rt", newline="") as file:
        places = {row["domain"]: place for place, row in enumerate(csv.DictReader(file))}
    found = [places[row["domain"]] for row in kept]
    assert len(found) == MOST_ROWS and found == sorted(set(found))
    assert found[0] < 2 and found[-1] == MOST_ROWS + 700


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("text,label\nhello,safe\n", "has not the columns of any published set, expected one of brand-safety-hate"),
        ("domain,tld,first_seen,label\na.example,example,1,legit\n", "has 1 cases that differ, expected enough"),
        ("domain,tld,first_seen,label\na.example,example,1,odd\n", "holds no row that can be used"),
    ],
    ids=["no set", "too few", "no label"],
)
def test_a_file_that_makes_no_specialist_is_refused_and_leaves_no_folder(
    text: str, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.csv").write_text(text)
    code, refused = said("specialist", "init", "mine", "--from", str(tmp_path / "mine.csv"), "--into", str(tmp_path))
    assert code == 2 and complaint in refused["error"]["message"]
    assert refused["error"]["message"].startswith(str(tmp_path / "mine.csv"))
    assert not (tmp_path / "mine").exists()


def test_a_published_table_is_trained_rolled_out_and_answers_at_the_gateway(ready: Ready, tmp_path: Path) -> None:
    data = table(tmp_path / "loans.csv.gz", "credit-german", 400)
    folder, pack = adopted(data, tmp_path / "packs")

    async def story(deployment: Deployment) -> None:
        store, artifacts = str(deployment.store.root), str(deployment.root / "artifacts")
        train = ("bundle", "train", folder, "--data", str(data), "--author", "trainer", "--store", store)
        code, made = await asyncio.to_thread(said, *train, "--artifacts", artifacts)
        assert code == 0, made
        control = ("--control", f"127.0.0.1:{deployment.ports['control']}")
        code, started = await asyncio.to_thread(said, *made["next"]["submit"].split()[1:], *control)
        assert code == 0, started
        await deployment.rollout(started["id"], lambda r: r.needs_approval_for == "bootstrap")
        await deployment.approve(started["id"])
        await deployment.in_force()
        answers = await asked(deployment, pack)
        assert {answer.bundle_digest for answer in answers} == {made["bundle"]}
        assert {answer.decision for answer in answers} == {"approve", "decline"}

    ready.run(tmp_path / "deployment", story, f"\n[[controlplane.specialists]]\npack = {json.dumps(folder)}\n")


async def asked(deployment: Deployment, pack: Pack) -> list[decide_pb2.DecideResponse]:
    """Ask the gateway what is held out."""
    from controlplane.evals.inputs import input_of

    async with grpc.aio.insecure_channel(f"127.0.0.1:{deployment.ports['gateway']}") as channel:
        stub = decide_pb2_grpc.DecisionServiceStub(channel)
        return [
            await stub.Decide(
                decide_pb2.DecideRequest(
                    specialist="mine", input=input_of(pack.task, example.text), routing_key=example.text[:200]
                ),
                timeout=60,
                wait_for_ready=True,
            )
            for example in pack.held_out(20, 3)
        ]
