"""The control plane's port asks who calls: every method needs a role, and nobody speaks for another."""

import grpc
import pytest

from controlplane.metrics import registry
from controlplane.rpc.access import roles_for
from protos import control_pb2, governance_pb2, learning_pb2, observe_pb2, traffic_pb2
from tests.controlplane.cli.fake import interlock, said
from tests.controlplane.governed import governed
from tests.controlplane.loop.fixture import NAME

SERVICES = [
    (control_pb2, "ControlService"),
    (governance_pb2, "GovernanceService"),
    (learning_pb2, "LearningService"),
    (observe_pb2, "ObserveService"),
]


def test_every_method_is_somebody_s_and_only_looking_is_everybody_s() -> None:
    for module, service in SERVICES:
        for method in module.DESCRIPTOR.services_by_name[service].methods:
            roles = roles_for(f"/{method.containing_service.full_name}/{method.name}")
            assert roles, f"{method.full_name} is nobody's"
            if not method.name.startswith(("Get", "List", "Prove")):
                assert "viewer" not in roles, method.full_name
    assert roles_for("/interlock.traffic.v1.TrafficService/WatchPlan") == ("gateway",)
    assert roles_for("/interlock.control.v1.ControlService/Anything") == ()


def test_strangers_viewers_and_impostors_are_refused_and_counted(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    access = tmp_path / "access.json"
    tokens = {}
    for name, role in (("oli", "operator"), ("vic", "viewer"), ("ann", "approver"), ("gw", "gateway")):
        tokens[name] = said("access", "add", str(access), "--name", name, "--role", role)[1]["token"]
    assert "gateway" in interlock("access", "list", str(access))[1]
    with governed(tmp_path, access="access.json") as site:
        at = ("--control", f"127.0.0.1:{site.port}")

        def status(who: str, *command: str) -> str:
            monkeypatch.delenv("INTERLOCK_TOKEN", raising=False)
            if who:
                monkeypatch.setenv("INTERLOCK_TOKEN", tokens.get(who, who))
            code, found = said(*command, *at)
            return "OK" if code == 0 else str(found["error"]["status"])

        stop = ("rollout", "rollback", "r-1", "--reason", "drill", "--as")
        assert status("", "specialist", "list") == "UNAUTHENTICATED"
        assert status("guess", "specialist", "list") == "UNAUTHENTICATED"
        assert status("vic", "specialist", "list") == "OK"
        assert status("vic", *stop, "vic") == "PERMISSION_DENIED"
        assert status("oli", *stop, "ann") == "PERMISSION_DENIED"
        assert status("oli", *stop, "oli") == "NOT_FOUND"  # allowed, and there is no such rollout
        assert status("oli", "decision", "show", "d-1") == "PERMISSION_DENIED"
        assert status("gw", "specialist", "list") == "PERMISSION_DENIED"
        for reason, least in (("caller", 2), ("role", 3), ("claim", 1)):
            name = "interlock_control_access_refusals_total"
            assert (registry.get_sample_value(name, {"reason": reason}) or 0) >= least
        with grpc.insecure_channel(f"127.0.0.1:{site.port}") as channel:
            watch = channel.unary_stream(
                "/interlock.traffic.v1.TrafficService/WatchPlan",
                request_serializer=traffic_pb2.WatchPlanRequest.SerializeToString,
                response_deserializer=traffic_pb2.PlanOffer.FromString,
            )
            header = (("authorization", f"Bearer {tokens['vic']}"),)
            with pytest.raises(grpc.RpcError) as refused:
                next(watch(traffic_pb2.WatchPlanRequest(gateway_id="g"), metadata=header, timeout=10))
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        tokens["lab"] = said(
            "access", "add", str(access), "--name", "lab", "--role", "labeller", "--specialist", "other"
        )[1]["token"]
        cases = ("label", "next", "--as", "lab", "--out", str(tmp_path / "cases.csv"))
        # Known from its next look at the file on.
        site.until(lambda: status("lab", *cases[:2], NAME, *cases[2:]) == "NOT_FOUND", "the newcomer")
        told = [said(*cases[:2], name, *cases[2:], *at)[1]["error"] for name in (NAME, "no-such")]
        assert told[0]["message"].replace(NAME, "no-such") == told[1]["message"]
        assert registry.get_sample_value(name, {"reason": "specialist"})
        (tmp_path / "gw.token").write_text(tokens["gw"] + "\n")
        site.world.first_plan(site.world.bundle(1))
        plan = site.start_gateway(token=tmp_path / "gw.token")
        site.until(lambda: plan.generation == 1, "a plan for a gateway that shows its token")


def test_a_gateway_that_is_removed_hears_no_further_plan_on_the_stream_it_has(tmp_path) -> None:  # type: ignore[no-untyped-def]
    access = tmp_path / "access.json"
    token = said("access", "add", str(access), "--name", "gw", "--role", "gateway")[1]["token"]
    said("access", "add", str(access), "--name", "vic", "--role", "viewer")
    with governed(tmp_path, access="access.json") as site, grpc.insecure_channel(f"127.0.0.1:{site.port}") as channel:
        site.world.first_plan(site.world.bundle(1))
        watch = channel.unary_stream(
            "/interlock.traffic.v1.TrafficService/WatchPlan",
            request_serializer=traffic_pb2.WatchPlanRequest.SerializeToString,
            response_deserializer=traffic_pb2.PlanOffer.FromString,
        )
        header = (("authorization", f"Bearer {token}"),)
        stream = watch(traffic_pb2.WatchPlanRequest(gateway_id="g"), metadata=header, timeout=60)
        assert next(stream).plan.payload
        assert said("access", "remove", str(access), "--name", "gw")[0] == 0
        with pytest.raises(grpc.RpcError) as refused:
            next(stream)  # nothing is published: the silence itself ends
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
