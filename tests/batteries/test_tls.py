"""Who a caller is, as its verified certificate says; on every front that has TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509

from gateway.rpc.bootstrap import Listen
from gateway.rpc.envoy import EnvoyFront, is_installed
from gateway.rpc.grpcio import GrpcioFront
from gateway.rpc.tls import Tls, TlsFiles, TlsInvalid
from tests.authority import Authority
from tests.batteries.echo import MAX_BYTES, SERVICE, Echo

NAME = "spiffe://bidder.example/edge"


@asynccontextmanager
async def serving(kind: str, tls: Tls) -> AsyncIterator[int]:
    front: GrpcioFront | EnvoyFront
    if kind.startswith("envoy"):
        if not is_installed():
            pytest.skip("Envoy is not installed here")
        front = EnvoyFront(Listen("127.0.0.1:0", MAX_BYTES, tls, is_tcp=kind == "envoy-tcp"), Echo().methods())
        port = await front.start()
        try:
            yield port
        finally:
            await front.close()
        return
    front = GrpcioFront(Echo().methods(), address="localhost:0", tls=tls)
    port = await front.start()
    try:
        yield port
    finally:
        await front.drain(0.0)


async def identity(port: int, ca: Path, own: tuple[Path, Path] | None) -> str:
    certificate, key = (own[0].read_bytes(), own[1].read_bytes()) if own else (None, None)
    credentials = grpc.ssl_channel_credentials(ca.read_bytes(), key, certificate)
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        forged = (("x-forwarded-client-cert", "By=x;URI=spiffe://forged"),)
        told = await channel.unary_unary(SERVICE + "Describe")(b"", timeout=10, metadata=forged)
        return bytes(told).split(b"|")[3].decode()


@pytest.mark.parametrize("kind", ["grpcio", "envoy", "envoy-tcp"])
def test_a_verified_certificate_names_the_caller_and_nothing_else_does(kind: str, tmp_path: Path) -> None:
    ca, stranger = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    server = ca.issue("localhost", x509.DNSName("localhost"))
    named = ca.issue("named", x509.UniformResourceIdentifier(NAME), x509.DNSName("edge.example"))
    plain = ca.issue("plain")
    foreign = stranger.issue("foreign", x509.UniformResourceIdentifier(NAME))

    async def run() -> None:
        async with serving(kind, Tls(server[0], server[1], ca.file)) as port:
            assert await identity(port, ca.file, named) == NAME
            assert "plain" in await identity(port, ca.file, plain)
            for unknown in (None, foreign):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await identity(port, ca.file, unknown)
                assert refused.value.code() == grpc.StatusCode.UNAVAILABLE

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["grpcio", "envoy", "envoy-tcp"])
def test_without_a_client_authority_tls_names_nobody(kind: str, tmp_path: Path) -> None:
    ca = Authority(tmp_path, "ours")
    server = ca.issue("localhost", x509.DNSName("localhost"))

    async def run() -> None:
        async with serving(kind, Tls(server[0], server[1], None)) as port:
            assert await identity(port, ca.file, None) == ""

    asyncio.run(run())


async def shown(port: int, ca: Path) -> int:
    """Return the serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(found).serial_number


@pytest.mark.parametrize("kind", ["grpcio", "envoy", "envoy-tcp"])
def test_a_renewed_certificate_is_shown_without_a_restart_and_a_wrong_one_never(kind: str, tmp_path: Path) -> None:
    ca = Authority(tmp_path, "ours")
    name = x509.DNSName("localhost")
    certificate, key = ca.issue("localhost", name)
    first = x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number

    async def run() -> None:
        async with serving(kind, Tls(certificate, key, None)) as port, asyncio.timeout(30):
            channel = grpc.aio.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(ca.file.read_bytes()))
            async with channel:
                echo = channel.unary_unary(SERVICE + "Echo")
                assert await echo(b"before", timeout=10) == b"before"
                assert await shown(port, ca.file) == first
                ca.issue("localhost", name)  # written over the old files, one after the other
                second = x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number
                while await shown(port, ca.file) == first:
                    await asyncio.sleep(0.05)
                assert await shown(port, ca.file) == second
                assert await echo(b"after", timeout=10) == b"after"  # on the connection of before

    asyncio.run(run())


def test_files_that_do_not_fit_keep_the_last_good_ones_in_use(tmp_path: Path) -> None:
    ca = Authority(tmp_path, "ours")
    certificate, key = ca.issue("localhost")
    files = TlsFiles(Tls(certificate, key, ca.file))
    before = files.material
    assert files.renewed() is None
    other, other_key = ca.issue("other")
    for wrong in (other.read_bytes(), b"no certificate", b""):
        certificate.write_bytes(wrong)
        assert files.renewed() is None
        assert files.material == before
    key.unlink()
    assert files.renewed() is None
    key.write_bytes(other_key.read_bytes())
    certificate.write_bytes(other.read_bytes())
    found = files.renewed()
    assert found is not None
    assert (found.certificate, found.client_ca) == (other.read_bytes(), ca.file.read_bytes())


@pytest.mark.parametrize("kind", ["grpcio", "envoy", "envoy-tcp"])
@pytest.mark.parametrize("wrong", ["certificate", "key", "fit", "missing"])
def test_a_front_says_what_is_wrong_with_its_files_before_it_serves(kind: str, wrong: str, tmp_path: Path) -> None:
    ca = Authority(tmp_path, "ours")
    certificate, key = ca.issue("localhost")
    if wrong == "fit":
        _, key = ca.issue("other")
    elif wrong == "missing":
        key.unlink()
    else:
        {"certificate": certificate, "key": key}[wrong].write_text("nothing of the kind")
    words = {"fit": "is not the key of", "missing": "cannot be read"}.get(wrong, "is not PEM")

    async def run() -> None:
        with pytest.raises(TlsInvalid, match=words):
            async with serving(kind, Tls(certificate, key, None)):
                pass

    asyncio.run(run())
