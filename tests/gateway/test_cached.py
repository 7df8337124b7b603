"""The decision cache as callers see it."""

import asyncio
from dataclasses import replace
from pathlib import Path

from perf.processes import free_port
from protos import decide_pb2
from tests.gateway.deployment import Deployment
from tests.gateway.stories import ended_shadow, first_split, run
from tests.tasks import TASK

CACHED = replace(TASK, cache_ttl_ms=600_000, deadline_us=10_000_000)


def test_an_answer_is_given_again_marked_and_only_as_its_own_bundles(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        deployment.settings["metrics_port"] = free_port()
        deployment.start_worker()
        await deployment.start_gateway()
        primary = deployment.bundle(CACHED, latency_us=50_000)
        split = first_split(primary)
        deployment.control.approve(split, primary)
        assert (await deployment.control.publish(split)).applied
        await deployment.until_serving()

        answers = await asyncio.gather(*(deployment.decide("label:unsafe x", routing_key=f"{i}") for i in range(4)))
        assert sorted(answer.cached for answer in answers) == [False, True, True, True]
        assert len({(a.label, a.score, a.decision, a.bundle_digest) for a in answers}) == 1
        assert len({a.decision_id for a in answers}) == 4
        assert {(a.timing.queue_us, a.timing.engine_us) for a in answers if a.cached} == {(0, 0)}
        assert not (await deployment.decide("label:safe x")).cached
        captured = [record.sample.answer.cached for record in await deployment.captured(5)]
        assert sorted(captured) == [False, False, True, True, True]

        # A canary asks its own bundle, whatever the primary has said; a hit is no pair for the shadow.
        candidate = deployment.bundle(CACHED, seed=7)
        shadowed = replace(split, candidate=candidate, shadow_bp=10_000, capture_bp=0, salt="second")
        canary = replace(shadowed, canary_bp=10_000)
        deployment.control.approve(canary, candidate)
        assert (await deployment.control.publish(shadowed)).applied
        assert (await deployment.decide("label:unsafe x")).cached
        shadow = await ended_shadow(deployment, 1)
        assert (shadow.sent, dict(shadow.drops)) == (0, {"shadow_cached": 1})
        assert (await deployment.control.publish(canary)).applied
        first, second = [await deployment.decide("label:unsafe x") for _ in range(2)]
        assert (first.arm, first.bundle_digest) == (decide_pb2.ARM_CANARY, candidate)
        assert (first.cached, second.cached) == (False, True)
        assert second.bundle_digest == candidate

        found = await deployment.scrape()
        who = ("specialist", "brand")
        lookups = {o: found["interlock_cache_lookups_total", ("outcome", o), who] for o in ("hit", "shared", "miss")}
        assert lookups == {"hit": 2, "shared": 3, "miss": 3}
        assert found["interlock_cache_entries",] == 3
        copies = {o: found["interlock_shadow_copies_total", ("outcome", o), who] for o in ("offered", "shadow_cached")}
        assert copies == {"offered": 1, "shadow_cached": 1}
        assert found["interlock_plan_generation",] == 3

        # What is kept needs no engine; what is not gets the fallback.
        deployment.kill("worker")
        assert (await deployment.decide("label:unsafe x")).cached
        assert (await deployment.decide("label:unsafe y")).fallback.used

    run(tmp_path, story)
