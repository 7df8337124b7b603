"""The control plane and a gateway together: rollbacks made elsewhere, drills, a database edited by hand, witnesses."""

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controlplane.domain.rollout import GateReading, Phase, Verdict
from controlplane.loop import advance
from controlplane.loop.arms import BOUNDS_US
from controlplane.loop.publish import offer_of
from controlplane.store import ledger, plans
from gateway.metrics import LATENCY_BOUNDS_US
from protos import decide_pb2
from protos.contract.attestation import STATEMENT_TYPE, Operators, read_private, sign
from protos.contract.checkpoint import sign_checkpoint
from protos.contract.digest import canonical_json, input_digest
from protos.contract.operators import envelope_to_json, operators_envelope
from protos.contract.plan_rules import sign_plan
from protos.contract.rollback import RollbackOrder
from tests.controlplane.cli.fake import interlock, said
from tests.controlplane.governed import Governed, governed
from tests.controlplane.loop.fixture import NAME


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Governed]:
    with governed(tmp_path) as made:
        yield made


def order(site: Governed, bundle: str) -> Any:
    now = site.clock() // 1000
    made = RollbackOrder("ann", NAME, bundle, "test", now, now + 600, "n", "callers complain")
    return sign(made.payload(), STATEMENT_TYPE, read_private(site.root / "ann.key"))


def entries(site: Governed, action: str) -> list[dict[str, Any]]:
    with site.deployment.store.reading() as unit:
        return [e.detail for e in ledger.entries(unit.connection, 0, 1000) if e.action == action]


def control(site: Governed) -> tuple[str, str]:
    return ("--control", f"127.0.0.1:{site.port}")


def test_a_rollback_made_while_the_control_plane_was_away_is_followed_when_it_is_back(site: Governed) -> None:
    name, old, new = site.canary()
    site.stop_control()
    assert site.plan is not None
    site.plan.roll_back(order(site, new))
    assert site.split().candidate is None  # type: ignore[union-attr]
    site.start_control()
    row = site.until(lambda: (r := site.rollout(name)).state.phase is Phase.ROLLED_BACK and r, "reconciled")
    assert row.end_reason == "ann: callers complain" and row.rollback_ms is not None
    site.until(lambda: not site.plan.rollbacks, "a plan that carries it")
    assert site.split().primary == old  # type: ignore[union-attr]
    (recorded,) = entries(site, "rollback.local")
    assert (recorded["bundle"], recorded["gateway"], recorded["rollout"]) == (new, "g", name)
    assert recorded["took_us"] < 1_000_000


def test_a_rollback_told_late_is_followed_though_its_bundle_was_promoted_and_the_next_rollout_began(
    site: Governed,
) -> None:
    name, old, new = site.canary()
    site.stop_control()
    assert site.plan is not None
    site.plan.roll_back(order(site, new))
    site.stop_gateway()
    site.promote(name)
    third = site.world.bundle(3)
    following = site.proposed(third, new)
    assert site.rollout(following).state.phase is Phase.SHADOW
    site.start_control()
    plan = site.start_gateway()
    site.until(lambda: site.rollout(name).state.phase is Phase.ROLLED_BACK, "followed")
    site.until(lambda: not plan.rollbacks, "a plan that carries it")
    assert (site.split().primary, site.split().candidate) == (old, None)  # type: ignore[union-attr]
    assert site.rollout(following).state.phase is Phase.ROLLED_BACK
    again = site.proposed(third, old)
    site.until(lambda: site.split().salt == again, "the next rollout")  # type: ignore[union-attr]


def test_a_gateway_that_missed_a_promotion_follows_when_it_is_back(site: Governed) -> None:
    name, _, new = site.canary()
    site.stop_gateway()
    site.promote(name)
    following = site.proposed(site.world.bundle(3), new)
    site.start_gateway()
    site.until(lambda: (now := site.split()) and now.salt == following, "the plan that stands")
    assert site.split().primary == new  # type: ignore[union-attr]


def test_no_way_back_waits_for_its_report(site: Governed, monkeypatch: pytest.MonkeyPatch) -> None:
    name, old, _ = site.canary()

    def cannot(*_: Any) -> Any:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(advance, "whole_evidence", cannot)
        with site.deployment.store.writing(site.clock()) as unit:
            advance.end(unit, site.deployment, name, Phase.ROLLED_BACK, "ann", "slow")
        site.deployment.changed()
        # An approval without an end in sight is shown all the same.
        assert said("rollout", "status", name, *control(site))[1]["approvals"][0]["expires"].startswith("9999-12-31")
        site.until(lambda: site.split().candidate is None, "the way back")  # type: ignore[union-attr]
        advance.advance(site.deployment)
        assert site.split().primary == old and not site.rollout(name).evidence_path  # type: ignore[union-attr]
    advance.advance(site.deployment)
    assert Path(site.rollout(name).evidence_path, "manifest.json").exists()


def test_a_rollback_that_a_plan_carries_before_anybody_was_told_of_it_is_recorded_all_the_same(site: Governed) -> None:
    name, _, new = site.canary()
    plan = site.plan
    site.stop_gateway()
    assert plan is not None and plan.witness.head is not None
    plan.roll_back(order(site, new))
    with site.deployment.store.writing(site.clock()) as unit:
        advance.end(unit, site.deployment, name, Phase.ROLLED_BACK, "ann", "slow")
        row = plans.standing(unit)
        assert row is not None
        _, offer = offer_of(unit, site.deployment, row, plan.witness.head.size, 1, plan.generation)
    site.run(plan.offer(offer))
    assert not plan.rollbacks and not entries(site, "rollback.local")
    back = site.start_gateway()
    (recorded,) = site.until(lambda: entries(site, "rollback.local"), "the record")
    assert (recorded["bundle"], recorded["at_ms"]) == (new, plan.to_tell[0].at_unix_ms)
    site.until(lambda: not back.to_tell, "the gateway hears of it")


def test_a_drill_takes_the_real_way_back_and_the_shadow_returns(site: Governed) -> None:
    name, _, new = site.shadowing()
    code, found = said("rollout", "drill", name, "--as", "ann", *control(site))
    assert code == 0 and found["took_ms"] >= 1 and found["gateways"] == ["g"]
    site.until(lambda: site.split().candidate == new, "the shadow again")  # type: ignore[union-attr]
    assert entries(site, "rollback.drilled")[0]["took_ms"] == found["took_ms"]
    shown = said("rollout", "status", name, *control(site))[1]["drills"]
    assert [(d["took_ms"], d["gateways"], d["person"]) for d in shown] == [(found["took_ms"], ["g"], "ann")]
    assert f"rehearsed by ann at {shown[0]['at'][:10]}" in interlock("rollout", "status", name, *control(site))[1]
    with site.deployment.store.reading() as unit:
        assert plans.get(unit, found["generation"]).state == plans.APPLIED  # type: ignore[union-attr]


def test_no_wide_stage_is_reached_without_a_drill_where_one_is_asked_for(tmp_path: Path) -> None:
    with governed(tmp_path, rollout={"stages_bp": [100, 600], "drill_beyond_bp": 500}) as site:
        name, _, _ = site.shadowing()

        def drilled() -> GateReading:
            advance.advance(site.deployment)
            return next(reading for reading in site.rollout(name).gates if reading.gate == "rollback_drill")

        before = drilled()
        assert (before.verdict, before.sample_missing) == (Verdict.NOT_YET, 1) and "rollout drill" in before.summary
        assert said("rollout", "drill", name, "--as", "ann", *control(site))[0] == 0
        site.until(lambda: site.split().candidate is not None, "the shadow again")  # type: ignore[union-attr]
        assert (drilled().verdict, drilled().sample) == (Verdict.PASS, 1)
    (tmp_path / "other").mkdir()
    with governed(tmp_path / "other", rollout={"stages_bp": [100, 500], "drill_beyond_bp": 500}) as site:
        name, _, _ = site.shadowing()
        advance.advance(site.deployment)
        assert "rollback_drill" not in {reading.gate for reading in site.rollout(name).gates}


def test_a_drill_cut_short_puts_its_shadow_back(site: Governed) -> None:
    from controlplane.loop import drill
    from controlplane.store import rollouts

    name, _, new = site.shadowing()
    with site.deployment.store.writing(site.clock()) as unit:
        drill.begin(unit, site.deployment, rollouts.get(unit, name), "ann")  # type: ignore[arg-type]
    site.deployment.changed()
    site.until(lambda: site.split().candidate is None, "the drill's plan")  # type: ignore[union-attr]
    site.clock.now_ms += drill.ABANDONED_MS + 1
    advance.advance(site.deployment)
    site.until(lambda: site.split().candidate is not None, "the shadow again")  # type: ignore[union-attr]
    split = site.split()
    assert split is not None and (split.candidate, split.canary_bp) == (new, 0) and split.shadow_bp > 0


class TestEditedByHand:
    """Whoever writes into the database, even with the plan key, moves no traffic."""

    def smuggle(self, site: Governed, weight: int) -> None:
        with site.deployment.store.writing(site.clock()) as unit:
            standing = plans.standing(unit)
            assert standing is not None
            split = replace(standing.plan.splits[0], canary_bp=weight)
            forged = replace(standing.plan, generation=plans.last_generation(unit) + 1, splits=(split,))
            plans.add(unit, sign_plan(forged, site.deployment.key), forged, None)
        site.deployment.changed()

    def refusal(self, site: Governed) -> str:
        def newest() -> Any:
            with site.deployment.store.reading() as unit:
                row = plans.get(unit, plans.last_generation(unit))
            return row.reason if row is not None and row.state == plans.REFUSED else ""

        return str(site.until(newest, "a refusal"))

    def test_a_plan_written_into_the_table_is_refused(self, site: Governed) -> None:
        site.shadowing()
        self.smuggle(site, 5_000)
        assert self.refusal(site) == "approval_missing"
        assert site.split().canary_bp == 0  # type: ignore[union-attr]

    def test_an_approval_signed_by_a_key_that_is_nobody_s_is_refused(self, site: Governed) -> None:
        _, _, new = site.shadowing()
        split = site.split()
        assert split is not None
        site.approve(split, split, new, key="plan.key")
        self.smuggle(site, 5_000)
        assert self.refusal(site) == "signature_invalid"
        assert site.split().canary_bp == 0  # type: ignore[union-attr]

    def test_a_real_approval_does_not_let_an_unrecorded_plan_through(self, site: Governed) -> None:
        _, _, new = site.shadowing()
        split = site.split()
        assert split is not None
        site.approve(split, split, new)
        with site.deployment.store.writing(site.clock()) as unit:
            ledger.checkpoint(unit.connection, site.deployment.key, site.deployment.ledger_origin)
        self.smuggle(site, 5_000)
        assert self.refusal(site) == "plan_not_recorded"
        assert site.split().canary_bp == 0  # type: ignore[union-attr]

    def test_a_ledger_rewritten_under_the_plan_key_is_noticed_by_the_gateway(self, site: Governed) -> None:
        site.shadowing()
        site.stop_control()
        database = site.root / "control.db"
        with sqlite3.connect(database) as raw:
            for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type='trigger'").fetchall():
                raw.execute(f"DROP TRIGGER {name}")
            raw.execute("UPDATE ledger_entry SET body = CAST(replace(body, 'ann', 'eve') AS BLOB)")
            raw.execute("DELETE FROM ledger_checkpoint")
        raw.close()
        with site.deployment.store.writing(site.clock()) as unit:
            rebuilt(unit.connection)
            size, root = ledger.head(unit.connection)
            text = sign_checkpoint("interlock/test", size, root, site.deployment.key)
            unit.connection.execute(ledger.ledger_checkpoint.insert().values(size=size, text=text))
        site.start_control()
        self.smuggle(site, 5_000)
        assert self.refusal(site) in ("ledger_forked", "ledger_proof_stale")
        assert site.split().canary_bp == 0  # type: ignore[union-attr]


def rebuilt(connection: Any) -> None:
    """Recompute every node, as somebody with the database would."""
    from protos.contract.merkle import Trail, leaf_hash

    connection.execute(ledger.ledger_node.delete())
    trail = Trail()
    for (body,) in connection.execute(ledger.ledger_entry.select().with_only_columns(ledger.ledger_entry.c.body)):
        rows = [{"level": level, "idx": idx, "hash": node} for level, idx, node in trail.add(leaf_hash(body))]
        connection.execute(ledger.ledger_node.insert(), rows)


def test_gateways_and_an_auditor_vouch_for_the_head_and_the_export_says_so(site: Governed, tmp_path: Path) -> None:
    assert said("operator", "keygen", "--person", "ada", "--out", str(tmp_path / "ada.key"), "--role", "auditor",
                "--enrol", str(tmp_path / "operators.json"))[0] == 0  # fmt: skip
    site.shadowing()
    cosign = (
        "ledger", "cosign", "--person", "ada", "--key", str(tmp_path / "ada.key"), "--state", str(tmp_path / "seen"),
        "--plan-key", str(tmp_path / "plan.key.pub"), "--deployment", "test", *control(site),
    )  # fmt: skip

    def seen() -> Any:
        code, found = said(*cosign)
        assert code == 0, found
        return found if found["witnesses"] == ["auditor/ada", "gateway/g"] else None

    first = site.until(seen, "both witnesses")
    assert said(*cosign)[1]["from"] == first["size"]
    code, found = said("ledger", "export", str(tmp_path / "out"), *control(site))
    assert code == 0 and found["witnesses"] == dict.fromkeys(["auditor/ada", "gateway/g"], first["size"])
    keys = [f"auditor/ada={tmp_path / 'ada.key.pub'}", f"gateway/g={tmp_path / 'gw' / 'witness.key.pub'}"]
    verify = (
        "ledger", "verify", "--export", str(tmp_path / "out"), "--plan-key", str(tmp_path / "plan.key.pub"),
        "--deployment", "test", "--witness", keys[0], "--witness", keys[1], "--checkpoint", str(tmp_path / "seen"),
    )  # fmt: skip
    code, found = said(*verify)
    assert code == 0 and found["size"] == first["size"]
    # A head that nobody saw yet: each vouches for as much as it saw, and for no word more.
    site.stop_gateway()
    with site.deployment.store.writing(site.clock()) as unit:
        unit.record("ann", "note", {})
        ledger.checkpoint(unit.connection, site.deployment.key, "interlock/test")
        size, _ = ledger.head(unit.connection)
    assert said("ledger", "export", str(tmp_path / "out"), *control(site))[0] == 0
    code, found = said(*verify)
    assert code == 0, found
    assert found["size"] == size and found["witnesses"]["gateway/g"] < size
    words = tmp_path / "out" / "witnesses.json"
    seen_by, head = json.loads(words.read_text()), (tmp_path / "out" / "checkpoint.txt").read_text()
    for claimed in ({"auditor/ada": seen_by["auditor/ada"]}, {**seen_by, "gateway/g": head}):
        words.write_text(json.dumps(claimed))
        code, found = said(*verify)
        assert code == 1 and "gateway/g" in found["problem"]
    words.write_text(json.dumps(seen_by))
    code, found = said("ledger", "prove", "1", "--plan-key", str(tmp_path / "plan.key.pub"), "--deployment", "test",
                       *control(site))  # fmt: skip
    assert code == 0 and found["signature_checked"] and found["body"]["seq"] == 1
    code, found = said("ledger", "prove", "9999", *control(site))
    assert code == 2 and "entries, expected a head of 10000" in found["error"]["message"], found
    lines = (tmp_path / "out" / "entries.jsonl").read_bytes().splitlines(keepends=True)
    for changed in (lines[:1] + lines[2:], [lines[0], lines[2], lines[1], *lines[3:]], [*lines, lines[-1]]):
        (tmp_path / "out" / "entries.jsonl").write_bytes(b"".join(changed))
        assert said(*verify)[0] == 1
    # A past that was rewritten gets no second signature.
    text = (tmp_path / "seen").read_text()
    size = int(text.split("\n")[1])
    (tmp_path / "seen").write_text(sign_checkpoint("interlock/test", size, b"\1" * 32, site.deployment.key))
    code, found = said(*cosign)
    assert (code, found["error"]["status"]) == (1, "DATA_LOSS")


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


def test_a_rollout_is_watched_with_its_gates_arms_and_whoever_is_missing(site: Governed) -> None:
    name, _, new = site.shadowing()
    advance.advance(site.deployment)
    text = interlock("rollout", "watch", name, "--once", *control(site))[1]
    for said_ in (name, "shadow", new[7:19], "shadow_cost", "still needed", "gateway g on plan", "drops"):
        assert said_ in text, text
    code, found = said("rollout", "watch", name, *control(site))
    assert code == 0 and found["rollout"]["phase"] == "shadow" and "arms" in found
    assert BOUNDS_US == LATENCY_BOUNDS_US  # or the latencies shown would be of other buckets
