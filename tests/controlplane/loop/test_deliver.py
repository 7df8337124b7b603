"""Candidates are where gateways elsewhere fetch from before a plan names them."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controlplane.domain.rollout import Phase
from controlplane.loop import advance, opening
from controlplane.loop.work import Worker
from controlplane.store import jobs, ledger, rollouts
from protos.contract.base import BaseStore
from protos.contract.digest import canonical_json
from protos.contract.url_store import bases_of, open_store
from tests.controlplane.cli.fake import said
from tests.controlplane.governed import governed
from tests.controlplane.loop.fixture import NAME, World, world


async def in_thread(work: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(work)


def work(made: World) -> None:
    """Run every job that is queued."""

    async def main() -> None:
        worker = Worker(made.deployment, in_thread)
        while await worker.run_one():
            pass

    asyncio.run(asyncio.wait_for(main(), 120))


def start(made: World, bundle: str) -> str:
    """Open a rollout of a bundle that its evaluation accepted."""
    with made.deployment.store.writing(made.clock()) as unit:
        rollouts.add_bundle(unit, bundle, NAME, "operator", "trainer")
        split = advance.standing_split(unit, NAME)
        body = {
            "candidate": bundle,
            "primary": split.primary if split else None,
            "suite_digest": made.deployment.artifacts.put(canonical_json(made.deployment.pack(NAME).suite.to_json())),
            "accepted": True,
            "gates": [],
        }
        rollouts.add_evaluation(unit, "sha256:" + bundle[-64:][::-1], NAME, body)
        return opening.start(unit, made.deployment, NAME, bundle, "ops", None).state.id


def look(made: World, rollout: str) -> tuple[Phase, str]:
    advance.advance(made.deployment)
    with made.deployment.store.reading() as unit:
        row = rollouts.get(unit, rollout)
        assert row is not None
        return row.state.phase, row.waiting_for


def test_a_rollout_waits_until_its_candidate_and_its_base_are_in_the_store_of_the_others(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/origin"
    made = world(tmp_path, bundles_url=url)
    made.first_plan(made.bundle())
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_bytes(b"{}")
    base = BaseStore(tmp_path / "bundles" / "bases").add("base", folder)
    candidate = made.deployment.bundles.add(
        task=made.deployment.pack(NAME).task,
        engine={"backend": "simulator", "seed": 1},
        contents={},
        base={"name": "base", "digest": base},
        lineage={"author": "trainer"},
    ).digest
    rollout = start(made, candidate)
    phase, why = look(made, rollout)
    assert phase is Phase.EVALUATED
    assert f"{candidate} is not in {url} yet: job deliver-" in why
    assert "is queued" in why

    work(made)
    assert look(made, rollout)[0] is Phase.SHADOW
    origin = open_store(url)
    assert origin.load(candidate) == made.deployment.bundles.load(candidate)
    assert bases_of(origin).listing(base).digest == base
    with made.deployment.store.reading() as unit:
        counted = Counter(entry.action for entry in ledger.entries(unit.connection, 0, 1000))
    assert counted["bundle.delivered"] == 1


def test_a_delivery_that_failed_is_tried_again_until_the_store_is_there(tmp_path: Path) -> None:
    (tmp_path / "mount").write_text("not mounted")
    made = world(tmp_path, bundles_url=f"file://{tmp_path}/mount/origin")
    made.first_plan(made.bundle())
    rollout = start(made, candidate := made.bundle(1))
    work(made)
    assert "is failed" in look(made, rollout)[1]
    (tmp_path / "mount").unlink()
    work(made)  # not at once
    assert look(made, rollout)[0] is Phase.EVALUATED
    made.clock.now_ms += 60_000
    look(made, rollout)
    work(made)
    assert look(made, rollout)[0] is Phase.SHADOW
    assert open_store(made.deployment.settings.bundles_url).load(candidate).digest == candidate


def test_what_was_delivered_once_is_not_again_and_what_was_altered_there_is_replaced(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/origin"
    made = world(tmp_path, bundles_url=url)
    made.first_plan(made.bundle())
    candidate, origin = made.bundle(1), tmp_path / "origin" / made.bundle(1).removeprefix("sha256:")
    origin.mkdir(parents=True)
    (origin / "manifest.json").write_text("{}")
    first = start(made, candidate)
    work(made)
    assert open_store(url).load(candidate).digest == candidate
    assert look(made, first)[0] is Phase.SHADOW
    with made.deployment.store.writing(made.clock()) as unit:
        advance.end(unit, made.deployment, first, Phase.ROLLED_BACK, "ops", "not now")
        made.clock.now_ms += 1
    second = start(made, candidate)
    assert look(made, second)[0] is Phase.SHADOW
    with made.deployment.store.reading() as unit:
        assert [job.state for job in jobs.listed(unit) if job.kind == "deliver"] == [jobs.DONE]


def test_without_a_store_elsewhere_nothing_is_delivered_and_nothing_waits(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.first_plan(made.bundle())
    rollout = start(made, made.bundle(1))
    assert look(made, rollout)[0] is Phase.SHADOW
    with made.deployment.store.reading() as unit:
        assert jobs.listed(unit) == []


def test_a_bundle_that_nobody_knew_is_judged_although_its_copy_waits_too_and_a_failure_to_judge_it_is_told(
    tmp_path: Path,
) -> None:
    with governed(tmp_path, bundles_url=f"file://{tmp_path}/origin") as made:
        control = ("--control", f"127.0.0.1:{made.port}")
        code, started = said("rollout", "start", NAME, made.world.bundle(), "--as", "ops", *control)
        assert code == 0, started
        with made.deployment.store.writing(made.clock()) as unit:
            found = {job.kind: job.id for job in jobs.listed(unit)}
            assert set(found) == {"deliver", "evaluate"}
            jobs.finish(unit, found["evaluate"], jobs.FAILED, "no core to run on", None)
        advance.advance(made.deployment)
        waiting = made.rollout(started["id"]).waiting_for
        assert waiting == f"its evaluation failed, job {found['evaluate']}: no core to run on"


def test_a_store_whose_protocol_is_unknown_stops_the_process_when_it_starts(tmp_path: Path) -> None:
    from controlplane.__main__ import build
    from protos.contract.fields import FieldInvalid

    made = world(tmp_path, bundles_url="nowhere://bundles")
    with pytest.raises(FieldInvalid, match="store is 'nowhere://bundles', expected"):
        build(made.deployment.settings, lambda: None)
