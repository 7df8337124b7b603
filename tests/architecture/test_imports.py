"""Who may import whom."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("protos", "gateway", "controlplane")
FILES = [p for name in PACKAGES for p in sorted((ROOT / name).rglob("*.py")) if "_pb2" not in p.name]


@cache
def imported(path: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_two_sides_meet_only_in_the_contract(path: Path) -> None:
    side = path.relative_to(ROOT).parts[0]
    other = {"protos": {"gateway", "controlplane"}, "gateway": {"controlplane"}, "controlplane": {"gateway"}}[side]
    assert not roots(path) & other


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.parent.name == "domain"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_domain_imports_the_standard_library_and_the_contract_only(path: Path) -> None:
    side = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        is_standard = name.split(".")[0] in sys.stdlib_module_names
        assert is_standard or name.startswith(("protos", f"{side}.domain", f"{side}.errors")), name


HOMES = {
    "datasketches": ("controlplane/loop/sketches.py",),
    "river": ("controlplane/backtest/references.py",),
    "grpc": (
        "gateway/rpc",
        "gateway/engines/remote_",
        "gateway/client.py",
        "controlplane/rpc",
        "controlplane/cli",
        "controlplane/demo",
        "controlplane/evals/gateway_trial.py",
    ),
    "openvino": ("gateway/worker/openvino.py", "controlplane/training/export.py", "controlplane/training/ir.py"),
    "nncf": ("controlplane/training/ir.py",),
    "torch": ("controlplane/training", "gateway/worker/transformers"),
    "peft": ("controlplane/training",),
    "transformers": ("controlplane/training", "gateway/worker/transformers"),
    "llguidance": ("gateway/worker/constraint.py",),
    "sqlalchemy": ("controlplane/store",),
    "apscheduler": ("controlplane/loop/schedule.py",),
    "prometheus_client": ("gateway/metrics.py", "controlplane/metrics.py"),
    "tensorrt_llm": ("gateway/worker/tensorrt_llm/",),
    "fsspec": ("protos/contract/url_store.py",),
    "aiohttp": ("gateway/engines/http_client.py",),
    "smg_grpc_proto": ("gateway/engines/remote_",),
    "opentelemetry": ("gateway/tracing.py",),
    "typer": ("controlplane/cli",),
}


@pytest.mark.parametrize("library", HOMES)
def test_each_heavy_library_has_one_home(library: str) -> None:
    for path in FILES:
        relative = str(path.relative_to(ROOT))
        if library in roots(path) and not relative.startswith("protos/"):
            assert relative.startswith(HOMES[library]), f"{relative} imports {library}"


def test_what_people_and_callers_wait_for_starts_without_what_only_learning_needs() -> None:
    entries = ("controlplane.__main__", "controlplane.cli.app", "gateway.process", "gateway.worker.process")
    heavy = ("torch", "transformers", "sklearn", "scipy", "ray", "openvino", "pyarrow", "pandas", "krippendorff")
    program = f"import sys, {', '.join(entries)}\nprint(*({set(heavy)} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
