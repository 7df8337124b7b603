import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from controlplane.settings import ControlSettings
from protos.contract.fields import FieldInvalid
from protos.contract.servers import read_servers

LEAST: dict[str, Any] = {
    "deployment": "d",
    "bundles_dir": "bundles",
    "capture_dir": "capture",
    "operators": "operators.json",
    "plan_key": "plan.key",
    "specialists": [{"pack": "brand-safety"}],
}


def test_paths_and_a_relative_database_are_relative_to_the_file(tmp_path: Path) -> None:
    found = ControlSettings.from_json(LEAST, tmp_path)
    assert found.database == f"sqlite:///{tmp_path}/control.db"
    assert found.plan_key == tmp_path / "plan.key"
    url = "postgresql+psycopg://me@db/interlock"
    assert ControlSettings.from_json(LEAST | {"database": url}, tmp_path).database == url


def test_servers_elsewhere_are_those_of_the_gateways_tables_in_the_same_file(tmp_path: Path) -> None:
    # As on a machine without a gateway: nothing else is said of one.
    file = tmp_path / "interlock.toml"
    engine = 'name = "far"\nkind = "oip"\naddress = "10.0.0.5:8001"\ncredentials = "far.token"\n'
    least = "".join(f"{k} = {json.dumps(v)}\n" for k, v in LEAST.items() if k != "specialists")
    text = f'[controlplane]\n{least}specialists = [{{ pack = "brand-safety" }}]\n'
    file.write_text(f"{text}[[gateway.engines]]\n{engine}")
    (found,) = ControlSettings.read(file).engines
    assert (found.name, found.credentials) == ("far", tmp_path / "far.token")
    assert read_servers([found.to_json()], Path("/elsewhere")) == (found,), "a child process reads the same"
    file.write_text(text)
    assert ControlSettings.read(file).engines == ()
    for line, words in (
        ("max_batch = 0\n", "max_batch is 0"),
        ("models = 1\n", "models is 1"),
        (engine, "not a readable TOML file"),
    ):
        file.write_text(f"{text}[[gateway.engines]]\n{engine}{line}")
        with pytest.raises(FieldInvalid, match=words):
            ControlSettings.read(file)
    url = "https://me:secret@10.0.0.5/v1"
    with pytest.raises(FieldInvalid, match="has a user or password in it") as failed:
        read_servers([{"name": "far", "kind": "openai-http", "address": url}], tmp_path)
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tick": 1}, "unknown fields: tick"),
        ({"tick_s": 0}, "tick_s is 0, expected"),
        ({"listen": "127.0.0.1"}, "listen is '127.0.0.1', expected HOST:PORT"),
        ({"listen": "127.0.0.1:99999"}, "listen is '127.0.0.1:99999', expected HOST:PORT"),
        ({"listen": "localhost:"}, "listen is 'localhost:', expected HOST:PORT"),
        ({"specialists": []}, "specialists is empty"),
        ({"specialists": [{"pack": "brand-safety", "path": "x"}]}, r"specialists\[0\] has unknown fields: path"),
        ({"drift": {"window": 900}}, "expected at least two windows of 900"),
        ({"drift": {"false_alarm_rate": 2}}, "false_alarm_rate is 2"),
        ({"rollout": {"stages_bp": [500, 100]}}, "expected rising"),
        ({"rollout": {"stages_bp": [9000]}}, "expected rising"),
        ({"rollout": {"stages_bp": ["1"]}}, "expected rising"),
        ({"training": {"epochs": 0}}, "epochs is 0"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_wrong_setting_is_named_with_its_value_and_what_was_expected(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(FieldInvalid, match=words):
        ControlSettings.from_json(LEAST | change, tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[gateway]\n", "no table"),
        ("[controlplane]\ndeployment = 1\n", "deployment is 1"),
        (
            '[controlplane]\ndeployment = "d"\nbundles_dir = "b"\ncapture_dir = "c"\noperators = "o"\n'
            'plan_key = "missing.key"\nspecialists = [{pack = "brand-safety"}]\n',
            "missing.key",
        ),
    ],
    ids=["table", "type", "key"],
)
def test_a_process_that_cannot_start_says_why_and_exits_with_2(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "controlplane", "--config", str(tmp_path / "c.toml")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr
