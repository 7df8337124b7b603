"""A bundle whose model lies on a server elsewhere, from its evaluation to its evidence."""

import asyncio
import base64
import html
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controlplane.errors import StepRefused
from controlplane.evals.suite import Suite
from controlplane.loop import advance, evaluate
from controlplane.loop.work import Worker
from controlplane.packs.registry import load_pack
from controlplane.store import jobs, ledger
from gateway.engines.pool import Pool
from gateway.engines.settings import remote_links
from protos import engine_pb2
from protos.contract.given import Given
from protos.contract.servers import RemoteSettings
from tests.controlplane.cli.fake import interlock, said
from tests.controlplane.deployment import PACK, Deployment
from tests.controlplane.elsewhere import ENGINE, TOKEN, Elsewhere, elsewhere
from tests.controlplane.governed import Governed
from tests.controlplane.loop.fixture import NAME, World, world
from tests.controlplane.ready import Ready

SUITE = {
    "version": 1,
    "bootstrap": {"rounds": 100, "confidence": 0.9, "seed": 1},
    "regressions": {"part": "core", "max_share": 0.1},
    "gates": [
        {"metric": "accuracy", "part": "core", "min": 0.9},
        {"metric": "accuracy", "part": "core", "vs": "control", "margin": -0.1},
        {"metric": "p99_ms", "part": "core", "max": 5000},
    ],
    "gateway": {"part": "core", "cases": 20, "max_fallbacks": 0.9},
}


def declared(made: World, engines: tuple[RemoteSettings, ...]) -> World:
    """Have a control plane know of servers, and judge by a short suite."""
    made.deployment.packs[NAME].suite = Suite.from_json(SUITE)  # type: ignore[misc]
    made.deployment = replace(made.deployment, settings=replace(made.deployment.settings, engines=engines))
    return made


def bundle(made: World, **engine: Any) -> str:
    return made.deployment.bundles.add(
        task=made.deployment.pack(NAME).task,
        engine={**ENGINE, **engine},
        contents={},
        base={},
        lineage={"author": "trainer"},
    ).digest


def asked(made: World, digest: str) -> str:
    with made.deployment.store.writing(made.clock()) as unit:
        return evaluate.ask(unit, made.deployment, NAME, digest, cause="operator", start_rollout=True)


def test_an_evaluation_that_no_declared_server_can_be_asked_for_is_refused_and_not_queued(tmp_path: Path) -> None:
    made = declared(world(tmp_path), ())
    digest = bundle(made)
    with pytest.raises(StepRefused, match=f"bundle {digest} is .*'oip' with model 'tiny/decoder'.*they declare none"):
        asked(made, digest)
    with made.deployment.store.reading() as unit:
        assert jobs.listed(unit, NAME) == []


@contextmanager
def site(root: Path) -> Iterator[tuple[Governed, Elsewhere]]:
    made = Governed(root, training={"held_out": 30, "examples": 60, "foreground": True})
    core = evaluate.held_out_parts(made.deployment, NAME)["core"]
    with elsewhere(root, made.deployment.pack(NAME).task, {one.text: one.label for one in core}) as far:
        declared(made.world, far.declared)
        made.start()
        try:
            yield made, far
        finally:
            made.stop()


def test_a_bundle_elsewhere_is_evaluated_rolled_out_to_primary_and_its_evidence_verifies(tmp_path: Path) -> None:
    async def in_thread(work: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(work)

    async def following(engines: tuple[RemoteSettings, ...]) -> Pool:
        pool = Pool(remote_links(engines, made.deployment.bundles), made.deployment.bundles.manifest)
        running.extend(asyncio.create_task(link.run()) for link in pool.links)
        return pool

    async def decision(pool: Pool, digest: str, text: str) -> engine_pb2.Result:
        _, future = pool.pick(digest).submit(digest, Given.of_text(text), 60_000_000, engine_pb2.PRIORITY_LIVE)
        answer = await future
        assert isinstance(answer, engine_pb2.Result)
        return answer

    running: list[asyncio.Task[None]] = []
    with site(tmp_path) as (made, far):
        digest = bundle(made.world)
        job = asked(made.world, digest)
        assert asyncio.run(Worker(made.deployment, in_thread).run_one())
        with made.deployment.store.reading() as unit:
            done = jobs.get(unit, job)
            assert done is not None and done.state == jobs.DONE, done and done.message
            (evaluated,) = ledger.of_action(unit.connection, "bundle.evaluated")
        assert (evaluated.detail["bundle"], evaluated.detail["accepted"]) == (digest, True)

        control = ("--control", f"127.0.0.1:{made.port}")
        advance.advance(made.deployment)
        words = ("--key", str(tmp_path / "ann.key"), "--person", "ann", "--reason", "reads well", "--yes")
        code, shown = interlock("rollout", "approve", NAME, *words, *control)
        assert code == 0, shown
        sentence = "The weights are the server's: nobody here hashed them, the bundle's digest does not cover them"
        assert sentence in " ".join(shown.split())

        pool = made.run(following(far.declared))
        plan = made.start_gateway(pool=pool)
        made.until(lambda: plan.generation == 1, "the plan at the gateway, whose engine is the server")
        text, label = next(iter(far.model.known.items()))
        answer = made.run(decision(pool, digest, text))
        assert made.deployment.pack(NAME).task.labels[answer.label] == label
        assert far.servicer.authorizations == {f"Bearer {TOKEN}"}

        folder = tmp_path / "evidence"
        assert said("evidence", "build", NAME, "--out", str(folder), *control)[0] == 0
        keys = ("--plan-key", str(tmp_path / "plan.key.pub"), "--operators", str(tmp_path / "operators.json"))
        code, found = said("evidence", "verify", str(folder), "--deployment", "test", *keys)
        assert code == 0 and found["verified"], found
        (judged,) = (check["detail"] for check in found["checks"] if check["name"] == "evaluation")
        named = "candidate was answered for by far (oip, generic): tiny/decoder 3 on fake server 1.2. " + sentence
        assert named in judged
        assert interlock("evidence", "report", str(folder), "--out", str(tmp_path / "page.html"), *keys)[0] == 0
        assert named in html.unescape((tmp_path / "page.html").read_text("utf-8"))

        bill = json.loads(next(folder.glob("steps/*/mlbom.cdx.json")).read_bytes())
        assert sentence in str(bill["metadata"]["component"]["properties"])

        read = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "engine.token"]
        assert any(path.name.startswith("log.") for path in read)
        hidden = (TOKEN.encode(), base64.b64encode(TOKEN.encode())[:-4])
        assert [path for path in read if any(word in path.read_bytes() for word in hidden)] == []


def test_a_bundle_elsewhere_replaces_one_of_this_machine_under_traffic(ready: Ready, tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        there = deployment.store.add(
            task=deployment.pack.task, engine=ENGINE, contents={}, base={}, lineage={"author": "trainer"}
        ).digest
        name = await deployment.begun(there)
        shadowed = await deployment.driven_until(name, lambda r: r.needs_approval_for == "canary")
        assert shadowed.phase == "shadow" and {gate.verdict for gate in shadowed.gates} == {"pass"}
        assert {answer.bundle_digest for answer in await deployment.drive(40)} == {ready.old}
        await deployment.approved_into("canary", name)
        canaried = await deployment.driven_until(name, lambda r: r.needs_approval_for == "primary")
        assert canaried.canary_bp == 5000 and {gate.verdict for gate in canaried.gates} == {"pass"}
        assert {answer.bundle_digest for answer in await deployment.drive(40)} == {ready.old, there}
        await deployment.approved_into("primary", name)
        answers = await deployment.drive(40)
        assert {answer.bundle_digest for answer in answers} == {there}
        assert not any(answer.fallback.used for answer in answers)

    pack, judged = load_pack(PACK), evaluate.HELD_OUT_SEED
    cases = [*pack.held_out(200, 7), *pack.held_out_shifted(100, 7)]
    cases += [*evaluate.core_and_dev(pack, 60)[0], *pack.held_out_shifted(60, judged)]
    with elsewhere(tmp_path, pack.task, {case.text: case.label for case in cases}) as far:
        ready.run(tmp_path, story, far.settings)
