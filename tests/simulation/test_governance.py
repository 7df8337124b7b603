"""The invariants of governance hold on every seed; INTERLOCK_SEEDS plays more of them, and a failure names its seed."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from gateway.serving import judge
from tests.simulation.governance import InvariantBroken, play

SEEDS = int(os.environ.get("INTERLOCK_SEEDS", "36"))
BATCHES = 6


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("batch", range(BATCHES))
def test_no_seed_moves_traffic_without_enough_people(batch: int) -> None:
    for seed in range(batch, SEEDS, BATCHES):
        applied = sum(line.endswith("applied") for line in play(seed).log)
        assert applied > 1, f"seed {seed} tried nothing after the first plan"


def test_a_seed_replays_to_the_word() -> None:
    first = play(3).log
    assert first == play(3).log and first != play(4).log


def _takes_any_ledger(patch: pytest.MonkeyPatch) -> None:
    def lenient(self: Any, offer: Any) -> Any:
        return judge.signed_head(offer.checkpoint, "test", self._key)

    patch.setattr(judge.Witness, "judge", lenient)


def test_a_gateway_that_takes_any_ledger_is_caught() -> None:
    """A check that cannot fail proves nothing: with the ledger's continuity left out, some seed breaks."""
    with pytest.MonkeyPatch.context() as patch:
        _takes_any_ledger(patch)
        with pytest.raises(InvariantBroken, match="seed"):
            for seed in range(50):
                play(seed)
