"""How much of a file a language model reads."""

from pathlib import Path

import pytest

from controlplane.packs.example import Example
from controlplane.training.budget import LEAST, MOST_EPOCHS, affordable
from controlplane.training.lora import open_base, token_rows
from controlplane.training.recipe import Recipe
from tests.gateway.worker.tiny_models import DECODER_TASK, write_base

CASES = 3 * LEAST


@pytest.mark.parametrize(
    ("share", "kept", "epochs"),
    [(0.01, LEAST, 1), (0.5, CASES // 2, 1), (2.0, CASES, 2), (100.0, CASES, MOST_EPOCHS)],
)
def test_few_examples_are_read_often_and_many_in_part(tmp_path: Path, share: float, kept: int, epochs: int) -> None:
    write_base(tmp_path / "base", "llama")
    base = open_base(str(tmp_path / "base"))
    rows = [Example("fresh news", "safe")] * CASES
    whole = CASES * len(token_rows(base, DECODER_TASK, ["fresh news"])[0])
    recipe, examples, dev = affordable(base, DECODER_TASK, Recipe(rank=4), rows, rows[:900], round(share * whole))
    assert (len(examples), recipe, len(dev)) == (kept, Recipe(rank=4, epochs=epochs), min(900, kept // 7))
