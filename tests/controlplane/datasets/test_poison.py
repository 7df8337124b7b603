import random

from controlplane.datasets.poison import suspicious
from controlplane.packs.registry import load_pack

LABELS = load_pack("brand-safety").task.labels


def week(flip: float, seed: int = 1) -> tuple[list, list[str]]:
    """Six days of a pack's traffic, which has one label in twenty wrong by itself; on day 3 more are flipped."""
    rows = load_pack("brand-safety").training_set(2400, seed)
    days = [f"day-{i % 6}" for i in range(len(rows))]
    draw = random.Random(seed)
    changed = []
    for row, day in zip(rows, days, strict=True):
        if day == "day-3" and draw.random() < flip:
            row = type(row)(row.text, draw.choice([label for label in LABELS if label != row.label]), row.slice)
        changed.append(row)
    return changed, days


def test_a_day_with_a_fifth_of_its_labels_flipped_is_found_and_no_other() -> None:
    for seed in (1, 2, 3):
        found = suspicious(*week(0.2, seed))
        assert [one.batch for one in found] == ["day-3"], found
        assert "is usual" in found[0].text


def test_a_day_on_which_the_world_changed_is_no_poison() -> None:
    pack = load_pack("brand-safety")
    rows = pack.training_set(1200, 1) + pack.shifted(300, 1)
    days = [f"day-{i // 300}" for i in range(len(rows))]
    assert suspicious(rows, days) == []


def test_honest_weeks_are_left_alone() -> None:
    assert [suspicious(*week(0.0, seed)) for seed in (1, 2, 3)] == [[], [], []]


def test_nothing_is_said_of_few_rows_or_a_single_day() -> None:
    rows, days = week(0.9)
    assert suspicious(rows[:60], days[:60]) == []
    assert suspicious(rows, ["today"] * len(rows)) == []
