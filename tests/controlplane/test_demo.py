"""The demo itself, on real labelled text, in small."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from controlplane.demo.deployment import DemoFailed
from controlplane.demo.operator import STEP_S, Operator
from controlplane.demo.screen import Screen
from protos import control_pb2, control_pb2_grpc
from protos.contract.attestation import Operators, read_public
from tests.controlplane.cli.fake import FakeControl, served

DATA = Path(__file__).parents[3] / "shared" / "data" / "brand-safety-hate-davidson" / "train.jsonl.gz"
SUITE = Path(__file__).parent / "short_suite.toml"
LIMIT_S = 1500  # a limit for what hangs: a machine of half the speed takes three times as long


@pytest.mark.alone
@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA.name} is not beside the checkout")
def test_the_story_runs_from_an_empty_folder_to_a_verified_rollback(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "controlplane.demo", "--short", "--data", str(DATA), "--suite", str(SUITE)]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, timeout=LIMIT_S)
    logs = "".join(f"\n{path.name}: {path.read_text()[-1500:]}" for path in out.glob("*.log"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:] + logs
    summary = json.loads((out / "summary.json").read_text())

    assert summary["requests"] > 0
    assert summary["errors"] == 0
    assert 0 < summary["client_p50_ms"] <= summary["client_p99_ms"]
    plans = {plan["generation"]: plan for plan in summary["plans"]}
    assert sorted(plans) == list(plans)
    raised = [plan for plan in plans.values() if plan["canary_bp"]]
    assert raised and all(plan["approved_by"] for plan in raised)
    assert [refusal["reason"] for refusal in summary["refusals"]] == ["approval_missing"]
    assert not set(plans) & {refusal["generation"] for refusal in summary["refusals"]}
    assert plans[max(plans)]["candidate"] is None
    assert len({plan["primary"] for plan in plans.values()}) == 2
    assert any(reading["verdict"] == "drift" for reading in summary["drift"])
    assert {score["metric"] for score in summary["scores"]} >= {"macro_f1", "mean_cost"}
    assert summary["rollback_ms"] > 0
    assert summary["ledger_verified"] is True
    assert (Path(summary["evidence"]) / "manifest.json").is_file()
    assert Operators.read(out / "operators.json").required_approvals == 1
    assert read_public(out / "keys" / "plan.key.pub")


def test_a_rollout_that_is_taken_back_ends_the_story_at_once_and_says_why(tmp_path: Path) -> None:
    control = FakeControl()
    back = control_pb2.Rollout(id="r-1", phase="rolled_back", end_reason="shadow_cost is 0.3")
    control.rollouts = [control_pb2.Rollout(id="r-1", phase="shadow"), back]

    async def story(address: str) -> None:
        deployment: Any = SimpleNamespace(control=address, root=tmp_path)
        operator = Operator(deployment, "brand", Screen(Console(quiet=True)))
        with pytest.raises(DemoFailed, match="in shadow: rollout r-1 is rolled_back instead: shadow_cost is 0.3"):
            await operator.rollout("", lambda r: r.needs_approval_for == "canary", "in shadow")
        assert await operator.rollout("", lambda r: r.phase == "rolled_back", "taken back") == back
        await operator.close()

    with served(control_pb2_grpc.add_ControlServiceServicer_to_server, control) as address:
        asyncio.run(asyncio.wait_for(story(address), STEP_S / 2))
