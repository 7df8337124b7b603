import gzip
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.evals.run import evaluate
from controlplane.packs.labelled_file import LabelledFileInvalid, LabelledFilePack, read_labelled
from controlplane.packs.published import PublishedSet
from controlplane.packs.registry import FOLDERS, PackUnknown, load_pack
from controlplane.training.additive import fit
from controlplane.training.dataset import text_key
from protos.contract.bundle import BundleStore

TEMPLATE = Path(__file__).parents[3] / "controlplane/packs/template"
DAVIDSON = Path(__file__).parents[4] / "shared/data/brand-safety-hate-davidson/train.jsonl.gz"


def test_held_out_texts_never_occur_in_training_or_live_traffic() -> None:
    pack = load_pack("brand-safety")
    live = itertools.islice(pack.stream(1, 0.5), 2000)
    open_keys = {text_key(e.text) for e in [*pack.training_set(1000, 1), *pack.shifted(500, 1), *live]}
    closed = {text_key(e.text) for e in [*pack.held_out(500, 2), *pack.held_out_shifted(500, 2)]}
    assert not open_keys & closed


def test_the_wave_comes_only_when_asked_for() -> None:
    pack = load_pack("brand-safety")
    shares = {}
    for shift in (0.0, 0.5, 1.0):
        live = itertools.islice(pack.stream(4, shift), 1000)
        shares[shift] = sum(e.slice.startswith("wave") for e in live) / 1000
    assert shares[0.0] == 0
    assert 0.45 < shares[0.5] < 0.55
    assert shares[1.0] == 1


def test_the_same_seed_draws_the_same_texts() -> None:
    pack = load_pack("brand-safety")
    assert pack.training_set(50, 1) == load_pack("brand-safety").training_set(50, 1) != pack.training_set(50, 2)


@pytest.mark.parametrize(("name", "data"), [("nope", None), ("labelled-file", None), ("brand-safety", Path("x"))])
def test_a_pack_asked_for_wrongly_is_refused(name: str, data: Path | None) -> None:
    with pytest.raises(PackUnknown):
        load_pack(name, data)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"text": "a"}', "line 2 column label: None"),
        ('{"text": 5, "label": "a"}', "line 2 column text: 5"),
        ("[]", "line 2: expected an object"),
        ("{", "line 2: not JSON"),
    ],
    ids=["label", "text", "list", "json"],
)
def test_a_labelled_file_is_refused_by_line_and_column(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "x", "label": "a"}\n' + line + "\n")
    with pytest.raises(LabelledFileInvalid, match=complaint):
        read_labelled(tmp_path / "d.jsonl")


def test_a_file_that_is_not_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl.gz").write_bytes(b"plain")
    with pytest.raises(LabelledFileInvalid, match="cannot be read"):
        read_labelled(tmp_path / "d.jsonl.gz")


def labelled(path: Path) -> Path:
    examples = load_pack("brand-safety").training_set(900, 3)
    rows = "".join(json.dumps({"text": e.text, "label": e.label}) + "\n" for e in examples)
    path.write_bytes(gzip.compress(rows.encode()))
    return path


def test_a_labelled_file_keeps_its_wave_and_held_out_rows_apart(tmp_path: Path) -> None:
    assert_pools_are_apart(LabelledFilePack(labelled(tmp_path / "d.jsonl.gz")))


def test_anybodys_texts_are_judged_by_what_no_label_can_depend_on(tmp_path: Path) -> None:
    pack = LabelledFilePack(labelled(tmp_path / "d.jsonl.gz"))
    fitted = fit(pack.task, pack.training_set(400, 1), pack.held_out(60, 9), seed=1)
    bundle = fitted.export(pack.task, BundleStore(tmp_path / "bundles"), {"author": "trainer"})
    cases = pack.held_out(60, 1)
    found = evaluate(pack.task, pack.suite, {"core": cases}, cases, bundle, None, tmp_path / "bundles", is_partial=True)
    changes = ("spacing", "homoglyphs", "upper_case", "lower_case", "injection", "long")
    gates = {change: gate for change in changes for gate in found.gates if gate.text.startswith(f"core {change}:")}
    assert tuple(gates) == changes and all(gate.passed for gate in gates.values())
    (kept,) = (gate for gate in found.gates if "15 hostile inputs" in gate.text)
    assert kept.passed


@pytest.mark.skipif(not DAVIDSON.is_file(), reason="the shared data set is not here")
def test_a_real_labelled_file_loads() -> None:
    pack = LabelledFilePack(DAVIDSON)
    assert pack.task.score_label == "hate"
    assert pack.task.fallback_decision == "offensive"
    assert_pools_are_apart(pack)


def assert_pools_are_apart(pack: LabelledFilePack) -> None:
    n = 100_000
    pools = [pack.training_set(n, 1), pack.held_out(n, 1), pack.shifted(n, 1), pack.held_out_shifted(n, 1)]
    pools.append(list(itertools.islice(pack.stream(1, 0.0), 500)))
    keys = [{text_key(e.text) for e in pool} for pool in pools]
    assert all(not a & b for a, b in itertools.combinations(keys, 2))
    assert keys[2] >= {text_key(e.text) for e in itertools.islice(pack.stream(1, 1.0), 200)}


def test_every_pack_stands_alone_in_a_process_that_loaded_nothing_before(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(TEMPLATE, mine)
    suite = (mine / "suite.toml").read_text()
    (mine / "suite.toml").write_text(suite.replace('metric = "auc"', 'metric = "gini"'))  # which another pack brings
    assert suite != (mine / "suite.toml").read_text()
    names = ", ".join(map(repr, (*FOLDERS, f"{mine}/")))
    # Each first in a process of its own: what one pack imports must not be what another one lacks.
    code = (
        "import os, sys\n"
        f"for name in ({names}):\n"
        "    if os.fork() == 0:\n"
        "        from controlplane.packs.registry import load_pack\n"
        "        os._exit(0 if load_pack(name).suite.gates else 1)\n"
        "    sys.exit(name) if os.wait()[1] else None\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_a_set_with_labels_of_its_own_may_say_what_missing_each_costs() -> None:
    task = load_pack("brand-safety").task
    cost = [[0, 0.5, 0.5], [0.2, 0, 0.2], [1, 1, 0]]
    of_its_own = {"name": "s", "label": "label", "needs": ["text"], "metrics": ["accuracy"], "published": {}}
    labels = {"labels": ["neither", "offensive", "hate"]}
    found = PublishedSet.from_json({**of_its_own, "task": {**labels, "cost": cost}}, task, "set")
    assert [list(row) for row in found.task.cost] == cost
    plain = PublishedSet.from_json({**of_its_own, "task": labels}, task, "set")
    assert [list(row) for row in plain.task.cost] == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
