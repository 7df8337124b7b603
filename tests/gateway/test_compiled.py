"""A compiled hot path is of exactly these sources, or is not used; where it is used, it behaves as they do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import compiled

PATIENCE_S = 300.0
BATTERY = (
    "tests/gateway/rpc/test_exchanges.py",
    "tests/gateway/worker/test_runner.py",
    "tests/gateway/worker/test_queue.py",
    "tests/gateway/engines/test_breakers.py",
    "tests/contract/test_rows.py",
)
RUN = "import sys; from gateway import compiled; compiled.use('on'); import pytest; sys.exit(pytest.main(sys.argv[1:]))"


def tree(root: Path, **files: str) -> Path:
    for package in ("gateway", "protos"):
        (root / package).mkdir(parents=True)
    for name, text in files.items():
        (root / "gateway" / f"{name}.py").write_text(text)
    return root


def test_a_change_of_any_source_names_another_build(tmp_path: Path) -> None:
    sources = [
        tree(tmp_path / "0", a="x = 1", b=""),
        tree(tmp_path / "1", a="x = 2", b=""),
        tree(tmp_path / "2", a="x = 1", c=""),
        tree(tmp_path / "3", a="x = 1", b="", c=""),
    ]
    assert len({compiled.digest(root) for root in sources}) == len(sources)
    assert compiled.digest(sources[0]) == compiled.digest(tree(tmp_path / "same", b="", a="x = 1"))


def test_without_a_build_the_sources_run_and_it_is_said_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    before = list(sys.meta_path)
    assert compiled.status().startswith(f"no: no build of these sources ({compiled.digest()})")
    half = compiled.folder(compiled.digest())
    half.mkdir(parents=True)
    assert compiled.status().startswith("no: no build")
    with pytest.raises(SystemExit, match="INTERLOCK_COMPILED is on, and there is no build"):
        compiled.use("on")
    with pytest.raises(SystemExit, match="INTERLOCK_COMPILED is 'perhaps', expected auto, off or on"):
        compiled.use("perhaps")
    assert sys.meta_path == before


def test_what_is_compiled_passes_the_tests_of_its_sources() -> None:
    said = compiled.status()
    if said.startswith("no: "):
        pytest.skip(said.removeprefix("no: "))
    # A gateway and a worker of their own, as they are started: fakes of another type are no good to compiled code.
    processes = "tests/gateway/serving/test_statistics.py"
    run = subprocess.run(
        [sys.executable, "-c", RUN, *BATTERY, processes, "-p", "no:cacheprovider"],
        cwd=compiled.ROOT,
        env={**os.environ, compiled.SETTING: "on"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert run.returncode == 0, run.stdout[-3_000:] + run.stderr[-1_000:]
