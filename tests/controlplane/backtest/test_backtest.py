"""A whole back-test on a stream made here: what is known of it is what the result must say."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from controlplane.backtest.replay import first_alarms
from controlplane.backtest.stream import read_stream
from controlplane.cli.app import app
from controlplane.loop.frame import Frame
from controlplane.loop.monitor import Budget

ROWS, CHANGE = 900, 600


@pytest.fixture(scope="module")
def stream_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=ROWS), rng.normal(size=ROWS)
    x[CHANGE:] += 3
    label = np.where(x + y + rng.normal(size=ROWS) > 0, "yes", "no")
    path = tmp_path_factory.mktemp("stream") / "stream.csv.gz"
    lines = [f"{i},{x[i]:.4f},{y[i]:.4f},{'ab'[i % 2]},{label[i]}" for i in rng.permutation(ROWS)]
    path.write_bytes(gzip.compress(("t,x,y,site,label\n" + "\n".join(lines) + "\n").encode()))
    return path


def run(*words: str) -> dict:
    done = CliRunner().invoke(app, ["drift", "backtest", *words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_change_is_found_soon_and_shuffles_of_it_are_silent(stream_file: Path, tmp_path: Path) -> None:
    sizes = ["--train", "150", "--reference", "200", "--window", "50", "--seeds", "4"]
    words = [str(stream_file), "--label", "label", "--time", "t", "--change", str(CHANGE), *sizes]
    found = run(*words, "--out", str(tmp_path / "result.json"))
    ours, equal = found["detectors"][:2]
    assert ours["detector"] == "interlock" and ours["silent_share"] == 1.0
    assert (equal["detector"], equal["kind"]) == ("interlock", "equal false alarms") and equal["silent_share"] >= 0.95
    assert equal["setting"] <= ours["setting"] and equal["changes"][0]["delay"] <= ours["changes"][0]["delay"]
    assert ours["changes"][0]["delay"] <= 50 and "x" in ours["changes"][0]["by"]
    assert found["changes"] == [{"name": "600", "row": 600, "time": "600", "rows_watched": 300}]
    assert [a["row"] for a in found["alarms"]][0] in range(CHANGE, CHANGE + 51)
    assert {e["detector"] for e in found["detectors"]} >= {"interlock", "PSI of every column"}
    assert json.loads((tmp_path / "result.json").read_text()) == found


def test_one_replay_says_of_every_setting_what_a_replay_of_its_own_would() -> None:
    rng = np.random.default_rng(4)
    plan, settings = Budget(50, 0.05), (100, 10_000, 100_000)

    def rows(n: int, shift: float) -> Frame:
        hit = (rng.random(n) < 0.3 + 0.4 * (shift > 0)).astype(float)
        of_each = {"x": rng.normal(shift, 1, n)}
        score, decision = rng.beta(2, 5, n), np.full(n, "allow")
        return Frame(of_each, {}, None, score, decision, np.full(n, 0.7), hit, 1 - hit)

    reference, live = rows(200, 0), rows(100, 0).join(rows(300, 0.6))
    together = first_alarms(plan, 2, settings, reference, live, 3)
    assert together == [first_alarms(plan, 2, (setting,), reference, live, 3)[0] for setting in settings]
    at = [alarm.row for alarm in together if alarm is not None]
    assert len(at) == 3 and at == sorted(at) and at[0] < at[-1]


def test_columns_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"id": f"row-{i}", "n": i, "gap": None if i % 3 else 1.5, "kind": "ab"[i % 2]}
        | {"says": f"a somewhat longer sentence {i}", "truth": "x"}
        for i in range(100)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_stream([path], label="truth")
    assert set(found.numbers) == {"n", "gap"} and set(found.categories) == {"kind"}
    assert found.texts is not None and found.texts[7] == "a somewhat longer sentence 7"
    assert np.isneginf(found.numbers["gap"][1]) and "id" in found.ignored


@pytest.mark.parametrize(
    "name, content, words, complaint",
    [
        pytest.param("a.txt", "", [], "expected .csv, .jsonl", id="kind"),
        pytest.param("a.csv", "x,y\n", [], "no rows", id="empty"),
        pytest.param("a.csv", "x,y\n1,2\n", [], "has no column 'label'", id="no-label-column"),
        pytest.param("a.csv", "x,label\n1,a\n", ["--ignore", "y"], "has no column 'y'", id="no-column-to-ignore"),
        pytest.param("a.csv", "x,y\n", ["--out", "/nowhere/a.json"], "/nowhere is no folder", id="no-place"),
        pytest.param("a.jsonl", '{"label": 1}\n{"la', [], "line 2 is not JSON", id="not-json"),
        pytest.param("a.jsonl", '{"label": 1}\n[2]\n', [], "line 2 is list, expected an object", id="no-object"),
        pytest.param("a.csv", "x,label\n1,\n", [], "row 1 has no 'label'", id="no-label"),
        pytest.param("a.csv", "x,label\n" + "1,a\n" * 60, [], "the stream has 60 rows, expected at least", id="short"),
        pytest.param("a.csv.gz", "no gzip", [], "cannot be read", id="not-gzip"),
        pytest.param("a.csv", "x,label\n" + "1,a\n" * 3000, ["--change", "3"], "is at row 3, expected", id="change"),
    ],
)
def test_a_stream_that_cannot_be_replayed_is_refused_with_what_was_expected(
    tmp_path: Path, name: str, content: str, words: list[str], complaint: str
) -> None:
    (tmp_path / name).write_text(content)
    done = CliRunner().invoke(app, ["drift", "backtest", str(tmp_path / name), "--label", "label", "--json", *words])
    assert done.exit_code == 2
    assert complaint in json.loads(done.stdout)["error"]["message"]


def test_a_mark_of_byte_order_is_no_part_of_a_columns_name(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("\ufefft,x,label\n1,2,a\n")
    assert read_stream([tmp_path / "rows.csv"], label="label", time="t").times.tolist() == ["1"]


def test_rows_of_one_time_are_not_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("t,x,label\n" + "".join(f"{2 - i // 50},{i},a\n" for i in range(100)))
    found = read_stream([path], label="label", time="t")
    assert found.times.tolist() == ["1"] * 50 + ["2"] * 50
    assert found.numbers["x"].tolist() != sorted(found.numbers["x"])
