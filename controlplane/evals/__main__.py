"""Evaluate one candidate as a child process: ``python -m controlplane.evals --config FILE``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from controlplane.evals.run import evaluate
from controlplane.evals.suite import CAUSES, Suite, SuiteInvalid, load_suite
from controlplane.packs.registry import load_metrics
from controlplane.store.files import replace_file
from controlplane.training.child import Child, ConfigInvalid, config_from_arguments, run_child
from controlplane.training.dataset import DatasetInvalid, read_dataset
from protos.contract.digest import DigestMalformed, canonical_json, parse_digest
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.servers import RemoteSettings, read_servers
from protos.contract.task import TaskSpec


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """What to compare, on what, and by which locked suite."""

    task: TaskSpec
    suite: Suite
    parts: dict[str, Path]
    train_file: Path
    candidate: str
    primary: str | None
    cause: str
    is_partial: bool
    bundles_dir: Path
    engines: tuple[RemoteSettings, ...]
    out_file: Path

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read and check a configuration; raises FieldInvalid, DigestMalformed or SuiteInvalid."""
        read = Reader(value, "config")
        suite_file = read.maybe_text("suite_file")
        given = read.object("suite", {})
        if (suite_file is None) == (not given):
            raise FieldInvalid("config must have one of suite_file and suite")
        suite = load_suite(Path(suite_file)) if suite_file is not None else Suite.from_json(given, "config.suite")
        expected = parse_digest(read.text("expected_suite_digest"), "config.expected_suite_digest")
        if suite.digest != expected:
            raise SuiteInvalid(f"suite hashes to {suite.digest}, expected the locked {expected}")
        parts = Reader(read.object("parts"), "config.parts")
        primary = read.maybe_text("primary")
        config = cls(
            task=TaskSpec.from_json(read.object("task"), "config.task"),
            suite=suite,
            parts={name: Path(parts.text(name)) for name in value["parts"]},
            train_file=Path(read.text("train_file")),
            candidate=parse_digest(read.text("candidate"), "config.candidate"),
            primary=None if primary is None else parse_digest(primary, "config.primary"),
            cause=read.text("cause", "operator", choices=CAUSES),
            is_partial=read.flag("partial", False),
            bundles_dir=Path(read.text("bundles_dir")),
            engines=read_servers(read.items("engines", []), Path()),
            out_file=Path(read.text("out_file")),
        )
        read.done()
        return config


def run(value: Any, child: Child) -> dict[str, Any]:
    """Evaluate and write the evaluation; raises ConfigInvalid."""
    load_metrics()
    try:
        config = EvalConfig.from_json(value)
        parts = {name: read_dataset(path, config.task.labels) for name, path in config.parts.items()}
        training = read_dataset(config.train_file, config.task.labels)
    except (FieldInvalid, DigestMalformed, SuiteInvalid, DatasetInvalid) as error:
        raise ConfigInvalid(str(error)) from error
    child.progress(0.1, "scoring")
    evaluation = evaluate(
        config.task,
        config.suite,
        parts,
        training,
        config.candidate,
        config.primary,
        config.bundles_dir,
        cause=config.cause,
        is_partial=config.is_partial,
        engines=config.engines,
    )
    config.out_file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(config.out_file, canonical_json(evaluation.to_json()))
    return {
        "evaluation_file": str(config.out_file),
        "evaluation_digest": evaluation.digest,
        "accepted": evaluation.accepted,
        "gates": evaluation.to_json()["gates"],
    }


if __name__ == "__main__":
    sys.exit(run_child(run, config_from_arguments("controlplane.evals")))
