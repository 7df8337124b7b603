"""A pack of numbers and texts through the children that the loop runs: trained, evaluated by its own metrics."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from controlplane.packs.registry import load_pack
from controlplane.training.dataset import write_dataset
from protos.contract.bundle import BundleStore

ZERO = "sha256:" + "0" * 64


def run(module: str, path: Path, config: dict[str, Any]) -> dict[str, Any]:
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", module, "--foreground", "--config", str(path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin and child.stdout
    with child:
        last = json.loads(child.stdout.read().splitlines()[-1])
    assert last["event"] == "done", last
    result: dict[str, Any] = last["result"]
    return result


def test_a_pack_is_trained_and_judged_by_its_own_suite(tmp_path: Path) -> None:
    name = "credit-risk"
    pack = load_pack(name)
    parts = {"core": pack.held_out(80, 1), "shifted": pack.held_out_shifted(80, 1)}
    files = {part: tmp_path / f"{part}.jsonl" for part in parts}
    for part, path in files.items():
        write_dataset(path, parts[part])
    dataset = write_dataset(tmp_path / "train.jsonl", pack.training_set(500, 1))
    write_dataset(tmp_path / "dev.jsonl", pack.held_out(60, 2))
    trained = run(
        "controlplane.training",
        tmp_path / "training.json",
        {
            "specialist": name,
            "pack": name,
            "data": None,
            "trainer": pack.trainer,
            "analysers": dict(pack.analysers),
            "task": pack.task.to_json(),
            "train_file": str(tmp_path / "train.jsonl"),
            "dev_file": str(tmp_path / "dev.jsonl"),
            "bundles_dir": str(tmp_path / "bundles"),
            "max_seconds": 200,
            "author": "alice",
            "parent": None,
            "dataset_digest": dataset,
            "suite_digest": pack.suite.digest,
        },
    )
    digest = trained["bundle_digest"]
    manifest = BundleStore(tmp_path / "bundles").load(digest).manifest
    assert (manifest.backend, manifest.author, manifest.lineage["dataset"]) == ("additive", "alice", dataset)
    judged = run(
        "controlplane.evals",
        tmp_path / "evaluation.json",
        {
            "task": pack.task.to_json(),
            "suite": pack.suite.to_json(),
            "expected_suite_digest": pack.suite.digest,
            "parts": {part: str(path) for part, path in files.items()},
            "train_file": str(tmp_path / "train.jsonl"),
            "candidate": digest,
            "primary": None,
            "cause": "operator",
            "bundles_dir": str(tmp_path / "bundles"),
            "out_file": str(tmp_path / "out.json"),
        },
    )
    found = {gate["text"]: gate["found"] for gate in judged["gates"] if gate["passed"] is not None}
    assert any("approval_rate" in text for text in found) and None not in found.values()
