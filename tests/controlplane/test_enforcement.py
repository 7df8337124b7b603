"""Whoever speaks to a gateway in the control plane's place moves no traffic: real stream, real plan, real database."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from controlplane.loop.deployment import Deployment
from controlplane.loop.publish import offer_of, publish
from controlplane.rpc.server import ControlServer
from controlplane.rpc.traffic import PlanBell
from controlplane.store import ledger, plans, records
from controlplane.store.store import Store
from protos import traffic_pb2, traffic_pb2_grpc
from protos.contract.attestation import (
    Approval,
    Operator,
    Operators,
    generate_key,
    public_text,
    read_private,
    sign_approval,
)
from protos.contract.digest import canonical_json, digest_bytes
from protos.contract.ledger_proof import APPROVAL_GIVEN, PLAN_OFFERED
from protos.contract.plan import Split
from protos.contract.plan_rules import sign_plan, to_split_digest
from tests.controlplane.governed import Governed, governed
from tests.controlplane.loop.fixture import NAME, ZERO


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Governed]:
    with governed(tmp_path) as made:
        yield made


class Impostor(traffic_pb2_grpc.TrafficServiceServicer):
    """Answers a gateway's stream with whatever it is given, and hears what becomes of it."""

    def __init__(self, offers: list[traffic_pb2.PlanOffer]) -> None:
        self.offers = offers
        self.heard: list[traffic_pb2.Acknowledgement] = []

    async def WatchPlan(self, request: Any, context: Any) -> Any:  # noqa: N802
        for offer in self.offers:
            yield offer
        await asyncio.Event().wait()

    async def Acknowledge(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.heard.append(request)
        return traffic_pb2.AcknowledgeResponse()

    async def Report(self, request: Any, context: Any) -> Any:  # noqa: N802
        return traffic_pb2.ReportResponse()


@contextlib.contextmanager
def in_its_place(site: Governed, service: Impostor) -> Iterator[None]:
    """Take the control plane away and listen on its port."""
    site.stop_control()
    server: Any = None

    async def begin() -> None:
        nonlocal server
        server = grpc.aio.server()
        traffic_pb2_grpc.add_TrafficServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
        server.add_insecure_port(f"127.0.0.1:{site.port}")
        await server.start()

    site.run(begin())
    try:
        yield
    finally:
        site.run(server.stop(0))


def last_offer(deployment: Deployment) -> traffic_pb2.PlanOffer:
    with deployment.store.reading() as unit:
        row = plans.get(unit, plans.last_generation(unit))
        assert row is not None
        return offer_of(unit, deployment, row, 0, 0)[1]  # type: ignore[no-any-return]


def test_plans_forged_into_the_stream_are_refused_one_by_one_and_an_honest_one_after_them_is_taken(
    site: Governed, tmp_path: Path
) -> None:
    site.shadowing()
    split, honest = site.split(), last_offer(site.deployment)
    assert split is not None and site.plan is not None
    raised = replace(split, canary_bp=5_000)
    generation = site.plan.generation

    def offered(signed: traffic_pb2.Envelope) -> traffic_pb2.PlanOffer:
        made = traffic_pb2.PlanOffer()
        made.CopyFrom(honest)
        made.plan.CopyFrom(signed)
        return made

    standing = site.plan.routes.plan  # type: ignore[union-attr]
    forged = replace(standing, generation=generation + 9, splits=(raised,))
    generate_key(tmp_path / "thief.key")
    edited = sign_plan(forged, site.deployment.key)
    edited.payload = edited.payload.replace(b'"canary_bp":5000', b'"canary_bp":4999')
    service = Impostor(
        [
            offered(sign_plan(forged, read_private(tmp_path / "thief.key"))),
            offered(edited),
            offered(sign_plan(forged, site.deployment.key)),  # with the stolen plan key
            offered(sign_plan(replace(forged, deployment="other"), site.deployment.key)),
            honest,  # what was taken long ago, once more
        ]
    )
    with in_its_place(site, service):
        site.until(lambda: len(service.heard) >= len(service.offers), "every forged plan judged")
        said = [word.reason for word in service.heard[: len(service.offers)]]
        assert said == [
            "signature_invalid",
            "signature_invalid",
            "approval_missing",
            "wrong_deployment",
            "stale_generation",
        ]
        assert site.split() == split and site.plan.generation == generation
    site.start_control()
    with site.deployment.store.writing(site.clock()) as unit:
        publish(unit, site.deployment, replace(split, shadow_bp=100), None)
    site.deployment.changed()
    site.until(lambda: site.split().shadow_bp == 100, "the honest plan after the forged ones")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("signer", "expected"),
    [("plan.key", "signature_invalid"), ("thief.key", "signature_invalid"), ("enrolled", "signature_invalid")],
    ids=["by the plan key itself", "by a stranger in ann's name", "by somebody the thief enrolled"],
)
def test_a_control_plane_run_with_the_stolen_plan_key_approves_nothing_for_itself(
    site: Governed, tmp_path: Path, signer: str, expected: str
) -> None:
    """The thief has the plan key, a copy of the database and a list of people of his own; he is no approver."""
    name, _, new = site.shadowing()
    split = site.split()
    assert split is not None
    paths = (tmp_path / "control.db", tmp_path / "stolen.db")
    with contextlib.ExitStack() as stack:
        database, copy = (stack.enter_context(contextlib.closing(sqlite3.connect(path))) for path in paths)
        database.backup(copy)
    generate_key(tmp_path / "thief.key")
    thief = read_private(tmp_path / "thief.key")
    person = "mal" if signer == "enrolled" else "ann"
    key = thief if signer == "enrolled" else read_private(tmp_path / signer)
    ann = public_text(read_private(tmp_path / "ann.key").public_key())
    false = public_text(key.public_key())
    people = Operators(1, 1, (Operator("ann", ("approver",), (ann,)), Operator("mal", ("approver",), (false,))))
    if person == "ann":
        people = Operators(1, 1, (Operator("ann", ("approver",), (ann, false)),))
    (tmp_path / "thief.json").write_bytes(canonical_json(people.to_json()))
    settings = replace(site.deployment.settings, operators=tmp_path / "thief.json")
    stolen = replace(site.deployment, settings=settings, store=Store(f"sqlite:///{tmp_path / 'stolen.db'}"))
    raised = replace(split, canary_bp=5_000)
    approval = Approval(
        person=person, specialist=NAME, rollout=name, step="canary", bundle=new, evidence=ZERO, suite=ZERO,
        from_split=split.shape_digest(), to_split=to_split_digest(split, 10_000), ceiling_bp=10_000, audience="test",
        not_before=0, expires=2**40, nonce="stolen", author="trainer", reason="mine now",
    )  # fmt: skip
    signed = sign_approval(approval, key)
    # His control plane is satisfied: it goes by his list of people.
    with stolen.store.writing(site.clock()) as unit:
        digest = digest_bytes(signed.payload)
        plans.add_approval(unit, digest, name, NAME, new, signed)
        records.note(unit, digest, unit.record(person, APPROVAL_GIVEN, {"statement": digest, "rollout": name}))
        if signer == "plan.key":
            plans.add(unit, *_smuggled(unit, stolen, raised), None)
        else:
            publish(unit, stolen, raised, name)
    server: Any = None

    async def serve() -> None:
        nonlocal server

        async def in_thread(work: Any) -> Any:
            return await asyncio.to_thread(work)

        server = ControlServer(stolen, in_thread, PlanBell())
        assert site._server is not None
        await site._server._server.stop(0)
        site._server = None
        await server.start(f"127.0.0.1:{site.port}")

    site.run(serve())

    def refused() -> str:
        with stolen.store.reading() as unit:
            row = plans.get(unit, plans.last_generation(unit))
        return row.reason if row is not None and row.state == plans.REFUSED else ""

    try:
        assert site.until(refused, "the gateway's refusal") == expected
        assert site.split() == split
    finally:
        site.run(server._server.stop(0))
        stolen.store.close()


def _smuggled(unit: Any, deployment: Deployment, split: Split) -> tuple[traffic_pb2.Envelope, Any]:
    """Sign and record a plan past the control plane's own checks, which know its own key for no person's."""
    standing = plans.standing(unit)
    assert standing is not None
    made = replace(standing.plan, generation=plans.last_generation(unit) + 1, splits=(split,))
    made = replace(made, approvals=tuple(sorted({digest_bytes(e.payload) for e in plans.approvals_for(unit, made)})))
    detail = {"generation": made.generation, "digest": made.digest, "rollout": None, "approvals": list(made.approvals)}
    records.note(unit, made.digest, unit.record("interlock-loop", PLAN_OFFERED, detail))
    ledger.checkpoint(unit.connection, deployment.key, deployment.ledger_origin)
    return sign_plan(made, deployment.key), made
