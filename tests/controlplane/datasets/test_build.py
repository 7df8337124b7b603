import json
from pathlib import Path

import pytest

from controlplane.datasets.build import MANIFEST, ROWS, DatasetRefused, Part, build, verify, write
from controlplane.packs.example import Example
from tests.controlplane.cli.fake import interlock, said
from tests.tasks import TASK

HELD = [Example("the ferry leaves the harbour at seven every morning of the week", "safe")]
GOOD = tuple(
    Example(f"page {i} speaks of bread and of the price of flour", ("safe", "unsafe")[i % 2]) for i in range(20)
)
NEAR = Example("the ferry leaves the harbour at seven every morning of the weeks", "safe")


def test_held_out_rows_stay_out_and_the_manifest_counts_them(tmp_path: Path) -> None:
    parts = [Part("file", "f.csv", (*GOOD, HELD[0], NEAR), "CC BY 4.0"), Part("pack", "p", GOOD[:3])]
    manifest = write(build(TASK, parts, HELD), tmp_path)
    assert (manifest.rows, manifest.exact, manifest.near) == (20, 1, 1)
    assert [(s.kind, s.rows, s.licence) for s in manifest.sources] == [("file", 22, "CC BY 4.0"), ("pack", 3, "")]
    assert verify(tmp_path, HELD) == manifest


def test_the_same_sources_give_the_same_version_and_any_change_another(tmp_path: Path) -> None:
    first, again = (write(build(TASK, [Part("file", "f", GOOD)], HELD), tmp_path / n) for n in "ab")
    other = write(build(TASK, [Part("file", "f", GOOD[:-1])], HELD), tmp_path / "c")
    assert first.digest == again.digest != other.digest


def test_an_altered_set_and_one_that_overlaps_what_is_held_out_are_refused(tmp_path: Path) -> None:
    write(build(TASK, [Part("file", "f", GOOD)], HELD), tmp_path)
    with pytest.raises(DatasetRefused, match="overlaps what is held out: 1 texts exactly"):
        verify(tmp_path, [*HELD, GOOD[4]])
    rows = (tmp_path / ROWS).read_text()
    (tmp_path / ROWS).write_text(rows.replace("unsafe", "safe", 1))
    with pytest.raises(DatasetRefused, match="hashes to"):
        verify(tmp_path)
    (tmp_path / ROWS).write_text(rows)
    value = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps(value | {"rows": 3}))
    with pytest.raises(DatasetRefused, match="other rows"):
        verify(tmp_path)


def test_a_label_outside_the_set_refuses_the_build_and_nothing_left_is_said() -> None:
    with pytest.raises(DatasetRefused, match="file f: label is 'odd', expected safe, unsafe"):
        build(TASK, [Part("file", "f", (Example("text", "odd"),))], HELD)
    with pytest.raises(DatasetRefused, match="no row is left of 2: 2 held out"):
        build(TASK, [Part("file", "f", (HELD[0], NEAR))], HELD)


def test_the_command_line_builds_shows_and_verifies(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"a page about baking number {i},safe\n" for i in range(30)))
    made = ("dataset", "build", str(tmp_path / "set"), "--pack", "brand-safety", "--scenarios", "60")
    code, found = said(*made, "--data", str(rows), "--licence", "MIT", "--held-out-cases", "50")
    assert code == 0, found
    assert [(s["kind"], s["rows"]) for s in found["sources"]] == [("pack", 60), ("file", 30)]
    code, again = said(*made, "--seed", "2", "--held-out-cases", "50")
    assert code == 1 and "set exists, expected no such folder" in again["error"]["message"], "a version stays as it is"
    assert said("dataset", "show", str(tmp_path / "set"))[1]["digest"] == found["digest"]
    check = ("dataset", "verify", str(tmp_path / "set"), "--pack", "brand-safety", "--held-out-cases", "50")
    assert said(*check)[1]["verified"]
    code, wrong = said(*check, "--held-out", str(rows))
    assert (code, wrong["error"]["status"]) == (1, "FAILED_PRECONDITION") and "overlaps" in wrong["error"]["message"]
    other = (*check[:4], "fraud", *check[5:])
    code, wrong = said(*other)
    assert code == 1 and "set is for 'brand-safety', expected 'fraud'" in wrong["error"]["message"]
    assert "kept" in interlock("dataset", "show", str(tmp_path / "set"))[1]
    assert (
        said("dataset", "build", str(tmp_path / "x"), "--pack", "brand-safety")[1]["error"]["status"]
        == "INVALID_ARGUMENT"
    )


def test_a_published_set_is_read_by_its_own_columns_and_any_other_file_by_those_named(tmp_path: Path) -> None:
    rows = [
        (f"{i},{'spam' if i % 2 else 'ham'}", f"text {i} {'win a prize' if i % 2 else 'home soon'}") for i in range(200)
    ]
    sms, mine = tmp_path / "sms.csv", tmp_path / "mine.csv"
    sms.write_text("id,label,text\n" + "".join(f"{head},{text}\n" for head, text in rows))
    mine.write_text("number,kind,words\n" + "".join(f"{head},{text} again\n" for head, text in rows))
    assert said("specialist", "init", "messages", "--from", str(sms), "--into", str(tmp_path))[0] == 0
    made = ("dataset", "build", "--pack", f"{tmp_path}/messages/")
    code, found = said(*made, str(tmp_path / "a"), "--data", str(sms), "--batch", "id")
    assert code == 0, found
    assert set(found["labels"]) == {"legitimate", "fraud"} and found["exact"] > 0
    values = ("--label-value", "ham=legitimate", "--label-value", "spam=fraud")
    named = ("--label", "kind", "--field", "text=words", *values)
    code, found = said(*made, str(tmp_path / "b"), "--data", str(mine), *named, "--held-out", str(mine))
    assert code == 1 and "no row is left of 200: 200 held out" in found["error"]["message"]
    assert said(*made, str(tmp_path / "c"), "--data", str(mine), *named)[0] == 0


def test_a_published_set_of_another_task_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "sms.csv").write_text("id,label,text\n1,ham,hello\n")
    made = ("dataset", "build", str(tmp_path / "a"), "--pack", "fraud", "--data", str(tmp_path / "sms.csv"))
    code, found = said(*made)
    assert code == 2 and "sms.csv is of fraud-sms-spam, whose fields or labels are its own" in found["error"]["message"]
    assert not (tmp_path / "a").exists()
