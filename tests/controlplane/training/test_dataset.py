from pathlib import Path

import pytest

from controlplane.packs.example import Example
from controlplane.training.dataset import (
    DatasetInvalid,
    dataset_digest,
    fence,
    normalise,
    read_dataset,
    write_dataset,
)


def test_normalising_ignores_case_width_punctuation_and_spacing() -> None:
    assert normalise("  Ｈello,\tWORLD!! ") == normalise("hello world") == "hello world"


def test_the_fence_removes_a_held_out_text_however_it_is_punctuated() -> None:
    kept, removed = fence([Example("Buy now!", "a"), Example("other", "b")], [Example("buy... NOW", "a")])
    assert [example.text for example in kept] == ["other"]
    assert removed == 1


def test_a_written_dataset_reads_back_equal_and_keeps_its_digest(tmp_path: Path) -> None:
    rows = [Example("line\nbreak \u2028 ✨", "a", "s"), Example("x", "b")]
    digest = write_dataset(tmp_path / "d.jsonl", rows)
    assert read_dataset(tmp_path / "d.jsonl") == rows
    assert dataset_digest(rows) == digest != dataset_digest(rows[::-1])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"text": "a", "label": "z"}\n', "line 1: row.label"),
        ('{"text": "a", "label": "a"}\n{"label": "a"}\n', "line 2: row.text"),
        ("nonsense\n", "line 1: not JSON"),
        ("\n", "is empty"),
    ],
    ids=["label", "missing", "json", "empty"],
)
def test_a_bad_dataset_is_refused_by_line_and_field(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "d.jsonl").write_text(content)
    with pytest.raises(DatasetInvalid, match=complaint):
        read_dataset(tmp_path / "d.jsonl", ("a", "b"))
