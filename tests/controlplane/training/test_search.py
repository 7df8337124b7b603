import pytest

from controlplane.training.recipe import Recipe
from controlplane.training.search import Search, search
from protos.contract.fields import FieldInvalid


def asked(budget: int = 400) -> Search:
    return Search.from_json({"ranks": [4, 8], "rates": [1e-4, 1e-3], "epochs": [1, 2], "budget_steps": budget})


def test_halving_leaves_the_best_and_never_overspends() -> None:
    def run(recipe: Recipe) -> float:
        return abs(recipe.rank - 8) + abs(recipe.rate - 1e-3) * 1000 + abs(recipe.epochs - 2)

    best, trials = search(asked(), Recipe(), run, lambda said: None)
    assert (best.rank, best.rate, best.epochs) == (8, 1e-3, 2)
    assert [len([t for t in trials if t.steps == steps]) for steps in sorted({t.steps for t in trials})] == [8, 4, 2]
    assert sum(trial.steps for trial in trials) <= 400


def test_equal_trials_keep_the_first_so_that_the_choice_repeats() -> None:
    assert search(asked(), Recipe(), lambda recipe: 1.0, lambda said: None)[0] == asked().recipes(Recipe())[0]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"ranks": [0], "budget_steps": 100}, "rank is 0"),
        ({"rates": [0.1, 0.2, 0.3], "budget_steps": 20}, "budget_steps is 20"),
        ({"ranks": list(range(1, 100)), "budget_steps": 10_000}, "99 combinations"),
        ({"loudness": [1], "budget_steps": 100}, "unknown fields: loudness"),
    ],
)
def test_a_search_that_cannot_be_done_is_refused(value: object, complaint: str) -> None:
    with pytest.raises(FieldInvalid, match=complaint):
        Search.from_json(value)
