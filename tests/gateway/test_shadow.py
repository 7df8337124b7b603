"""Shadow copies over real processes: pairs on record, and a count of what was not seen."""

import asyncio
from dataclasses import replace
from pathlib import Path

from protos import decide_pb2, decide_pb2_grpc, engine_pb2
from protos.contract.plan import Split
from tests.gateway.deployment import PATIENCE_S, Deployment
from tests.gateway.stories import ended_shadow, run, start


async def shadowed(deployment: Deployment, **engine: int) -> tuple[Split, str]:
    """Shadow all requests; return what stood before, and the candidate."""
    split = await start(deployment)
    candidate = deployment.bundle(seed=7, **engine)
    following = replace(split, candidate=candidate, shadow_bp=10_000, capture_bp=0, salt="second")
    assert (await deployment.control.publish(following)).applied
    return split, candidate


def test_shadow_pairs_are_recorded_and_never_returned(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        split, candidate = await shadowed(deployment)
        answers = {}
        for i in range(30):
            answer = await deployment.decide(f"page {i}", decision_id=f"d-{i}")
            assert answer.bundle_digest == split.primary
            answers[answer.decision_id] = answer
        pairs = [record.shadow_pair for record in await deployment.captured(30)]
        assert {pair.decision_id for pair in pairs} == set(answers)
        for pair in pairs:
            answer = answers[pair.decision_id]
            assert pair.primary_label == answer.label
            assert list(pair.primary_probabilities) == [p.probability for p in answer.probabilities]
            assert pair.primary_engine_us == answer.timing.engine_us
            assert pair.candidate_digest == candidate
            assert max(pair.candidate_probabilities) > 0
            assert 0 < pair.candidate_engine_us <= pair.candidate_us
        assert any(pair.primary_label != pair.candidate_label for pair in pairs)

    run(tmp_path, story)


def test_a_slow_candidate_is_late_in_shadow_and_one_that_hangs_is_no_pair(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        _, slow = await shadowed(deployment, latency_us=250_000)
        await deployment.decide("one")
        (record,) = await deployment.captured(1)
        assert record.shadow_pair.candidate_decision
        assert not record.shadow_pair.candidate_in_time

        await deployment.inject(slow, engine_pb2.FAULT_KIND_DELAY, delay_us=30_000_000)
        await deployment.decide("two")
        records = await deployment.captured(2)
        assert dict(records[1].drops.by_cause) == {"shadow_late": 1}
        shadow = await ended_shadow(deployment, 2)
        assert (shadow.sent, shadow.paired, dict(shadow.drops)) == (2, 1, {"shadow_late": 1})

    run(tmp_path, story)


def test_a_shadow_copy_whose_caller_left_is_counted_as_dropped(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        split, candidate = await shadowed(deployment)
        await deployment.inject(split.primary, engine_pb2.FAULT_KIND_DELAY, delay_us=5_000_000)
        async with deployment.channel() as channel:
            request = decide_pb2.DecideRequest(specialist="brand", input=decide_pb2.Input(text="x"))
            stub = decide_pb2_grpc.DecisionServiceStub(channel)
            async with asyncio.timeout(PATIENCE_S):
                while not any("shadow_primary_away" in report.drops for report in deployment.control.reports):
                    call = stub.Decide(request)
                    await asyncio.sleep(0.05)  # a call that has not arrived yet is simply made again
                    call.cancel()
        shadow = await ended_shadow(deployment, 1)
        assert (shadow.paired, set(shadow.drops)) == (0, {"shadow_primary_away"})

    run(tmp_path, story)
