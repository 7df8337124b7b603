"""The GPU benchmark, whole but tiny, on a CPU."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from perf.gpu import __main__ as gpu  # noqa: E402
from perf.gpu.engine import Case, questions  # noqa: E402
from perf.gpu.roofline import Peaks, Work  # noqa: E402


def test_a_tiny_run_records_every_question_and_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "--size tiny --shapes tiny-qwen3 --dtypes bf16 --device cpu --seconds 0 --least-calls 2 --no-gateway"
    assert gpu.main([*command.split(), "--out", str(tmp_path)]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.with_suffix(".svg").read_text().startswith("<?xml")
    found = json.loads(path.read_text())
    assert not found["device"]["is_gpu"] and "CPU" in found["device"]["name"]
    (run,) = found["shapes"]["tiny-qwen3"]
    assert set(run["questions"]) == set(questions((32, 64, 128), (1, 4, 8)))
    for rows in run["questions"].values():
        for row in rows:
            assert row["p99_ms"] >= row["p50_ms"] > 0 and row["floor_ms"] > 0
            assert not row["has_graphs"]  # a CPU has none, and none is claimed
    assert "TensorRT-LLM" in found["not_measured"]
    assert not found["gateway"]


def test_without_a_gpu_the_full_size_is_refused_rather_than_made_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert gpu.main(["--out", str(tmp_path)]) == 3
    assert "no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_floor_is_the_slower_of_computing_and_reading() -> None:
    peaks = Peaks(1e12, {"bf16": 1e14})
    assert Work(1e12, 1e9).floor_ms(peaks, "bf16") == pytest.approx(10.0)
    assert Work(1e10, 8e9).floor_ms(peaks, "bf16") == pytest.approx(8.0)


def test_each_question_varies_one_thing() -> None:
    for name, group in questions((128, 256, 512), (1, 8, 32)).items():
        first = group[0]
        for case in group[1:]:
            changed = [f for f in Case.__slots__ if getattr(case, f) != getattr(first, f)]
            assert set(changed) <= ({"is_cached", "has_graphs"} if "tokens" in name else {"head", "adapters"})
