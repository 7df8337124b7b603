"""TLS files, read, checked and followed: the one place where settings become what a front shows its callers.

Both fronts take a renewed certificate without a restart. What is half written or does not fit
its key changes nothing: the last good files stay in use until better ones are there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from protos.contract.access import stamp_of

log = structlog.get_logger()

LOOK_S = 1.0  # how often a front that has to look for itself does
ENVOY = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
SERVER, CALLERS = "server", "callers"  # Envoy's names of the two secrets


class TlsInvalid(RuntimeError):
    """A TLS file is missing, not PEM, or does not fit another; the message names it."""


@dataclass(frozen=True, slots=True)
class Material:
    """What was in the files, in PEM: a certificate chain that fits its key, and whose certificates callers show."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM. With ``client_ca`` every caller must show a certificate that it signed."""

    certificate: Path
    key: Path
    client_ca: Path | None

    def read(self) -> Material:
        """Read and check the files; raises TlsInvalid."""
        certificate, key = _bytes(self.certificate), _bytes(self.key)
        chain = _parsed(self.certificate, "certificates", x509.load_pem_x509_certificates, certificate)
        private = _parsed(self.key, "a private key without a password", _private_key, key)
        shapes = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        if chain[0].public_key().public_bytes(*shapes) != private.public_key().public_bytes(*shapes):
            raise TlsInvalid(f"{self.key} is not the key of {self.certificate}")
        if self.client_ca is None:
            return Material(certificate, key, None)
        client_ca = _bytes(self.client_ca)
        _parsed(self.client_ca, "certificates", x509.load_pem_x509_certificates, client_ca)
        return Material(certificate, key, client_ca)


class TlsFiles:
    """The files of one front as they change. Raises TlsInvalid when they are wrong from the beginning."""

    def __init__(self, tls: Tls) -> None:
        self.asks_callers = tls.client_ca is not None
        self._tls = tls
        self._stamps = self._look()
        self.material = tls.read()

    def renewed(self) -> Material | None:
        """Return new material when the files have changed and are good."""
        stamps = self._look()
        if stamps == self._stamps:
            return None
        self._stamps = stamps
        try:
            material = self._tls.read()
        except TlsInvalid as error:
            log.warning("certificate_not_renewed", error=str(error))
            return None
        if material == self.material:
            return None
        self.material = material
        log.info("certificate_renewed", certificate=str(self._tls.certificate))
        return material

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        paths = (self._tls.certificate, self._tls.key, self._tls.client_ca)
        return tuple(stamp_of(path) for path in paths if path is not None)


def grpcio_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials that look at the files at every handshake."""

    def configuration(material: Material) -> Any:
        return grpc.ssl_server_certificate_configuration([(material.key, material.certificate)], material.client_ca)

    def fetch() -> Any:
        material = files.renewed()
        return None if material is None else configuration(material)

    return grpc.dynamic_ssl_server_credentials(
        configuration(files.material), fetch, require_client_authentication=files.asks_callers
    )


def envoy_socket(files: TlsFiles, directory: Path) -> dict[str, Any]:
    """Return the transport socket of Envoy's listener, which follows the secrets in a directory."""

    def secret(name: str) -> dict[str, Any]:
        source = {"path": str(_secret_path(directory, name)), "watched_directory": {"path": str(directory)}}
        return {"name": name, "sds_config": {"path_config_source": source, "resource_api_version": "V3"}}

    context: dict[str, Any] = {
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificate_sds_secret_configs": [secret(SERVER)],
    }
    if files.asks_callers:
        context["validation_context_sds_secret_config"] = secret(CALLERS)
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{ENVOY}.DownstreamTlsContext",
            "common_tls_context": context,
            "require_client_certificate": files.asks_callers,
        },
    }


def write_secrets(material: Material, directory: Path, write: Callable[[Path, Any], None]) -> None:
    """Put secrets where ``envoy_socket`` has Envoy look; ``write`` must replace a file as a whole."""
    server = {
        "certificate_chain": {"inline_string": material.certificate.decode()},
        "private_key": {"inline_string": material.key.decode()},
    }
    secrets: dict[str, dict[str, Any]] = {SERVER: {"tls_certificate": server}}
    if material.client_ca is not None:
        trusted = {"inline_string": material.client_ca.decode()}
        secrets[CALLERS] = {"validation_context": {"trusted_ca": trusted}}
    for name, secret in secrets.items():
        resource = {"@type": f"{ENVOY}.Secret", "name": name, **secret}
        write(_secret_path(directory, name), {"resources": [resource]})


def _secret_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.json"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsInvalid(f"{path} cannot be read: {error.strerror}") from error


def _private_key(data: bytes) -> Any:
    return load_pem_private_key(data, password=None)


def _parsed(path: Path, expected: str, load: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        found = load(data)
    except (ValueError, TypeError) as error:
        raise TlsInvalid(f"{path} is not PEM, expected {expected}") from error
    return found
