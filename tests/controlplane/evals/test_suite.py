import copy
from pathlib import Path
from typing import Any

import pytest

from controlplane.evals.__main__ import EvalConfig
from controlplane.evals.suite import Suite, SuiteInvalid, load_suite
from controlplane.packs.registry import load_pack
from protos.contract.fields import FieldInvalid

SUITE: dict[str, Any] = load_pack("brand-safety").suite.to_json()
PLAIN = {name: value for name, value in SUITE.items() if name not in ("robustness", "fairness", "contract")}


def test_a_suite_survives_json_and_any_threshold_changes_its_digest() -> None:
    suite = Suite.from_json(SUITE)
    other = copy.deepcopy(SUITE)
    other["regressions"]["max_share"] = 0.5
    assert Suite.from_json(suite.to_json()).digest == suite.digest != Suite.from_json(other).digest


@pytest.mark.parametrize(
    ("gate", "complaint"),
    [
        ({"metric": "macro_f1", "part": "core"}, "no bound"),
        ({"metric": "macro_f1", "part": "core", "min": 0.1, "max": 0.2}, "min, max"),
        ({"metric": "charm", "part": "core", "min": 0.1}, "metric is 'charm'"),
        ({"metric": "ece", "part": "core", "max": 0.1, "note": "x"}, "unknown fields: note"),
        ({"metric": "p99_ms", "part": "core", "vs": "primary", "margin": 0}, "no paired interval"),
    ],
    ids=["none", "two", "metric", "unknown", "p99"],
)
def test_a_gate_that_says_something_unclear_is_refused(gate: dict[str, Any], complaint: str) -> None:
    with pytest.raises(FieldInvalid, match=complaint):
        Suite.from_json(SUITE | {"gates": [gate]})


@pytest.mark.parametrize(
    ("part", "complaint"),
    [
        ({"robustness": [{"change": "magic", "part": "core", "max_changed": 0.1}]}, "change is 'magic'"),
        ({"fairness": [{"metric": "accuracy", "part": "core", "slices": ["a"], "min_ratio": 0.8}]}, "at least two"),
        (
            {"fairness": [{"metric": "p99_ms", "part": "core", "slices": ["a", "b"], "min_ratio": 0.8}]},
            "metric is 'p99_ms'",
        ),
        ({"gates": [{"metric": "p99_ms", "part": "core", "slice": "a", "max": 9}]}, "slice is 'a'"),
        ({"robustness": [{"change": "long", "part": "core", "metric": "ece"}]}, "no bound, expected one of min, max"),
        ({"robustness": [{"change": "long", "part": "core", "metric": "charm", "max": 1}]}, "metric is 'charm'"),
        ({"contract": {"cases": 0}}, "suite.contract.cases is 0"),
    ],
    ids=["change", "one slice", "latency", "slice of latency", "no bound", "metric", "no case"],
)
def test_a_part_of_a_suite_that_says_something_unclear_is_refused(part: dict[str, Any], complaint: str) -> None:
    with pytest.raises(FieldInvalid, match=complaint):
        Suite.from_json(SUITE | part)


def test_a_suite_without_the_later_parts_keeps_its_digest() -> None:
    assert Suite.from_json(PLAIN).to_json() == PLAIN
    fairness = [{"metric": "accuracy", "part": "core", "slices": ["a", "b"], "min_ratio": 0.8}]
    other = Suite.from_json(PLAIN | {"fairness": fairness})
    assert other.digest != Suite.from_json(PLAIN).digest == Suite.from_json(Suite.from_json(PLAIN).to_json()).digest
    assert Suite.from_json(other.to_json()) == other
    held = Suite.from_json(PLAIN | {"contract": {"part": "core", "cases": 5}})
    assert held.digest != Suite.from_json(PLAIN).digest and Suite.from_json(held.to_json()) == held


def test_a_broken_suite_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text("version = 2\n")
    with pytest.raises(SuiteInvalid, match=r"suite\.toml.*version is 2"):
        load_suite(tmp_path / "suite.toml")


def test_a_suite_other_than_the_locked_one_is_refused() -> None:
    with pytest.raises(SuiteInvalid, match="expected the locked"):
        EvalConfig.from_json({"suite": SUITE, "expected_suite_digest": "sha256:" + "1" * 64})
