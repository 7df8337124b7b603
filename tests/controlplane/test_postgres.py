"""The loop on PostgreSQL, and what its outage does to callers and to what was acknowledged."""

import asyncio
from pathlib import Path

from controlplane.store import ledger_audit
from controlplane.store.store import Store
from protos.contract.attestation import read_public
from tests.controlplane.deployment import Deployment
from tests.postgres import PostgresServer, shared_server


def test_the_database_may_go_and_come_back_while_callers_are_answered(tmp_path: Path) -> None:
    async def story(server: PostgresServer) -> None:
        async with Deployment(tmp_path, database=server.create("loop")) as deployment:
            old = await deployment.first_primary()
            new = deployment.bundle(1.0)
            await deployment.evaluated(new)
            name = await deployment.begun(new)
            await deployment.driven_until(name, lambda r: r.needs_approval_for == "canary")
            await deployment.approved_into("canary", name)

            await asyncio.to_thread(server.stop)
            answers = await deployment.drive(60)
            assert {a.bundle_digest for a in answers if not a.fallback.used} <= {old, new}
            assert len(answers) == 60
            await asyncio.to_thread(server.start)

            await deployment.driven_until(name, lambda r: r.needs_approval_for == "primary")
            await deployment.approved_into("primary", name)
            answers = [a for a in await deployment.drive(40) if not a.fallback.used]
            assert {a.bundle_digest for a in answers} == {new}

    server = shared_server()
    asyncio.run(story(server))
    store = Store(server.url("loop"))
    with store.reading() as unit:
        report = ledger_audit.verify(unit.connection, read_public(tmp_path / "plan.key.pub"), "interlock/test")
    store.close()
    assert report.is_intact, report.problem
