"""Several workers behind one gateway, several gateways on one worker."""

import asyncio
import itertools
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.domain.breaker import CONSECUTIVE
from perf.processes import free_port
from protos import decide_pb2, decide_pb2_grpc, engine_pb2
from protos.contract.task import TaskSpec
from tests.gateway.deployment import PATIENCE_S, Deployment
from tests.gateway.stories import SLOW, first_split, run, start
from tests.tasks import TASK

CALLS = 60
BURST = 20


async def start_two_workers(deployment: Deployment, task: TaskSpec = TASK) -> str:
    """Serve one bundle from two workers; returns the bundle."""
    deployment.settings["worker_sockets"] = ["worker.sock", "other.sock"]
    return (await start(deployment, "other", task=task)).primary


async def fallbacks(deployment: Deployment, calls: int) -> int:
    """Ask one call after the other; returns how many an engine did not answer."""
    found = 0
    async with deployment.channel() as channel:
        stub = decide_pb2_grpc.DecisionServiceStub(channel)
        for _ in range(calls):
            request = decide_pb2.DecideRequest(specialist="brand", input=decide_pb2.Input(text="hello"))
            found += (await stub.Decide(request, timeout=PATIENCE_S)).fallback.used
    return found


async def until_both_are_ready(deployment: Deployment, bundle: str) -> None:
    """Wait until the other worker has the bundle too: it takes a fault only then."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await deployment.inject(bundle, engine_pb2.FAULT_KIND_NONE, worker="other")
                return
            except (AssertionError, OSError):
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("kind", "delay_us"),
    [(engine_pb2.FAULT_KIND_ERROR, 0), (engine_pb2.FAULT_KIND_DELAY, 20_000_000)],
    ids=["fails_at_once", "never_answers"],
)
def test_a_worker_that_fails_is_left_alone_while_another_answers(tmp_path: Path, kind: int, delay_us: int) -> None:
    async def story(deployment: Deployment) -> None:
        bundle = await start_two_workers(deployment)
        await until_both_are_ready(deployment, bundle)
        # The first of two that are equal, so the one that would be asked.
        await deployment.inject(bundle, kind, delay_us, worker="worker")
        assert await fallbacks(deployment, CALLS) < CALLS / 4

    run(tmp_path, story)


def test_when_one_of_two_workers_is_killed_the_other_answers_every_later_call(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        bundle = await start_two_workers(deployment)
        await until_both_are_ready(deployment, bundle)
        deployment.kill("worker")
        assert await fallbacks(deployment, CALLS) <= 1

    run(tmp_path, story)


def test_a_worker_that_kept_failing_is_let_back_by_a_copy_of_a_call_that_no_caller_waits_for(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        deployment.settings |= {"metrics_port": free_port(), "hedge_share": 0.02}
        bundle = await start_two_workers(deployment, SLOW)
        await until_both_are_ready(deployment, bundle)
        state = ("interlock_breaker_state", ("bundle", bundle), ("worker", str(tmp_path / "worker.sock")))
        await deployment.inject(bundle, engine_pb2.FAULT_KIND_ERROR, worker="worker")
        # Both stand still until all are on their way: were either to answer, the failing one would be spared.
        workers = [deployment.processes[name] for name in ("worker", "other")]
        for process in workers:
            process.send_signal(signal.SIGSTOP)
        burst = [asyncio.create_task(fallbacks(deployment, 1)) for _ in range(BURST)]
        try:
            async with asyncio.timeout(PATIENCE_S):
                while (await deployment.scrape())[("interlock_in_flight",)] < BURST:
                    pass
        finally:
            for process in workers:
                process.send_signal(signal.SIGCONT)
        assert sum(await asyncio.gather(*burst)) >= CONSECUTIVE
        assert (await deployment.scrape())[state] == 1
        assert await fallbacks(deployment, 5) == 0
        await deployment.inject(bundle, engine_pb2.FAULT_KIND_NONE, worker="worker")
        calls = 0
        async with asyncio.timeout(PATIENCE_S):
            while (found := await deployment.scrape())[state] != 0:
                assert await fallbacks(deployment, 1) == 0
                calls += 1
        # The slowest of many calls are asked of both, within the budget.
        async with asyncio.timeout(PATIENCE_S):
            while not (found := await deployment.scrape())["interlock_hedges_total", ("outcome", "sent")]:
                assert await fallbacks(deployment, 50) == 0
        assert found["interlock_hedges_total", ("outcome", "won")] >= 0

    run(tmp_path, story)


def test_a_call_whose_worker_stands_still_is_answered_by_the_other_and_taken_back_from_the_first(
    tmp_path: Path,
) -> None:
    async def story(deployment: Deployment) -> None:
        deployment.settings |= {"metrics_port": free_port(), "hedge_share": 0.02}
        bundle = await start_two_workers(deployment, replace(TASK, deadline_us=1_000_000))
        await until_both_are_ready(deployment, bundle)
        won = "interlock_hedges_total", ("outcome", "won")
        async with asyncio.timeout(PATIENCE_S):
            # In turns: whoever stood still is not the one that the next calls go to.
            for name in itertools.cycle(("worker", "other")):
                stopped = deployment.processes[name]
                await fallbacks(deployment, CALLS)  # what a call takes becomes known, and a hedge is saved up
                before = (await deployment.scrape())[won]
                stopped.send_signal(signal.SIGSTOP)
                late = await fallbacks(deployment, 3)  # all of them, if the busy machine spent what was saved
                is_won = (await deployment.scrape())[won] > before
                stopped.send_signal(signal.SIGCONT)
                if is_won:
                    break
        assert late < 3
        async with asyncio.timeout(PATIENCE_S):
            while not (await deployment.stats(worker=name)).cancelled:
                pass

    run(tmp_path, story)


def test_two_gateways_share_one_worker_and_one_s_end_costs_the_other_nothing(tmp_path: Path) -> None:
    async def story(first: Deployment) -> None:
        await start(first)
        # The second has folders of its own, the last good plan of the first, and the same worker.
        root = tmp_path / "second"
        root.mkdir()
        (root / "state").mkdir()
        (root / "state" / "state.pb").write_bytes((tmp_path / "state" / "state.pb").read_bytes())
        async with Deployment(root) as second:
            second.control.authority = first.control.authority
            second.settings |= {"worker_sockets": ["../worker.sock"], "bundles_dir": "../bundles", "control": ""}
            await second.start_gateway()
            await second.until_serving()
            both = await asyncio.gather(fallbacks(first, CALLS), fallbacks(second, CALLS))
            assert both == [0, 0]
            asking = asyncio.ensure_future(fallbacks(first, 2 * CALLS))
            second.kill("gateway")
            assert await asking == 0

    run(tmp_path, story)


def test_primaries_are_swapped_under_load_without_one_failed_call(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        patient = replace(TASK, deadline_us=20_000_000)  # a fallback is then no busy machine's
        await start_two_workers(deployment, patient)
        others = [deployment.bundle(patient, seed=seed) for seed in (5, 6, 7)]
        is_over = asyncio.Event()
        seen: set[str] = set()

        async def ask() -> None:
            async with deployment.channel() as channel:
                stub = decide_pb2_grpc.DecisionServiceStub(channel)
                while not is_over.is_set():
                    request = decide_pb2.DecideRequest(specialist="brand", input=decide_pb2.Input(text="hello"))
                    answer = await stub.Decide(request, timeout=PATIENCE_S)
                    assert not answer.fallback.used, answer
                    seen.add(answer.bundle_digest)

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(ask())
            for primary in others:
                split = first_split(primary)
                deployment.control.approve(split, primary)
                acknowledgement = await deployment.control.publish(split)
                assert acknowledgement.applied, acknowledgement.message
                async with asyncio.timeout(PATIENCE_S):
                    while primary not in seen:
                        await asyncio.sleep(0)
            is_over.set()
        assert seen >= set(others)

    run(tmp_path, story)
