"""The control plane's port over TLS: gateways and people are known by their certificates, and by nothing else."""

import ipaddress
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509

from controlplane.store import plans
from gateway.rpc.control_channel import control_channel
from gateway.settings import GatewaySettings
from protos import traffic_pb2, traffic_pb2_grpc
from protos.contract.fields import FieldInvalid
from tests.authority import Authority
from tests.controlplane.cli.fake import interlock, said
from tests.controlplane.governed import Governed, governed

GATEWAY, VIEWER, STRANGER = "spiffe://shop.example/gw", "spiffe://shop.example/vic", "spiffe://shop.example/nobody"


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


@pytest.fixture
def site(tmp_path: Path, ca: Authority) -> Iterator[Governed]:
    ca.issue("server", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    for name, role, identity in (("gw", "gateway", GATEWAY), ("vic", "viewer", VIEWER)):
        add = ("access", "add", str(tmp_path / "access.json"), "--name", name, "--role", role, "--identity", identity)
        assert said(*add)[0] == 0
    tls = {"tls_certificate": "server.crt", "tls_key": "server.key", "tls_client_ca": "ca.pem"}
    with governed(tmp_path, access="access.json", **tls) as made:
        yield made


def named(authority: Authority, name: str, identity: str) -> tuple[Path, Path]:
    return authority.issue(name, x509.UniformResourceIdentifier(identity))


def test_a_gateway_follows_the_control_plane_by_its_certificate(site: Governed, ca: Authority) -> None:
    site.world.first_plan(site.world.bundle(1))
    plan = site.start_gateway(tls=(ca.file, *named(ca, "gw", GATEWAY)))
    site.until(lambda: plan.generation == 1, "the first plan over TLS")

    def is_known() -> bool:
        with site.deployment.store.reading() as unit:
            return any(word["applied"] for word in plans.acknowledgements(unit, 1))

    assert site.until(is_known, "its word that it applied the plan")


def test_whoever_shows_the_wrong_certificate_or_trusts_the_wrong_authority_gets_no_plan(
    site: Governed, ca: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    own = named(ca, "gw", GATEWAY)
    cases = {
        "server not known": ((other.file, *own), grpc.StatusCode.UNAVAILABLE),
        "certificate of another authority": (
            (ca.file, *named(other, "false", GATEWAY)),
            grpc.StatusCode.UNAVAILABLE,
        ),
        "no certificate": ((ca.file,), grpc.StatusCode.UNAVAILABLE),
        "no TLS": ((None,), grpc.StatusCode.UNAVAILABLE),
        "somebody unknown": ((ca.file, *named(ca, "nobody", STRANGER)), grpc.StatusCode.UNAUTHENTICATED),
        "somebody who is no gateway": ((ca.file, *named(ca, "vic", VIEWER)), grpc.StatusCode.PERMISSION_DENIED),
    }

    async def ask(trust: tuple[Path, ...]) -> grpc.StatusCode:
        async with control_channel(f"127.0.0.1:{site.port}", None, *trust) as channel:
            stub = traffic_pb2_grpc.TrafficServiceStub(channel)  # type: ignore[no-untyped-call]
            try:
                await stub.WatchPlan(traffic_pb2.WatchPlanRequest(gateway_id="g"), timeout=20).read()
            except grpc.aio.AioRpcError as error:
                return error.code()
        return grpc.StatusCode.OK

    site.world.first_plan(site.world.bundle(1))
    assert {name: site.run(ask(trust)) for name, (trust, _) in cases.items()} == {
        name: code for name, (_, code) in cases.items()
    }


def test_a_person_s_commands_go_over_tls_and_trust_no_other_server(
    site: Governed, ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = named(ca, "vic", VIEWER)
    at = ("--control", f"127.0.0.1:{site.port}")
    for name, path in (("CA", ca.file), ("CERTIFICATE", certificate), ("KEY", key)):
        monkeypatch.setenv(f"INTERLOCK_{name}", str(path))
    code, found = said("specialist", "list", *at)
    assert code == 0 and found[0]["name"] == "brand-safety"
    code, found = said("rollout", "rollback", "r-1", "--as", "vic", "--reason", "x", *at)
    assert (code, found["error"]["status"]) == (1, "PERMISSION_DENIED")
    monkeypatch.setenv("INTERLOCK_CA", str(Authority(tmp_path, "other").file))
    code, found = said("specialist", "list", *at)
    assert (code, found["error"]["status"]) == (1, "UNAVAILABLE")
    assert "nothing answers" in interlock("specialist", "list", *at)[1]


@pytest.mark.parametrize("given", [{"control_certificate": "a"}, {"control_certificate": "a", "control_key": "b"}])
def test_half_a_way_to_show_a_certificate_is_no_setting(given: dict[str, str], tmp_path: Path) -> None:
    paths = dict.fromkeys(("bundles_dir", "capture_dir", "state_dir", "operators", "plan_key"), "x")
    with pytest.raises(FieldInvalid, match="expected all three"):
        GatewaySettings.from_json({"deployment": "d", "worker_sockets": ["s"], **paths, **given}, tmp_path)
