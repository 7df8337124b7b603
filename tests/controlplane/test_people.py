"""What people sign, on this machine and another, and what they are told of it."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.loop import advance
from controlplane.loop.arms import BOUNDS_US
from gateway.metrics import LATENCY_BOUNDS_US
from protos import decide_pb2
from protos.contract.attestation import Operators
from protos.contract.digest import canonical_json, input_digest
from protos.contract.operators import envelope_to_json, operators_envelope
from tests.controlplane.cli.fake import interlock, said
from tests.controlplane.governed import Governed, control, entries


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_an_approval_is_signed_on_another_machine_with_an_ssh_key(site: Governed, tmp_path: Path) -> None:
    key = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    operators = tmp_path / "operators.json"
    assert said("operator", "enrol", str(operators), "--person", "sue", "--key", f"{key}.pub")[0] == 0
    bundle = site.world.bundle(1)
    name = site.proposed(bundle, None)
    asked, signed = tmp_path / "asked.json", tmp_path / "signed.json"
    assert said("approval", "request", name, "--out", str(asked), *control(site))[0] == 0
    words = ("--key", str(key), "--person", "sue", "--out", str(signed))
    code, text = interlock("approval", "sign", str(asked), *words, given="reads well\ny\n")
    assert code == 0, text
    assert f"primary none → {bundle}" in text and "no primary to have got worse than" in text
    code, found = said("approval", "submit", str(signed), *control(site))
    assert (code, found["phase"], found["approvals"][0]["reason"]) == (0, "primary", "reads well")
    plan = site.start_gateway()
    site.until(lambda: plan.generation == 1, "the first plan at the gateway")
    again, found = said("approval", "submit", str(signed), *control(site))
    assert (again, found["error"]["status"]) == (1, "FAILED_PRECONDITION")


def test_what_is_carried_to_another_machine_cannot_be_changed_on_the_way(site: Governed, tmp_path: Path) -> None:
    name = site.proposed(site.world.bundle(1), None)
    asked = tmp_path / "asked.json"
    assert said("approval", "request", name, "--out", str(asked), *control(site))[0] == 0
    body = json.loads(asked.read_text())
    for field in ("statement", "evidence_manifest", "evaluation_json", "to_shape_json"):
        changed = {**body, "draft": {**body["draft"], field: "e30=" if field != "to_shape_json" else "{}"}}
        asked.write_text(json.dumps(changed))
        words = ("--key", str(tmp_path / "ann.key"), "--person", "ann", "--out", str(tmp_path / "o"))
        code, found = said("approval", "sign", str(asked), *words, "--reason", "fine", "--yes")
        assert (code, found["error"]["status"]) == (1, "DATA_LOSS"), field
    assert not (tmp_path / "o").exists()


def test_owners_publish_the_next_list_of_people_and_gateways_follow(site: Governed, tmp_path: Path) -> None:
    operators = tmp_path / "operators.json"
    assert said("operator", "keygen", "--person", "own", "--out", str(tmp_path / "own.key"), "--role", "owner",
                "--enrol", str(operators))[0] == 0  # fmt: skip
    before = Operators.read(operators)
    site.shadowing()
    assert said("operator", "keygen", "--person", "bob", "--out", str(tmp_path / "bob.key"))[0] == 0
    following = tmp_path / "next.json"
    without_ann = replace(before, version=before.version + 1, people=before.people[1:])
    following.write_bytes(canonical_json(envelope_to_json(operators_envelope(without_ann))))
    assert said("operator", "sign", str(following), "--key", str(tmp_path / "own.key"))[0] == 0
    code, found = said("operator", "publish", str(following), *control(site))
    assert code == 1 and "revoke" in found["error"]["message"], found
    enrol = ("operator", "enrol", str(operators), "--person", "bob", "--key", str(tmp_path / "bob.key.pub"))
    assert said(*enrol)[0] == 2  # owners sign what comes next
    assert said(*enrol, "--out", str(following))[0] == 0
    assert said("operator", "publish", str(following), *control(site))[0] == 2
    assert said("operator", "sign", str(following), "--key", str(tmp_path / "own.key"))[0] == 0
    code, found = said("operator", "publish", str(following), *control(site))
    assert (code, found["version"]) == (0, before.version + 1)
    assert "bob" in {p.person for p in Operators.read(operators).people}
    name = entries(site, "rollout.started")[-1]["rollout"]
    assert said("rollout", "drill", name, "--as", "ann", *control(site))[0] == 0
    assert site.plan is not None and site.plan.operators.version == before.version + 1
    # The gateway goes on by it, whatever its administrator pinned before.
    operators.write_bytes(canonical_json(before.to_json()))
    assert site.start_gateway().operators.version == before.version + 1


def test_one_decision_is_explained_down_to_whose_approval_it_rested_on(site: Governed) -> None:
    old = site.world.bundle(1)
    site.world.first_plan(old)
    from controlplane.loop.observe import observe
    from tests.controlplane.loop.fixture import outcome

    made = site.world.sample("a text", bundle=old, reasons=[decide_pb2.Reason(field="text", log_odds=1.5)])
    made.sample.input_digest = input_digest(made.sample.input)
    for label, share in (("safe", 0.8), ("sensitive", 0.1), ("unsafe", 0.1)):
        made.sample.answer.probabilities.add(label=label, probability=share)
    site.world.capture([made, outcome(1, "unsafe")])
    observe(site.deployment)
    code, found = said("decision", "show", "d-1", *control(site))
    assert code == 0
    assert (found["decision"], found["arm"], found["bundle_digest"]) == ("allow", "primary", old)
    assert (found["input"], found["outcome"], found["approved_by"]) == ("a text", "unsafe", ["ann"])
    assert found["plan_generation"] == 1 and found["ledger_seq"] > 0
    assert found["input_digest"] == made.sample.input_digest and found["reason_codes"] == ["text"]
    costs = {one["decision"]: one["cost"] for one in found["expected_costs"]}
    assert min(costs, key=lambda name: costs[name]) == "allow" and found["threshold"] > found["score"]
    assert "ann" in interlock("decision", "show", "d-1", *control(site))[1]
    assert said("decision", "show", "d-9", *control(site))[1]["error"]["status"] == "NOT_FOUND"
    code, found = said("decision", "show", "d-1", "--specialist", "nobody", *control(site))
    assert code == 1 and "specialist is 'nobody', expected one of" in found["error"]["message"]


def test_a_rollout_is_watched_with_its_gates_arms_and_whoever_is_missing(site: Governed) -> None:
    name, _, new = site.shadowing()
    advance.advance(site.deployment)
    text = interlock("rollout", "watch", name, "--once", *control(site))[1]
    for said_ in (name, "shadow", new[7:19], "shadow_cost", "still needed", "gateway g on plan", "drops"):
        assert said_ in text, text
    code, found = said("rollout", "watch", name, *control(site))
    assert code == 0 and found["rollout"]["phase"] == "shadow" and "arms" in found
    assert BOUNDS_US == LATENCY_BOUNDS_US  # or the latencies shown would be of other buckets
