"""What is said of a decision, however late, often, out of order or contradictory, ends as one row."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from controlplane.store import outcomes
from controlplane.store.store import Store
from controlplane.store.tables import outcome

SAID = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["safe", "unsafe"]), st.integers(0, 3), st.integers(0, 5)),
    max_size=8,
)


def rows(store: Store, told: list[tuple[str, str, int, int]], parts: int) -> list[dict]:
    told_rows = [
        {
            "specialist": "s",
            "decision_id": decision,
            "label": label,
            "source": "test",
            "observed_ms": observed,
            "received_ms": received,
        }
        for decision, label, observed, received in told
    ]
    for part in range(parts):
        with store.writing(0) as unit:
            outcomes.add(unit, told_rows[part::parts])
    with store.reading() as unit:
        table = outcome
        query = select(table).order_by(table.c.decision_id)
        return [dict(row) for row in unit.connection.execute(query).mappings()]


@given(SAID, st.randoms(use_true_random=False), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_order_and_batches_change_nothing(told: list[tuple[str, str, int, int]], random: object, parts: int) -> None:
    first, second = Store("sqlite://"), Store("sqlite://")
    shuffled = list(told)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    found = rows(first, told, 1)
    assert found == rows(second, shuffled, parts)
    for row in found:
        of_it = [t for t in told if t[0] == row["decision_id"]]
        assert sum(row["said"].values()) == len(of_it)
        assert row["observed_ms"] == max(t[2] for t in of_it) and row["first_ms"] == min(t[3] for t in of_it)
    first.close()
    second.close()


def test_the_outcome_observed_last_is_in_force_and_the_contradiction_is_listed(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'db'}")
    found = rows(store, [("a", "unsafe", 9, 10), ("a", "safe", 3, 20), ("b", "safe", 1, 1), ("b", "safe", 1, 1)], 1)
    assert [(row["label"], row["said"]) for row in found] == [
        ("unsafe", {"safe": 1, "unsafe": 1}),
        ("safe", {"safe": 2}),
    ]
    with store.reading() as unit:
        assert [row.decision_id for row in outcomes.contradicted(unit, "s", 10)] == ["a"]
    store.close()
