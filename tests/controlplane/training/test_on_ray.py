"""Which jobs go to a Ray cluster; ``test_child`` has one trained there."""

from pathlib import Path

from controlplane.loop.work import Worker
from tests.controlplane.loop.fixture import world


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
