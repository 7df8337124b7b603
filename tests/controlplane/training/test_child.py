"""The training child, run as its parent runs it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from controlplane.packs.registry import load_pack
from controlplane.training.dataset import write_dataset
from protos.contract.bundle import BundleStore

ZERO = "sha256:" + "0" * 64


def config(tmp_path: Path) -> dict[str, Any]:
    pack = load_pack("brand-safety")
    write_dataset(tmp_path / "train.jsonl", pack.training_set(120, 1))
    write_dataset(tmp_path / "dev.jsonl", pack.training_set(40, 2))
    return {
        "specialist": "brand-safety",
        "pack": "brand-safety",
        "data": None,
        "task": pack.task.to_json(),
        "train_file": str(tmp_path / "train.jsonl"),
        "dev_file": str(tmp_path / "dev.jsonl"),
        "bundles_dir": str(tmp_path / "bundles"),
        "seed": 3,
        "epochs": 1,
        "max_seconds": 80,
        "threads": 2,
        "author": "alice",
        "parent": None,
        "dataset_digest": ZERO,
        "suite_digest": ZERO,
    }


def run(path: Path, value: Any, *, close: bool = False) -> tuple[int, list[dict[str, Any]]]:
    path.write_text(json.dumps(value))
    child = subprocess.Popen(
        [sys.executable, "-m", "controlplane.training", "--config", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin and child.stdout
    if close:
        child.stdin.close()
    lines = [json.loads(line) for line in child.stdout]
    return child.wait(60), lines


def test_a_tiny_training_makes_a_bundle_that_verifies(tmp_path: Path) -> None:
    status, events = run(tmp_path / "c.json", config(tmp_path))
    assert (status, events[-1]["event"]) == (0, "done"), events[-1]
    result = events[-1]["result"]
    bundle = BundleStore(tmp_path / "bundles").load(result["bundle_digest"])
    assert bundle.manifest.author == "alice"
    assert bundle.manifest.backend == "openvino"
    assert {"model.xml", "model.bin", "tokenizer.json", "head.json", "classifier.safetensors"} <= set(bundle.contents)
    assert {"adapter/adapter_model.safetensors", "adapter/adapter_config.json"} <= set(bundle.contents)
    assert result["steps"] == len(result["losses"])
    fractions = [event["fraction"] for event in events[:-1]]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"surplus": 1}, "unknown fields: surplus"),
        ({"epochs": 0}, "config.epochs is 0"),
        ({"parent": "latest"}, "config.parent is 'latest'"),
        ({"specialist": "other"}, "config.specialist is 'other'"),
        ({"train_file": "/nowhere/x.jsonl"}, "No such file"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_wrong_configuration_fails_with_the_field_named(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    status, events = run(tmp_path / "c.json", config(tmp_path) | change)
    assert status == 1
    assert events[-1]["event"] == "failed"
    assert complaint in events[-1]["error"]


def test_a_child_whose_parent_is_gone_stops(tmp_path: Path) -> None:
    status, events = run(tmp_path / "c.json", config(tmp_path), close=True)
    assert status == 3
    assert all(event["event"] == "progress" for event in events)
