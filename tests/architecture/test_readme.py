"""What the README says exists, exists."""

import re

from gateway.settings import GatewaySettings
from tests.architecture.test_imports import ROOT

README = (ROOT / "README.md").read_text()


def test_its_settings_are_settings() -> None:
    block = README.split("```toml", 1)[1].split("```", 1)[0]
    named = set(re.findall(r"^(\w+) =", block, re.M))
    assert named and named <= set(GatewaySettings.__dataclass_fields__)


def test_its_files_and_modules_exist() -> None:
    for path in re.findall(r"`((?:protos|gateway|controlplane|tests)/[\w/.]*)`", README):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m (gateway[\w.]*)", README):
        assert (ROOT / module.replace(".", "/") / "__main__.py").exists(), module


def test_every_reason_it_lists_is_in_the_code() -> None:
    table = README.split("## What the gateway refuses", 1)[1].split("A refused plan", 1)[0]
    code = "".join(p.read_text() for folder in ("protos/contract", "gateway") for p in (ROOT / folder).rglob("*.py"))
    for reason in re.findall(r"`(\w+)`", table):
        assert f'"{reason}"' in code, reason
