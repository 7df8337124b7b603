"""Units kept from every model, so that what the model is worth can be measured."""

import asyncio
from dataclasses import replace
from pathlib import Path

from protos import decide_pb2
from tests.gateway.deployment import PATIENCE_S, Deployment
from tests.gateway.stories import first_split, run
from tests.tasks import TASK


def test_held_back_units_get_the_declared_decision_without_a_model_and_are_counted_and_captured(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        deployment.start_worker()
        await deployment.start_gateway()
        bundle = deployment.bundle(replace(TASK, holdback_decision="allow"))
        split = replace(first_split(bundle), holdback_bp=1_000)
        deployment.control.approve(split, bundle)
        assert (await deployment.control.publish(split)).applied
        await deployment.until_serving()
        answers = [await deployment.decide("label:unsafe x", routing_key=f"caller {i}") for i in range(80)]
        held = [answer for answer in answers if answer.arm == decide_pb2.ARM_HOLDBACK]
        assert 1 <= len(held) <= 30
        for answer in held:
            assert (answer.decision, answer.score, answer.label) == ("allow", TASK.fallback_score, "")
            assert (answer.fallback.used, answer.fallback.reason) == (True, decide_pb2.FALLBACK_REASON_HOLDBACK)
            assert (answer.bundle_digest, answer.timing.engine_us) == (bundle, 0)
        assert {a.decision for a in answers if a.arm != decide_pb2.ARM_HOLDBACK} == {"block"}

        captured = [record.sample.answer.arm for record in await deployment.captured(len(answers))]
        assert captured.count(decide_pb2.ARM_HOLDBACK) == len(held)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                reports = deployment.control.reports
                arms = {arm.arm: arm for arm in (reports[-1].arms if reports else ())}
                if sum(arm.requests for arm in arms.values()) == len(answers):
                    break
                await asyncio.sleep(0.02)
        counted = arms[decide_pb2.ARM_HOLDBACK]
        assert (counted.requests, dict(counted.fallbacks)) == (len(held), {"holdback": len(held)})

        # The same units, with no engine left.
        deployment.kill("worker")
        again = [await deployment.decide(routing_key=f"caller {i}") for i in range(80)]
        assert [a.arm == decide_pb2.ARM_HOLDBACK for a in again] == [a.arm == decide_pb2.ARM_HOLDBACK for a in answers]

    run(tmp_path, story)
