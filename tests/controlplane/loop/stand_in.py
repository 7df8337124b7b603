"""A training and an evaluation that take no time, as child processes; one may end its parent on the way."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from controlplane.training.child import Child, config_from_arguments, run_child
from protos.contract.bundle import BundleStore
from protos.contract.digest import canonical_json, digest_json
from protos.contract.task import TaskSpec

KILL_AT = "INTERLOCK_TEST_KILL_AT"


def kill_parent_at(point: str) -> None:
    """End the parent as a crash would, once, and wait to be ended with it."""
    if os.environ.get(KILL_AT) == point:
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()


def run(value: Any, child: Child) -> dict[str, Any]:
    """Do what the configuration is for."""
    child.progress(0.5, "at work")
    if "suite" in value:
        kill_parent_at("evaluate: at work")
        body = {
            "suite_digest": value["expected_suite_digest"],
            "candidate": value["candidate"],
            "primary": value["primary"],
            "accepted": True,
            "gates": [],
            "worst_regressions": [],
        }
        Path(value["out_file"]).write_bytes(canonical_json(body))
        kill_parent_at("evaluate: written")
        return {"evaluation_file": value["out_file"], "evaluation_digest": digest_json(body), "gates": []}
    kill_parent_at("train: at work")
    made = BundleStore(Path(value["bundles_dir"])).add(
        task=TaskSpec.from_json(value["task"]),
        engine={"backend": "simulator", "seed": 1},
        contents={},
        base={},
        lineage={"author": value["author"], "dataset": value["dataset_digest"], "suite": value["suite_digest"]},
    )
    kill_parent_at("train: bundle written")
    return {"bundle_digest": made.digest}


if __name__ == "__main__":
    sys.exit(run_child(run, config_from_arguments("tests.controlplane.loop.stand_in")))
