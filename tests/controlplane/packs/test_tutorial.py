"""The tutorial, run as it is written; and what is wrong in somebody's folder is named."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.packs.registry import PackUnknown, load_pack
from controlplane.settings import ControlSettings
from protos.contract.bundle import BundleStore
from tests.controlplane.cli.fake import interlock, said

ROOT = Path(__file__).parents[3]
TUTORIAL = (ROOT / "controlplane/packs/TUTORIAL.md").read_text()


def test_every_block_of_the_tutorial_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", TUTORIAL, re.S)
    assert len(blocks) == 5
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }
    script = "set -euo pipefail\n" + "\n".join(blocks)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "macro_f1" in done.stdout and "by slice" in done.stdout
    assert "next, where a deployment has store and artifacts: interlock rollout start refund-abuse" in done.stdout
    settings = ControlSettings.read(tmp_path / "prod/interlock.toml")
    assert [load_pack(one.pack).task.name for one in settings.specialists] == ["brand-safety", "address-change"]


def folder(root: Path) -> Path:
    found = root / "mine"
    found.mkdir()
    for path in (ROOT / "controlplane/packs/template").iterdir():
        if path.is_file():
            (found / path.name).write_text(path.read_text())
    return found


WRONG = {
    "no file": ("suite.toml", None, "suite.toml does not exist"),
    "no draw": ("scenarios.py", "x = 1\n", "has no attribute 'draw'"),
    "no Python": ("scenarios.py", "def draw(:\n", "cannot be used"),
    "no TOML": ("pack.toml", "trainer = \n", "cannot be used"),
    "trainer": ("pack.toml", 'trainer = "magic"\n', "pack.toml.trainer is 'magic', expected one of encoder, additive"),
    "statement": (
        "pack.toml",
        'trainer = "additive"\n[statements]\nincome = "Income is low"\n',
        "pack.toml.statements has 'income', expected one of amount, text",
    ),
    "task": ("task.toml", 'name = "mine"\n', "task.description is missing"),
    "set": (
        "pack.toml",
        'trainer = "additive"\n[[sets]]\nname = "s"\nneeds = ["a"]\nlabel = "l"\nmetrics = ["auc"]\ncolour = 1\n',
        "pack.toml.sets[0] has unknown fields: colour",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_folder_is_refused_by_file_and_field(case: str, tmp_path: Path) -> None:
    name, text, words = WRONG[case]
    mine = folder(tmp_path)
    if text is None:
        (mine / name).unlink()
    else:
        (mine / name).write_text(text)
    with pytest.raises(PackUnknown) as refused:
        load_pack(f"{mine}/")
    assert words in str(refused.value)


def test_a_folder_is_tried_with_the_trainer_it_names_and_text_is_no_matter_for_trees(tmp_path: Path) -> None:
    mine = folder(tmp_path)
    settings = 'trainer = "trees"\n[analysers]\ntext = "{}"\n'
    (mine / "pack.toml").write_text(settings.format("spelling"))
    options = ("specialist", "try", str(mine), "--bundles", str(tmp_path / "bundles"), "--examples", "60")
    code, shown = interlock(*options)
    assert code == 2 and "field 'text' is text, expected numbers and categories" in shown
    (mine / "pack.toml").write_text(settings.format("whole"))
    code, found = said(*options)
    assert code == 0
    assert BundleStore(tmp_path / "bundles").manifest(found["bundle"]).backend == "trees"
