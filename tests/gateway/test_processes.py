"""The gateway and its worker as a user runs them: real processes, real sockets, real gRPC."""

import asyncio
import random
import signal
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protos import decide_pb2, decide_pb2_grpc, engine_pb2
from tests.gateway.deployment import PATIENCE_S, Deployment
from tests.gateway.stories import SLOW, first_split, run, start
from tests.tasks import TASK


def status_of(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    return error.code().name, error.details() or ""


def test_a_decision_comes_back_whole_and_is_captured(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        split = await start(deployment)
        answer = await deployment.decide("label:unsafe weapons for sale", routing_key="caller", decision_id="d-1")
        assert (answer.label, answer.decision, answer.decision_id) == ("unsafe", "block", "d-1")
        assert answer.score == pytest.approx(answer.probabilities[1].probability)
        assert sum(p.probability for p in answer.probabilities) == pytest.approx(1.0)
        assert (answer.bundle_digest, answer.plan_generation) == (split.primary, 1)
        assert not answer.fallback.used
        assert answer.timing.total_us >= answer.timing.engine_us
        async with deployment.channel() as channel:
            outcome = decide_pb2.ReportOutcomeRequest(specialist="brand", decision_id="d-1", label="safe")
            said = await decide_pb2_grpc.DecisionServiceStub(channel).ReportOutcome(outcome)
        assert said.recorded
        sample, outcome_record = await deployment.captured(2)
        assert sample.sample.input.text == "label:unsafe weapons for sale"
        assert sample.sample.answer == answer
        assert outcome_record.outcome.label == "safe"

    run(tmp_path, story)


def test_the_gateway_refuses_what_nobody_approved_and_goes_on_serving(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        control = deployment.control
        split = await start(deployment)
        candidate = deployment.bundle(seed=7)
        shadowed = replace(split, candidate=candidate, shadow_bp=10_000, salt="second")
        assert (await control.publish(shadowed)).applied
        canary = replace(shadowed, canary_bp=10_000)

        refused = await control.publish(canary)
        assert (refused.applied, refused.reason) == (False, "approval_missing")
        forged = await control.publish(shadowed, key=Ed25519PrivateKey.generate())
        assert (forged.applied, forged.reason) == (False, "signature_invalid")
        replayed = await control.publish(split, generation=1)
        assert (replayed.applied, replayed.reason) == (False, "stale_generation")
        control.generation = 10
        for i in range(20):
            answer = await deployment.decide(routing_key=f"caller-{i}")
            assert (answer.plan_generation, answer.bundle_digest) == (2, split.primary)

        control.approve(canary, candidate, ceiling_bp=500)
        over = await control.publish(canary)
        assert (over.applied, over.reason) == (False, "over_ceiling")
        control.approve(canary, candidate)
        approved = await control.publish(canary)
        assert approved.applied, approved.message
        answer = await deployment.decide(routing_key="caller")
        assert (answer.arm, answer.bundle_digest) == (decide_pb2.ARM_CANARY, candidate)

    run(tmp_path, story)


def test_an_error_counts_as_a_request_that_was_not_answered(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        task = replace(TASK, on_refusal="error")
        deployment.start_worker()
        await deployment.start_gateway()
        split = first_split(deployment.bundle(task))
        deployment.control.approve(split, split.primary)
        assert (await deployment.control.publish(split)).applied
        await deployment.until_serving()
        await deployment.inject(split.primary, engine_pb2.FAULT_KIND_ERROR)
        with pytest.raises(grpc.aio.AioRpcError):
            await deployment.decide()
        async with asyncio.timeout(PATIENCE_S):
            while not any(arm.requests for report in deployment.control.reports for arm in report.arms):
                await asyncio.sleep(0.01)
        (arm,) = deployment.control.reports[-1].arms
        assert (arm.requests, arm.errors, arm.in_time, sum(arm.latency_counts)) == (1, 1, 0, 1)

    run(tmp_path, story)


def test_a_restarted_gateway_serves_its_last_plan_with_everything_else_gone(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        split = await start(deployment)
        deployment.kill("gateway")
        deployment.settings["control"] = ""
        await deployment.start_gateway()
        await deployment.until_serving()
        answer = await deployment.decide()
        assert (answer.bundle_digest, answer.plan_generation, answer.fallback.used) == (split.primary, 1, False)

    run(tmp_path, story)


def test_a_killed_worker_costs_fallbacks_not_errors_and_comes_back(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        await start(deployment)
        deployment.kill("worker")
        answer = await deployment.decide()
        assert answer.fallback.used
        assert answer.fallback.reason in (
            decide_pb2.FALLBACK_REASON_ENGINE_UNAVAILABLE,
            decide_pb2.FALLBACK_REASON_DEADLINE,
        )
        assert (answer.decision, answer.score) == ("block", 1.0)
        deployment.start_worker()
        async with asyncio.timeout(PATIENCE_S):
            while (await deployment.decide()).fallback.used:  # an error would end the loop, and the test
                pass

    run(tmp_path, story)


def test_a_tampered_bundle_is_refused_and_the_old_plan_stays(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        split = await start(deployment)
        candidate = deployment.bundle(seed=9)
        manifest = deployment.store.path(candidate) / "manifest.json"
        manifest.write_bytes(manifest.read_bytes().replace(b'"seed":9', b'"seed":8'))
        refused = await deployment.control.publish(replace(split, candidate=candidate, shadow_bp=100, salt="second"))
        assert (refused.applied, refused.reason, refused.generation_in_force) == (False, "bundle_invalid", 1)
        assert candidate in refused.message

    run(tmp_path, story)


def test_bad_requests_get_their_status_and_name_the_field(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        deployment.start_worker()
        await deployment.start_gateway()
        with pytest.raises(grpc.aio.AioRpcError) as early:
            await deployment.decide()
        assert early.value.code() is grpc.StatusCode.UNAVAILABLE
        split = first_split(deployment.bundle(latency_us=20_000))
        deployment.control.approve(split, split.primary)
        assert (await deployment.control.publish(split)).applied
        cases = [
            ({"text": ""}, "INVALID_ARGUMENT", "input.text"),
            ({"text": "x" * (TASK.max_input_bytes + 100)}, "INVALID_ARGUMENT", "expected at most"),
            ({"routing_key": "k" * 300}, "INVALID_ARGUMENT", "routing_key"),
        ]
        for fields, code, words in cases:
            with pytest.raises(grpc.aio.AioRpcError) as bad:
                await deployment.decide(**fields)  # type: ignore[arg-type]
            found = status_of(bad.value)
            assert found[0] == code and words in found[1], found
        async with deployment.channel() as channel:
            stub = decide_pb2_grpc.DecisionServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await stub.Decide(decide_pb2.DecideRequest(specialist="nobody"))
            assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
            raw = channel.unary_unary("/interlock.v1.DecisionService/Decide")
            with pytest.raises(grpc.aio.AioRpcError) as malformed:
                await raw(b"\xff\xff\xff")
            assert status_of(malformed.value)[0] == "INVALID_ARGUMENT"
            assert "Traceback" not in status_of(malformed.value)[1]
        short = await deployment.decide(budget_us=5_000)
        assert short.fallback.used
        assert short.fallback.reason in (decide_pb2.FALLBACK_REASON_DEADLINE, decide_pb2.FALLBACK_REASON_NO_TIME)

    run(tmp_path, story)


def test_a_drain_loses_no_call_that_was_accepted(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        deployment.start_worker()
        await deployment.start_gateway()
        split = first_split(deployment.bundle(latency_us=50_000))
        deployment.control.approve(split, split.primary)
        assert (await deployment.control.publish(split)).applied
        await deployment.until_serving()
        async with deployment.channel() as channel:
            stub = decide_pb2_grpc.DecisionServiceStub(channel)
            request = decide_pb2.DecideRequest(specialist="brand", input=decide_pb2.Input(text="page"))
            calls = [stub.Decide(request) for _ in range(3)]
            # Every call is at the gateway before it is told to stop.
            await asyncio.gather(*(call.wait_for_connection() for call in calls))
            code = await asyncio.to_thread(deployment.kill, "gateway", signal.SIGTERM)
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert code == 0
        for outcome in outcomes:
            is_answer = isinstance(outcome, decide_pb2.DecideResponse)
            is_refusal = isinstance(outcome, grpc.aio.AioRpcError) and outcome.code() is grpc.StatusCode.UNAVAILABLE
            assert is_answer or is_refusal, outcome

    run(tmp_path, story)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("surprise", 1, "unknown fields: surprise"),
        ("max_in_flight", 0, "max_in_flight is 0, expected a whole number"),
        ("operators", "nowhere.json", "nowhere.json"),
        ("plan_key", "operators.json", "expected 'ed25519:'"),
    ],
)
def test_a_wrong_setting_stops_the_process_with_a_sentence(
    tmp_path: Path, setting: str, value: object, words: str
) -> None:
    async def story(deployment: Deployment) -> None:
        deployment.settings[setting] = value
        with pytest.raises(AssertionError):
            await deployment.start_gateway()
        assert deployment.processes["gateway"].wait() == 2
        said = (tmp_path / "gateway.log").read_text()
        assert words in said and "Traceback" not in said, said

    run(tmp_path, story)


def test_a_worker_killed_in_the_middle_of_a_call_costs_its_calls_a_fallback(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        deployment.start_worker()
        await deployment.start_gateway()
        split = first_split(deployment.bundle(task=SLOW, latency_us=8_000_000))
        deployment.control.approve(split, split.primary)
        assert (await deployment.control.publish(split)).applied
        await deployment.until_serving()
        calls = []
        while await deployment.queued() == 0:  # once a job waits, another one is on the device
            calls.append(asyncio.create_task(deployment.decide(timeout=PATIENCE_S)))
            await asyncio.sleep(0.1)  # calls without end would drown a busy machine
        await asyncio.to_thread(deployment.kill, "worker")
        for answer in await asyncio.gather(*calls):
            assert answer.fallback.reason == decide_pb2.FALLBACK_REASON_ENGINE_UNAVAILABLE
            assert (answer.decision, answer.score) == ("block", 1.0)

    run(tmp_path, story)


def test_bytes_that_are_no_message_never_hurt_the_front(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        await start(deployment)
        draw = random.Random(1)
        good = decide_pb2.DecideRequest(specialist="brand", input=decide_pb2.Input(text="hello")).SerializeToString()
        codes = set()
        async with deployment.channel() as channel:
            for method in ("interlock.v1.DecisionService/Decide", "inference.GRPCInferenceService/ModelInfer"):
                raw = channel.unary_unary(f"/{method}")
                for _ in range(150):
                    data = bytearray(good if draw.random() < 0.7 else draw.randbytes(draw.randrange(200)))
                    for _ in range(draw.randrange(4)):
                        if data:
                            data[draw.randrange(len(data))] = draw.randrange(256)
                    try:
                        await raw(bytes(data), timeout=PATIENCE_S)
                        codes.add("OK")
                    except grpc.aio.AioRpcError as error:
                        codes.add(error.code().name)
                        assert "Traceback" not in (error.details() or "")
        assert codes <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}
        assert "INVALID_ARGUMENT" in codes
        assert not (await deployment.decide()).fallback.used

    run(tmp_path, story)


def test_a_deadline_that_has_passed_ends_the_call_and_the_next_is_served(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        await start(deployment)
        with pytest.raises(grpc.aio.AioRpcError) as expired:
            await deployment.decide(timeout=-1.0)
        assert expired.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        # On the wire, by a caller that does not give up by itself.
        async with deployment.channel() as channel:
            request = decide_pb2.DecideRequest(specialist="brand", input=decide_pb2.Input(text="x"), budget_us=1)
            answer = await decide_pb2_grpc.DecisionServiceStub(channel).Decide(request)
            assert (answer.fallback.used, answer.fallback.reason) == (True, decide_pb2.FALLBACK_REASON_NO_TIME)
        assert not (await deployment.decide()).fallback.used

    run(tmp_path, story)


def test_an_engine_that_answers_late_costs_a_fallback_at_the_deadline(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        split = await start(deployment)
        await deployment.inject(split.primary, engine_pb2.FAULT_KIND_ERROR)
        broken = await deployment.decide()
        assert (broken.fallback.used, broken.fallback.reason) == (True, decide_pb2.FALLBACK_REASON_ENGINE_ERROR)
        await deployment.inject(split.primary, engine_pb2.FAULT_KIND_DELAY, delay_us=2_000_000)
        answer = await deployment.decide()
        assert (answer.fallback.used, answer.fallback.reason) == (True, decide_pb2.FALLBACK_REASON_DEADLINE)
        assert answer.decision == TASK.fallback_decision
        assert answer.timing.total_us < 2_000_000
        await deployment.inject(split.primary, engine_pb2.FAULT_KIND_NONE)
        # Admission has learned that the engine is slow; every refusal makes it forget a little.
        asked = [(await deployment.decide()).fallback]
        while asked[-1].used:
            assert len(asked) < 300
            asked.append((await deployment.decide()).fallback)
        is_late = decide_pb2.FALLBACK_REASON_DEADLINE  # as a trial may be on a busy machine
        assert {f.reason for f in asked if f.used} <= {decide_pb2.FALLBACK_REASON_NO_TIME, is_late}

    run(tmp_path, story)
