"""A bundle that is named for preload is loaded and warm before any plan needs it, and stays so after one did."""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from controlplane.cli.app import app
from perf.processes import free_port
from protos.contract.plan import Split
from protos.contract.url_store import open_store
from tests.gateway.deployment import PATIENCE_S, Deployment
from tests.gateway.stories import first_split, run


async def held(deployment: Deployment) -> dict[str, bool]:
    """What ``interlock engine status`` says: bundle to whether it is only preloaded."""
    command = ["engine", "status", "--json", "--config", str(deployment.root / "interlock.toml")]
    done = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert done.exit_code == 0, done.output
    (worker,) = json.loads(done.stdout)
    return {bundle["bundle_digest"]: bundle["preload"] for bundle in worker["bundles"]}


async def until(deployment: Deployment, expected: dict[str, bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await held(deployment) != expected:
            await asyncio.sleep(0.02)


def test_a_named_bundle_is_ready_before_during_and_after_a_plan_needs_it(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        first, named = deployment.bundle(seed=1), deployment.bundle(seed=2)
        port = free_port()
        missing = "sha256:" + "0" * 64
        deployment.settings |= {"preload": [named, missing], "metrics_port": port}
        deployment.start_worker()
        await deployment.start_gateway()
        await until(deployment, {named: True})  # no plan yet, and the one that is not there stops nothing
        assert missing in (tmp_path / "gateway.log").read_text()

        async def publish(split: Split, bundle: str) -> None:
            deployment.control.approve(split, bundle)
            said = await deployment.control.publish(split)
            assert said.applied, said.message

        await publish(first_split(first), first)
        await until(deployment, {first: False, named: True})
        worker = ("worker", str(tmp_path / "worker.sock"))
        found = await deployment.scrape()
        assert found["interlock_worker_bundles", ("held", "plan"), worker] == 1
        assert found["interlock_worker_bundles", ("held", "preload"), worker] == 1
        await publish(Split("brand", named, None, None, 0, 0, 10_000, 0, "second"), named)
        await until(deployment, {named: False})  # and what no plan needs has gone
        assert (await deployment.decide()).bundle_digest == named
        await publish(Split("brand", first, None, None, 0, 0, 10_000, 0, "third"), first)
        await until(deployment, {first: False, named: True})

    run(tmp_path, story)


def test_status_says_where_nobody_listens(tmp_path: Path) -> None:
    config = tmp_path / "interlock.toml"
    config.write_text('[gateway]\nworker_sockets = ["gone.sock"]\n')
    done: Any = CliRunner().invoke(app, ["engine", "status", "--config", str(config)])
    assert (done.exit_code, "gone.sock: nobody listens" in done.stdout) == (0, True)


def test_what_was_fetched_and_nothing_needs_any_more_goes_and_the_way_back_stays(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        origin = f"file://{tmp_path}/origin"
        here, deployment.store = deployment.store, open_store(origin)
        first, second, third = (deployment.bundle(seed=seed) for seed in (1, 2, 3))
        deployment.settings |= {"bundles_url": origin, "bundles_max_bytes": 1}
        deployment.start_worker("worker", "--bundles-url", origin, "--bundles-max-bytes", "1")
        await deployment.start_gateway()

        async def serve(primary: str, previous: str | None, salt: str) -> None:
            for mark in here.root.glob(".fetched-*"):
                os.utime(mark, (0, 0))  # read long ago
            split = Split("brand", primary, None, previous, 0, 0, 10_000, 0, salt)
            deployment.control.approve(split, primary)
            said = await deployment.control.publish(split)
            assert said.applied, said.message

        await serve(first, None, "first")
        await serve(second, first, "second")
        assert set(here.digests()) == {first, second}
        await serve(third, second, "third")
        assert set(here.digests()) == {second, third}
        assert (await deployment.decide()).bundle_digest == third

    run(tmp_path, story)


def test_gateway_and_worker_serve_from_a_url_and_keep_what_they_fetched(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        origin = f"file://{tmp_path}/origin"
        here, deployment.store = deployment.store, open_store(origin)
        first, named, missing = deployment.bundle(seed=1), deployment.bundle(seed=2), "sha256:" + "0" * 64
        deployment.settings |= {"bundles_url": origin, "preload": [named]}
        deployment.start_worker("worker", "--bundles-url", origin)
        await deployment.start_gateway()
        split = first_split(first)
        deployment.control.approve(split, first)
        said = await deployment.control.publish(split)
        assert said.applied, said.message
        await until(deployment, {first: False, named: True})
        assert (await deployment.decide()).bundle_digest == first
        assert set(here.digests()) == {first, named}
        lost = Split("brand", missing, None, first, 0, 0, 10_000, 0, "second")
        deployment.control.approve(lost, missing)
        said = await deployment.control.publish(lost)
        assert (said.applied, said.reason) == (False, "bundle_invalid")
        assert "cannot be read" in said.message
        shutil.rmtree(tmp_path / "origin")  # answers need it no more, not even after a restart
        deployment.kill("gateway")
        await deployment.start_gateway()
        await deployment.until_serving()
        assert (await deployment.decide()).bundle_digest == first

    run(tmp_path, story)
