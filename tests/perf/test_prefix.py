"""What a kept prefix saves, measured whole but tiny."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("openvino")

from perf import prefix  # noqa: E402


@pytest.fixture
def one_core() -> Iterator[None]:
    """Give back the cores and threads that a measurement leaves to itself."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    yield
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_core")
def test_a_kept_prefix_is_computed_once_and_changes_no_answer(tmp_path: Path) -> None:
    assert prefix.main(["--size", "tiny", "--calls", "2", "--beginning", "1", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert found["command"] == "python -m perf.prefix --size tiny --calls 2 --beginning 1"
    assert 0 < found["tokens_computed"]["kept"] < found["tokens_computed"]["whole"]
    assert found["most_apart"] < 1e-3
    for timed in (found["wall_ms"], found["cpu_ms"]):
        assert set(timed) == {"kept", "whole"} and all(row["p99"] >= row["p50"] for row in timed.values())
