"""The demo itself, on real labelled text, in small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from protos.contract.attestation import Operators, read_public

DATA = Path(__file__).parents[3] / "shared" / "data" / "brand-safety-hate-davidson" / "train.jsonl.gz"
SUITE = Path(__file__).parent / "short_suite.toml"
LIMIT_S = 540


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
