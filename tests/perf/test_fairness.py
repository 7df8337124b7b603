"""The audit of credit decisions by group, as recorded."""

import json

from perf import fairness


def test_the_readme_shows_the_recorded_groups_and_no_others() -> None:
    rows = json.loads(fairness.RESULTS.read_text("utf-8"))
    shown = fairness.README.read_text("utf-8").split(fairness.BEGIN, 1)[1].split(fairness.END, 1)[0]
    assert shown.strip() == fairness.table(rows)


def test_the_groups_are_of_the_bundles_whose_results_are_recorded() -> None:
    recorded = {(r["set"], r["engine"]): r["bundle"] for r in json.loads(fairness.SPECIALISTS.read_text("utf-8"))}
    rows = json.loads(fairness.RESULTS.read_text("utf-8"))
    assert {r["engine"] for r in rows} == set(fairness.ENGINE_NAMES)
    assert [r for r in rows if r["bundle"] != recorded[r["set"], r["engine"]]] == []
