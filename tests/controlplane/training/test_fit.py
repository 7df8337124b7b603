"""Which of a training's weights are the best ones."""

import pytest
import torch
from torch.nn import functional

from controlplane.training.fit import calibrated_loss

TARGETS = torch.arange(600) % 3


def logits(seed: int, signal: float) -> torch.Tensor:
    noise = torch.randn(len(TARGETS), 3, generator=torch.Generator().manual_seed(seed))
    return noise + signal * functional.one_hot(TARGETS, 3)


def loss(softer: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(softer, TARGETS)


@pytest.mark.parametrize("sure", [0.5, 2.0, 5.0])
def test_weights_are_no_worse_for_being_too_sure_or_not_sure_enough(sure: float) -> None:
    as_trained = logits(1, 1.0)
    assert calibrated_loss(sure * as_trained, loss) == pytest.approx(calibrated_loss(as_trained, loss), rel=0.002)


def test_weights_that_tell_more_apart_win_over_earlier_ones_however_sure_they_have_become() -> None:
    early, late = logits(1, 1.0), 6 * logits(2, 1.4)
    assert loss(late) > loss(early)
    assert calibrated_loss(late, loss) < calibrated_loss(early, loss)
