"""The record of a run and the README's tables made from it."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from perf.results import BEGIN, END, KEYS, LATEST, README, SERVERS, STATES, in_readme, spread, tables, write

SINCE = {"envoy_splitting": "2026-11-30"}  # runs before had not all


@pytest.fixture
def result() -> dict[str, Any]:
    state = {"p50_ms": 0.5, "p99_ms": 1.25, "errors": 0, "fallbacks": 1234}
    memory = {"gateway": 100.0, "workers": 50.0}
    return {
        "is_quick": False,
        "rounds": 3,
        "machine": {"processor": "Z80", "cores": 2},
        "versions": {"python": "3.11.7"},
        "commit": "abc",
        "unavailable": {"triton": "no wheel for this machine"},
        "throughput_rps": {
            **{name: {"median": 5_000.0, "min": 4_000.0, "max": 6_000.0} for name in SERVERS},
            "interlock_direct": {"median": 10_000.0, "min": 9_000.0, "max": 11_000.0},
            "triton": None,
        },
        "p99_ms_at_2000rps": {
            **{name: {"median": 1.5, "min": 1.0, "max": 2.0, "unanswered": 0.0} for name in SERVERS},
            "mlserver": {"median": 900.0, "min": 1.0, "max": 1_000.0, "unanswered": 0.125},
            "triton": None,
        },
        "states_rps": 1_000,
        "states": dict.fromkeys(STATES, state),
        "overload": {
            "connections": 4,
            "offered_rps": 30_000.0,
            "goodput_of_peak": 0.91,
            "shed_p99_ms": None,
            "resident_mb_before": memory,
            "resident_mb_after": memory,
        },
        "soak": {
            "calls": 1_000_000,
            "growth": {"gateway": 0.012, "front": 0.0, "workers": -0.001},
            "tasks_before": 12.0,
            "tasks_after": 12.0,
            "descriptors_before": 40,
            "descriptors_after": 41,
            "in_flight_after": 0.0,
        },
        "decision": {
            "what": "one at a time",
            "gateway_ms": {"p50": 7.0, "p90": 8.0, "p99": 9.0},
            "engine_ms": {"p50": 6.0, "p90": 7.0, "p99": 8.0},
            "ratio_of_medians": {"median": 1.2, "min": 1.1, "max": 1.3},
        },
    }


def test_a_spread_is_median_lowest_and_highest() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_a_server_that_was_not_measured_is_named_with_the_reason(result: dict[str, Any]) -> None:
    (row,) = [line for line in tables(result).splitlines() if "Triton" in line]
    assert "no wheel for this machine" in row
    assert not any(figure in row for figure in ("5,000", "1.5"))


def test_peers_are_overloaded_too_and_what_a_call_costs_is_told(result: dict[str, Any]) -> None:
    before = tables(result)
    result["overload_of_peers"] = {"grpc_aio": {"goodput_of_peak": 0.125}}
    costs = {"interlock_direct": (30.1, 0.0), "interlock_envoy": (36.9, 37.1)}
    result["cpu_us_per_call"] = {
        name: {"gateway": gateway, "front": front, "workers": 22.2} for name, (gateway, front) in costs.items()
    }
    told = set(tables(result).splitlines()) - set(before.splitlines())
    assert any(f"{SERVERS['grpc_aio']} 12 %" in line for line in told)
    assert f"CPU per call, in microseconds, {SERVERS['interlock_direct']}: gateway 30, workers 22." in told
    assert f"CPU per call, in microseconds, {SERVERS['interlock_envoy']}: gateway 37, front 37, workers 22." in told
    assert len(told) == 3


def test_overload_over_more_connections_stands_beside_it(result: dict[str, Any]) -> None:
    result["overload_of_many_connections"] = {"connections": 32, "goodput_of_peak": 0.834, "shed_p99_ms": 2.83}
    assert "Over 32 connections instead of 4: 83 %, refusals p99 2.83 ms." in tables(result)


def test_servers_are_compared_with_our_default_front(result: dict[str, Any]) -> None:
    rows = {line.split("|")[1].strip(): line for line in tables(result).splitlines() if line.startswith("|")}
    assert "| 2.00 |" in rows[SERVERS["grpc_aio"]]
    assert "| 1.00 |" in rows[SERVERS["interlock_direct"]]
    result["throughput_rps"]["interlock_direct"] = result["p99_ms_at_2000rps"]["interlock_direct"] = None
    assert f"| {SERVERS['grpc_aio']} | 5,000 (4,000 to 6,000) | 1.00 |" in tables(result)


def test_a_tail_of_a_server_that_answered_not_all_says_so(result: dict[str, Any]) -> None:
    assert "900 ms (1 to 1e+03), 12.5 % unanswered" in tables(result)


def test_decisions_that_were_fallbacks_are_told(result: dict[str, Any]) -> None:
    assert "were fallbacks" not in tables(result)
    result["decision"]["fallbacks"] = 3
    assert "(1.10 to 1.30). 3 were fallbacks." in tables(result)


def test_a_short_run_is_called_one(result: dict[str, Any]) -> None:
    assert "QUICK=1" not in tables(result)
    assert "QUICK=1" in tables({**result, "is_quick": True})


def test_tables_replace_what_stood_between_the_marks_and_nothing_else(result: dict[str, Any]) -> None:
    readme = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    once = in_readme(readme, result)
    assert once.startswith("above\n") and once.endswith("\nbelow\n") and "old" not in once
    assert in_readme(once, result) == once
    with pytest.raises(ValueError, match="lacks"):
        in_readme("above", result)


def test_a_run_that_lacks_a_figure_is_not_recorded(result: dict[str, Any], tmp_path: Path) -> None:
    path = write(result, tmp_path)
    assert json.loads(path.read_text()) == json.loads((tmp_path / "latest.json").read_text()) == result
    broken = copy.deepcopy(result)
    del broken["soak"]
    with pytest.raises(ValueError, match="soak"):
        write(broken, tmp_path)


def test_the_latest_run_has_every_figure_or_the_reason_for_its_absence() -> None:
    latest = json.loads(LATEST.read_text())
    assert set(KEYS) <= set(latest)
    assert set(STATES) == set(latest["states"])
    for key in ("throughput_rps", "p99_ms_at_2000rps"):
        assert set(SERVERS) - set(latest[key]) == {name for name, since in SINCE.items() if latest["taken"] < since}
        for name in latest[key]:
            found = latest[key][name]
            if found is None:
                assert latest["unavailable"][name]
            else:
                assert found["min"] <= found["median"] <= found["max"]
    for state in latest["states"].values():
        assert state["p50_ms"] <= state["p99_ms"]


def test_the_readme_says_what_the_latest_run_measured() -> None:
    readme = README.read_text()
    assert in_readme(readme, json.loads(LATEST.read_text())) == readme
