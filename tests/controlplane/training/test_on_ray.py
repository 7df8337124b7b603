"""The same training job through a real one-machine Ray cluster."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.loop.work import Worker
from protos.contract.bundle import BundleStore
from tests.controlplane.loop.fixture import world
from tests.controlplane.training.test_child import TINY, config

pytest.importorskip("ray", reason="the extra 'ray' is not installed")


def test_a_training_on_ray_brings_home_the_bundle_it_would_make_here(tmp_path: Path) -> None:
    given = config(tmp_path, search={}, recipe={**TINY, "rank": 4, "rate": 0.01})
    path = tmp_path / "c.json"
    path.write_text(json.dumps(given))
    digests = []
    for module in (["controlplane.training", "--foreground"], ["controlplane.training.on_ray", "--address", "local"]):
        child = subprocess.Popen(
            [sys.executable, "-m", *module, "--config", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"},
        )
        assert child.stdout
        events = [json.loads(line) for line in child.stdout]
        assert child.wait(120) == 0, events[-1]
        assert [event["event"] for event in events][-2:] == ["progress", "done"]
        digests.append(events[-1]["result"]["bundle_digest"])
    assert events[-1]["result"]["executor"] == "ray"
    assert digests[0] == digests[1]
    assert BundleStore(tmp_path / "bundles").load(digests[1]).manifest.author == "alice"


def test_only_trainings_go_to_the_cluster_and_only_when_the_settings_say_so(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    there = Worker(world(tmp_path / "a", training={"executor": "ray", "ray_address": "h:1"}).deployment, None)  # type: ignore[arg-type]
    assert "controlplane.training.on_ray" in there._command("train", tmp_path) and "h:1" in there._command(
        "train", tmp_path
    )
    assert "controlplane.evals" in there._command("evaluate", tmp_path)
    here = Worker(world(tmp_path / "b").deployment, None)  # type: ignore[arg-type]
    assert "controlplane.training" in here._command("train", tmp_path)
