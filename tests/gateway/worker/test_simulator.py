"""The simulator is slow and faulty by its seed alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.worker.backend import BackendFailed, Host
from gateway.worker.engine import Engine, answer, open_engine
from gateway.worker.simulator import SimulatorBackend
from protos.contract.bundle import BundleStore
from tests.tasks import TASK

TEXTS = [f"text number {i}" for i in range(400)]


def simulator(root: Path, **settings: Any) -> Engine:
    store = BundleStore(root)
    engine = {"backend": "simulator", **settings}
    return open_engine(store.load(store.add(task=TASK, engine=engine, contents={}, base={}, lineage={}).digest), Host())


def failing(engine: Engine) -> list[bool]:
    batch = [engine.backend.prepare(text) for text in TEXTS]
    return [bool(one.problem) for one in answer([engine] * len(batch), batch)]


def test_faults_hit_the_same_share_of_the_same_texts_every_time(tmp_path: Path) -> None:
    first, again, other = (simulator(tmp_path, fail=0.1, seed=seed) for seed in (1, 1, 2))
    assert failing(first) == failing(again) != failing(other)
    assert 0.05 < np.mean(failing(first)) < 0.16
    assert not any(failing(simulator(tmp_path, seed=1)))


def test_a_fault_takes_no_other_answer_along(tmp_path: Path) -> None:
    plain, faulty = simulator(tmp_path, seed=1), simulator(tmp_path, seed=1, fail=0.1)
    batch = [plain.backend.prepare(text) for text in TEXTS]
    for whole, one in zip(answer([plain] * 400, batch), answer([faulty] * 400, batch), strict=True):
        assert one.problem or one.probabilities == whole.probabilities


def test_a_batchs_time_follows_its_tokens_and_its_seed(tmp_path: Path) -> None:
    engine = simulator(tmp_path, latency_us=100, token_us=10, jitter_us=50, stall=0.2, stall_us=5000, seed=3)
    backend = engine.backend
    assert isinstance(backend, SimulatorBackend)
    short, long = backend.prepare("text"), backend.prepare("text of five whole words")
    assert 110 <= backend.batch_us([short]) % 5000 < 160
    assert backend.batch_us([short, long]) % 5000 == pytest.approx(backend.batch_us([short]) % 5000 + 90)
    stalled = [backend.batch_us([backend.prepare(text)]) >= 5000 for text in TEXTS]
    assert 0.13 < np.mean(stalled) < 0.27
    assert stalled == [backend.batch_us([backend.prepare(text)]) >= 5000 for text in TEXTS]


@pytest.mark.parametrize("settings", [{"fail": 1.5}, {"stall": -1}, {"token_us": -1}])
def test_a_fault_out_of_range_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(BackendFailed, match=next(iter(settings))):
        simulator(tmp_path, **settings)
