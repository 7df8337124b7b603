"""The training child, run as its parent runs it."""

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from controlplane.evals.engine import Engine
from controlplane.packs.example import Example
from controlplane.packs.registry import load_pack
from controlplane.training.dataset import read_dataset, write_dataset
from controlplane.training.limits import is_out_of_memory
from protos.contract.bundle import BundleStore
from protos.contract.head import HEAD, Head
from tests.gateway.worker.tiny_models import DECODER_TASK, write_base

ZERO = "sha256:" + "0" * 64
TINY = {"epochs": 1, "threads": 1, "batch": 8, "checks": 2, "seed": 3}


def config(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """A tiny decoder learning which of two words is in a text: seconds, not minutes."""
    base = tmp_path / "base"
    if not base.exists():
        write_base(base, "llama")
        rows = [
            Example(f"{'fresh news' if i % 2 else 'knock twice'} {i}", ("unsafe", "safe")[i % 2]) for i in range(160)
        ]
        write_dataset(tmp_path / "train.jsonl", rows[40:])
        write_dataset(tmp_path / "dev.jsonl", rows[:40])
    return {
        "specialist": DECODER_TASK.name,
        "pack": "test",
        "data": None,
        "task": DECODER_TASK.to_json(),
        "train_file": str(tmp_path / "train.jsonl"),
        "dev_file": str(tmp_path / "dev.jsonl"),
        "bundles_dir": str(tmp_path / "bundles"),
        "base": str(base),
        "recipe": {**TINY, "epochs": 4, "rank": 4},
        "search": {"rates": [1e-6, 0.01], "ranks": [4], "epochs": [4], "budget_steps": 40},
        "max_seconds": 200,
        "author": "alice",
        "parent": None,
        "dataset_digest": ZERO,
        "suite_digest": ZERO,
        **changes,
    }


HERE = ("controlplane.training", "--foreground")
ON_RAY = ("controlplane.training.on_ray", "--address", "local")


def start(path: Path, value: Any, module: tuple[str, ...] = HERE) -> subprocess.Popen[str]:
    path.write_text(json.dumps(value))
    return subprocess.Popen(
        [sys.executable, "-m", *module, "--config", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def run(
    path: Path, value: Any, *, module: tuple[str, ...] = HERE, close: bool = False
) -> tuple[int, list[dict[str, Any]]]:
    child = start(path, value, module)
    assert child.stdin and child.stdout
    if close:
        child.stdin.close()
    lines = [json.loads(line) for line in child.stdout]
    return child.wait(120), lines


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One training that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    status, events = run(folder / "c.json", config(folder))
    assert (status, events[-1]["event"]) == (0, "done"), events[-1]
    return folder, events[-1]["result"]


def test_a_decoder_learns_its_label_tokens_and_a_real_worker_serves_the_bundle(
    whole: tuple[Path, dict[str, Any]],
) -> None:
    folder, result = whole
    bundle = BundleStore(folder / "bundles").load(result["bundle_digest"])
    assert bundle.manifest.backend == "transformers" and bundle.manifest.author == "alice"
    assert result["dev_accuracy"] > 0.95
    # 40 rows a look at a third of the cost of a row trained on: a tenth of the work, and one look more at the end.
    assert 40 * (len(result["looks"]) - 1) <= 0.3 * TINY["batch"] * result["steps"]
    with Engine(folder / "bundles") as worker:
        worker.load(result["bundle_digest"])
        prompts = ["fresh news 500", "knock twice 501"]
        found = worker.score(result["bundle_digest"], prompts)
    assert [DECODER_TASK.labels[i] for i in found.probabilities.argmax(1)] == ["safe", "unsafe"]


def test_the_same_seed_gives_the_same_bundle_also_after_a_kill(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, expected = whole
    again = config(
        folder, bundles_dir=str(tmp_path / "bundles"), checkpoint_dir=str(tmp_path / "c"), checkpoint_every=5
    )
    child = start(tmp_path / "c.json", again)
    assert child.stdout
    for line in child.stdout:
        if (tmp_path / "c").exists() and json.loads(line)["message"].startswith("step 3"):
            child.send_signal(signal.SIGKILL)
            break
    assert child.wait(60) == -signal.SIGKILL
    status, events = run(tmp_path / "c.json", again)
    assert status == 0, events[-1]
    result = events[-1]["result"]
    assert result["resumed_at"] >= 5, "it went on from a checkpoint instead of starting over"
    assert result["losses"] == expected["losses"] and result["looks"] == expected["looks"]
    assert result["bundle_digest"] == expected["bundle_digest"]
    assert not (tmp_path / "c").exists(), "a finished training leaves no checkpoint"


@pytest.mark.skipif(find_spec("ray") is None, reason="the extra 'ray' is not installed")
def test_a_training_on_a_one_machine_ray_cluster_brings_home_the_bundle_made_here(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, expected = whole
    given = config(folder, bundles_dir=str(tmp_path / "bundles"))
    status, events = run(tmp_path / "c.json", given, module=ON_RAY)
    assert (status, [event["event"] for event in events][-2:]) == (0, ["progress", "done"]), events[-1]
    assert events[-1]["result"]["executor"] == "ray"
    assert events[-1]["result"]["bundle_digest"] == expected["bundle_digest"]
    assert BundleStore(tmp_path / "bundles").load(expected["bundle_digest"]).manifest.author == "alice"


def test_a_training_is_told_with_its_curve_and_everything_it_was_made_by(whole: tuple[Path, dict[str, Any]]) -> None:
    _, result = whole
    assert result["steps"] == len(result["losses"]) and result["losses"][-1] < result["losses"][0]
    assert [look["step"] for look in result["looks"]][-1] == result["steps"]
    assert {"code", "libraries", "processor", "memory_mb", "seed", "key"} <= set(result["provenance"])


def test_an_encoder_is_merged_converted_and_verifies(tmp_path: Path) -> None:
    pack = load_pack("brand-safety")
    given = {
        **config(tmp_path),
        "search": {},
        "specialist": "brand-safety",
        "task": pack.task.to_json(),
        "base": "minilm",
    }
    write_dataset(tmp_path / "train.jsonl", pack.training_set(48, 1))
    write_dataset(tmp_path / "dev.jsonl", pack.training_set(16, 2))
    status, events = run(tmp_path / "c.json", {**given, "recipe": {**TINY, "batch": 16}})
    assert (status, events[-1]["event"]) == (0, "done"), events[-1]
    bundle = BundleStore(tmp_path / "bundles").load(events[-1]["result"]["bundle_digest"])
    assert bundle.manifest.backend == "openvino"
    assert {"model.xml", "model.bin", "tokenizer.json", "head.json", "classifier.safetensors"} <= set(bundle.contents)
    assert {"adapter/adapter_model.safetensors", "adapter/adapter_config.json"} <= set(bundle.contents)
    fractions = [event["fraction"] for event in events[:-1]]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


@pytest.mark.parametrize("weight", [1.0, 9.0])
def test_cases_that_weigh_are_not_calibrated_on(weight: float, tmp_path: Path) -> None:
    given = config(tmp_path) | {"trainer": "additive", "search": {}}
    rows = [Example(row.text, row.label, weight=weight) for row in read_dataset(Path(given["dev_file"]))]
    write_dataset(Path(given["dev_file"]), rows)
    status, events = run(tmp_path / "c.json", given)
    assert status == 0, events[-1]
    head = BundleStore(tmp_path / "bundles").read(events[-1]["result"]["bundle_digest"], HEAD)
    assert (head == Head().to_bytes()) == (weight != 1)


def test_a_search_spends_its_budget_and_keeps_the_rate_that_learns(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, result = whole
    assert [trial["rate"] for trial in result["trials"]] == [1e-6, 0.01]
    assert sum(trial["steps"] for trial in result["trials"]) <= 40
    manifest = BundleStore(folder / "bundles").manifest(result["bundle_digest"])
    assert manifest.lineage["recipe"]["rate"] == 0.01


def test_a_training_that_needs_more_memory_than_it_may_take_ends_without_a_bundle(tmp_path: Path) -> None:
    # Libraries answer a refused allocation in their own ways, an abort among them; none of them may go on.
    status, events = run(tmp_path / "c.json", config(tmp_path, memory_mb=60))
    assert status != 0 and events[-1]["event"] != "done"
    assert not (tmp_path / "bundles").exists()


def test_a_refused_allocation_is_told_from_other_errors() -> None:
    script = (
        "from controlplane.training.limits import limit, is_out_of_memory\nlimit(200, 0)\ntry: bytearray(1 << 30)\n"
    )
    script += "except MemoryError as error: raise SystemExit(7 if is_out_of_memory(error) else 8)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 7
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    assert not is_out_of_memory(RuntimeError("the loss is nan"))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"surplus": 1}, "unknown fields: surplus"),
        ({"recipe": {"epochs": 0}}, "config.recipe.epochs is 0"),
        ({"recipe": {"class_weights": "loud"}}, "config.recipe.class_weights is 'loud'"),
        ({"search": {"rates": [1e-3, 2e-3], "budget_steps": 12}}, "budget_steps is 12"),
        ({"base": "/nowhere"}, "config.base is '/nowhere'"),
        ({"parent": "latest"}, "config.parent is 'latest'"),
        ({"specialist": "other"}, "config.specialist is 'other'"),
        ({"train_file": "/nowhere/x.jsonl"}, "No such file"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_wrong_configuration_fails_with_the_field_named(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    status, events = run(tmp_path / "c.json", config(whole[0]) | change)
    assert status == 1
    assert events[-1]["event"] == "failed"
    assert complaint in events[-1]["error"]


def test_a_child_whose_parent_is_gone_stops(tmp_path: Path) -> None:
    status, events = run(tmp_path / "c.json", config(tmp_path), close=True)
    assert status == 3
    assert all(event["event"] == "progress" for event in events)
