"""The control plane and a gateway together: rollbacks made elsewhere, and drills."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controlplane.domain.rollout import GateReading, Phase, Verdict
from controlplane.loop import advance
from controlplane.loop.publish import offer_of, publish
from controlplane.store import plans, rollouts
from protos.contract.attestation import (
    STATEMENT_TYPE,
    Operator,
    Operators,
    generate_key,
    public_text,
    read_private,
    read_public,
    sign,
)
from protos.contract.digest import canonical_json
from protos.contract.rollback import RollbackOrder
from tests.controlplane.cli.fake import interlock, said
from tests.controlplane.governed import Governed, control, entries, governed
from tests.controlplane.loop.fixture import NAME


def order(site: Governed, bundle: str) -> Any:
    now = site.clock() // 1000
    made = RollbackOrder("ann", NAME, bundle, "test", now, now + 600, "n", "callers complain")
    return sign(made.payload(), STATEMENT_TYPE, read_private(site.root / "ann.key"))


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


def test_a_step_that_gateways_refuse_holds_the_rollout_and_is_told(site: Governed) -> None:
    name, old, new = site.shadowing()
    generate_key(site.root / "zoe.key")
    zoe = Operator("zoe", ("approver",), (public_text(read_public(site.root / "zoe.key.pub")),))
    known = Operators.read(site.root / "operators.json")
    # Edited by hand: a gateway takes a changed list only as the next version.
    list_of = site.root / "operators.json"
    list_of.write_bytes(canonical_json(replace(known, people=(*known.people, zoe)).to_json()))
    split = site.approve_standing(new, key="zoe.key", person="zoe")
    with site.deployment.store.writing(site.clock()) as unit:
        row = rollouts.get(unit, name)
        assert row is not None
        made = publish(unit, site.deployment, replace(split, canary_bp=row.state.stages_bp[0]), name)
        moved = replace(rollouts.moved(row, phase=Phase.CANARY, stage=0), stage_generation=made.generation)
        rollouts.move(unit, row, moved, "test", "rollout.shifted", {})
    site.deployment.changed()
    site.until(lambda: entries(site, "plan.refused"), "the refusal")
    advance.advance(site.deployment)
    status = said("rollout", "status", name, *control(site))[1]
    assert status["held"] and status["phase"] == "shadow"
    assert status["waiting_for"].startswith(f"held, since plan {made.generation} was refused: signature_invalid, ")
    list_of.write_bytes(canonical_json(replace(known, version=2, people=(*known.people, zoe)).to_json()))
    assert said("rollout", "resume", name, "--as", "ann", "--reason", "zoe is known", *control(site))[0] == 0
    with site.deployment.store.writing(site.clock()) as unit:
        publish(unit, site.deployment, replace(split, canary_bp=500), name)
    site.deployment.changed()
    site.until(lambda: site.split().canary_bp == 500, "the canary")  # type: ignore[union-attr]
    assert site.split().primary == old  # type: ignore[union-attr]


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
