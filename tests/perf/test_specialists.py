"""The table of specialists: who is asked of what, and what a decision costs by the prices that are written down."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from controlplane.packs.published import PublishedSet
from controlplane.packs.registry import FOLDERS, load_metrics, load_pack
from perf import specialists
from perf.specialists import ENGINES, reads

SETS: dict[str, PublishedSet] = {one.name: one for name in FOLDERS for one in load_pack(name).sets}


def row(**changes: Any) -> dict[str, Any]:
    return {
        "specialist": "fraud",
        "set": "s",
        "engine": "additive",
        "metric": "auc",
        "ours": 0.9,
        "low": 0.8,
        "high": 0.95,
        "control": None,
        "published": None,
        "n": 1000,
        "worker_ms": {"p50": 0.5, "p90": 1.0, "p99": 2.0},
        "cpu_ms": 1.0,
        "tokens": 100.0,
    } | changes


@pytest.mark.parametrize(
    ("name", "engines"),
    [
        ("fraud-sms-spam", {"additive", "encoder"}),
        ("credit-german", {"additive", "trees"}),
        ("fraud-card-ulb", {"additive", "trees"}),
        ("brand-safety-domains", {"additive", "encoder"}),
    ],
)
def test_language_models_are_asked_of_texts_and_trees_of_tables(name: str, engines: set[str]) -> None:
    assert {engine for engine in specialists.ENGINES if specialists.reads(engine, SETS[name])} == engines


def test_every_set_is_read_by_an_engine_that_it_suits() -> None:
    assert all(any(specialists.reads(e, one) for e in ("encoder", "trees")) for one in SETS.values())


def test_a_million_decisions_cost_their_cpu_time_and_a_million_calls_their_tokens() -> None:
    prices = tomllib.loads(specialists.PRICES.read_text("utf-8"))
    (line,) = [one for one in specialists._costs([row()], ["additive"]) if one.startswith("| fraud")]
    ours, theirs = (float(cell.replace(",", "")) for cell in line.strip("| ").split(" | ")[-2:])
    # A millisecond a decision is a thousand seconds a million.
    assert ours == pytest.approx(1000 / 3600 * prices["core"]["usd_per_hour"], abs=1e-3)
    frontier = prices["frontier"]
    asked = (100 + frontier["instruction_tokens"]) * frontier["usd_per_million_input"]
    assert theirs == pytest.approx(asked + frontier["answer_tokens"] * frontier["usd_per_million_output"], abs=1)


def test_the_dearest_set_stands_for_a_specialist_and_prices_say_where_they_are_from() -> None:
    lines = specialists._costs([row(), row(set="t", cpu_ms=4.0)], ["additive"])
    assert [line for line in lines if "4.00 ms" in line] and not [line for line in lines if "1.00 ms" in line]
    prices = tomllib.loads(specialists.PRICES.read_text("utf-8"))
    assert all(prices[kind]["source"] in lines[-1] and prices[kind]["date"] in lines[-1] for kind in prices)


def test_the_best_of_a_row_is_marked() -> None:
    assert specialists._cell(row(), 0.9) == "**0.900** (0.800 to 0.950)"
    assert specialists._cell(row(), 0.95) == "0.900 (0.800 to 0.950)"
    assert specialists._cell(None, 0.9) == ""


def test_the_readme_shows_the_recorded_results_and_no_others() -> None:
    load_metrics()
    rows = json.loads(specialists.RESULTS.read_text("utf-8"))
    shown = specialists.README.read_text("utf-8").split(specialists.BEGIN, 1)[1].split(specialists.END, 1)[0]
    assert shown.strip() == specialists.tables(rows)


def test_every_set_has_a_result_of_every_engine_that_reads_it() -> None:
    rows = json.loads(specialists.RESULTS.read_text("utf-8"))
    measured = {(r["set"], r["engine"]) for r in rows}
    assert not [(n, e) for n, one in SETS.items() for e in ENGINES if reads(e, one) and (n, e) not in measured]


def test_what_is_published_beside_a_result_is_what_the_pack_says() -> None:
    rows = [r for r in json.loads(specialists.RESULTS.read_text("utf-8")) if r["set"] in SETS]
    assert [r for r in rows if r["published"] != SETS[r["set"]].published.get(r["metric"])] == []


def test_of_errors_the_smaller_one_is_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{specialists.BEGIN}\nold\n{specialists.END}\nafter\n")
    monkeypatch.setattr(specialists, "README", readme)
    rows = [row(metric="log_loss", ours=0.3, control=0.25), row(metric="log_loss", ours=0.2, engine="trees")]
    specialists.write_table([*rows, row(metric="rouge1", ours=0.4), row(metric="rouge1", ours=0.1, engine="trees")])
    written = readme.read_text()
    assert written.startswith("before\n") and written.endswith("after\n") and "old" not in written
    assert "**0.200**" in written and "| 0.300" in written and "| 0.250 |" in written
    assert "**0.400**" in written and "| 0.100" in written


def test_what_is_missing_is_said_with_the_results_whose_bundles_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads(specialists.RESULTS.read_text("utf-8"))
    recorded = tmp_path / "rows.json"
    recorded.write_text(json.dumps([r for r in rows if r["set"] == "fraud-sms-spam"]))
    arguments = ["specialists", "--missing", "--set", "fraud-sms-spam", "--data", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*arguments, "--bundles", str(tmp_path), "--results", str(recorded)])
    specialists.main()
    said = capsys.readouterr().out
    assert "bundles of 2 recorded results" in said
    assert "fraud-sms-spam (additive)" in said and "fraud-sms-spam (encoder)" in said
