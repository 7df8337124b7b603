"""The gateway's settings: one TOML file, read once; anything unknown stops the process."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from gateway.rpc.override import Testers
from gateway.rpc.tls import Tls
from gateway.rtb.rules import MutationRule
from gateway.serving.lanes import LaneSettings
from gateway.serving.sampling import ExtraRates
from protos.contract.access import check_listen, is_loopback
from protos.contract.cached_store import MAX_BYTES
from protos.contract.digest import DigestMalformed, parse_digest
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.servers import RemoteSettings, read_servers
from protos.contract.settings_file import read_table

OPEN = "open"
HOST = "host"
FRONTS = ("auto", "envoy", "envoy-tcp", "grpcio", "direct")


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Everything a gateway needs to start.

    ``access`` names who may call; without it anybody on this machine may, and nobody elsewhere. ``front`` "auto" is
    this process itself ("direct") without TLS on this machine, Envoy that ends TLS and leaves HTTP/2 to this process
    ("envoy-tcp") where callers show certificates, else "envoy", or "grpcio" where Envoy is not installed. Paths in the
    file are relative to the file. ``gateway_id`` tells gateways of one deployment apart; "host" takes this machine's
    name. ``control`` may be empty: such a gateway serves its last good plan and takes no new one.
    ``mutation_network_ms`` is kept back from an auction's ``tmax`` for the way there and back. ``bundles_url`` is a
    store from which bundles come that are not in ``bundles_dir``; of what was fetched, ``bundles_max_bytes`` stay (0:
    all), and whatever is needed. ``preload`` names bundles to have loaded and warm whatever the plan says, such as the
    next candidate.
    """

    deployment: str
    gateway_id: str
    listen: str
    front: str
    tls: Tls | None
    access: Path | None
    control_token: Path | None
    control_ca: Path | None
    control_certificate: Path | None
    control_key: Path | None
    max_connections: int
    max_calls: int
    control: str
    worker_sockets: tuple[str, ...]
    bundles_dir: Path
    bundles_url: str
    bundles_max_bytes: int
    preload: tuple[str, ...]
    capture_dir: Path
    state_dir: Path
    operators: Path
    plan_key: Path
    metrics_port: int
    metrics_address: str
    trace_endpoint: str
    trace_ratio: float
    max_message_bytes: int
    max_in_flight: int
    lanes: LaneSettings
    cache_max_entries: int
    hedge_share: float
    testers: Testers
    shadow_max_in_flight: int
    capture_max_records: int
    capture_quota_bytes: int
    capture_segment_bytes: int
    capture_flush_s: float
    capture_segment_s: float
    capture_seal_key: Path | None
    capture_extra: ExtraRates
    report_interval_s: float
    drain_delay_s: float
    drain_grace_s: float
    mutation_network_ms: float
    mutations: tuple[MutationRule, ...]
    engines: tuple[RemoteSettings, ...]

    @classmethod
    def from_json(cls, value: Any, root: Path) -> Self:
        """Read and check settings; raises FieldInvalid naming the setting, its value and what was expected."""
        read = Reader(value, "gateway")

        def path(name: str) -> Path:
            return root / read.text(name)

        def maybe_path(name: str) -> Path | None:
            found = read.maybe_text(name)
            return root / found if found else None

        who = read.maybe_text("access") or ""
        settings = cls(
            deployment=read.text("deployment"),
            gateway_id=_gateway_id(read.text("gateway_id", "gateway-1")),
            listen=read.text("listen", "127.0.0.1:8500"),
            front=read.text("front", "auto", choices=FRONTS),
            access=None if who in ("", OPEN) else root / who,
            control_token=maybe_path("control_token"),
            control_ca=maybe_path("control_ca"),
            control_certificate=maybe_path("control_certificate"),
            control_key=maybe_path("control_key"),
            tls=_tls(maybe_path("tls_certificate"), maybe_path("tls_key"), maybe_path("tls_client_ca")),
            max_connections=read.integer("max_connections", 1, 1_000_000, 2_000),
            max_calls=read.integer("max_calls", 1, 1_000_000, 128),
            control=read.maybe_text("control") or "",
            worker_sockets=tuple(str(root / s) for s in read.texts("worker_sockets")),
            bundles_dir=path("bundles_dir"),
            bundles_url=read.maybe_text("bundles_url") or "",
            bundles_max_bytes=read.integer("bundles_max_bytes", 0, 1 << 50, MAX_BYTES),
            preload=_digests(read.texts("preload", ()), "gateway.preload"),
            capture_dir=path("capture_dir"),
            state_dir=path("state_dir"),
            operators=path("operators"),
            plan_key=path("plan_key"),
            metrics_port=read.integer("metrics_port", 0, 65535, 0),
            metrics_address=read.text("metrics_address", "127.0.0.1"),
            trace_endpoint=read.maybe_text("trace_endpoint") or "",
            trace_ratio=read.number("trace_ratio", 0, 1, 0.01),
            max_message_bytes=read.integer("max_message_bytes", 1024, 1 << 26, 256 << 10),
            max_in_flight=read.integer("max_in_flight", 1, 1_000_000, 256),
            lanes=LaneSettings.take(read),
            hedge_share=read.number("hedge_share", 0, 0.02, 0),
            cache_max_entries=read.integer("cache_max_entries", 0, 10_000_000, 10_000),
            testers=Testers.take(read),
            shadow_max_in_flight=read.integer("shadow_max_in_flight", 1, 100_000, 32),
            capture_max_records=read.integer("capture_max_records", 1, 10_000_000, 10_000),
            capture_quota_bytes=read.integer("capture_quota_bytes", 1 << 10, 1 << 50, 1 << 30),
            capture_segment_bytes=read.integer("capture_segment_bytes", 1 << 10, 1 << 40, 8 << 20),
            capture_flush_s=read.number("capture_flush_s", 0.001, 60, 0.1),
            capture_segment_s=read.number("capture_segment_s", 0.01, 86_400, 300),
            capture_seal_key=maybe_path("capture_seal_key"),
            capture_extra=ExtraRates(
                novelty_bp=read.integer("capture_novelty_bp", 0, 10_000, 200),
                margin_bp=read.integer("capture_margin_bp", 0, 10_000, 500),
                fallback_bp=read.integer("capture_fallback_bp", 0, 10_000, 500),
                disagreement_bp=read.integer("capture_disagreement_bp", 0, 10_000, 5_000),
            ),
            report_interval_s=read.number("report_interval_s", 0.05, 60, 0.5),
            drain_delay_s=read.number("drain_delay_s", 0, 60, 1.0),
            drain_grace_s=read.number("drain_grace_s", 0, 60, 2.0),
            mutation_network_ms=read.number("mutation_network_ms", 0, 1000, 5.0),
            mutations=tuple(
                MutationRule.from_json(item, f"gateway.mutations[{i}]")
                for i, item in enumerate(read.items("mutations", []))
            ),
            engines=read_servers(read.items("engines", []), root),
        )
        read.done()
        settings._check(is_open=who == OPEN)
        return settings

    def _check(self, *, is_open: bool) -> None:
        """Refuse settings that do not go together; raises FieldInvalid."""
        engines = len(self.worker_sockets) + len(self.engines)
        if self.hedge_share and engines < 2:
            raise FieldInvalid(f"gateway.hedge_share is {self.hedge_share:g} with {engines} engines, expected two")
        if self.trace_endpoint and not self.trace_endpoint.startswith(("http://", "https://")):
            raise FieldInvalid(f"gateway.trace_endpoint is {self.trace_endpoint!r}, expected an HTTP URL")
        shown = self.control_certificate, self.control_key
        if (None in shown) != (shown == (None, None)) or (self.control_ca is None and shown != (None, None)):
            raise FieldInvalid(
                "gateway.control_certificate, control_key and control_ca go together, expected all three to show a "
                "certificate to the control plane"
            )
        check_listen(self.listen, "gateway.listen")
        if self.access is None and not is_open and not is_loopback(self.listen):
            raise FieldInvalid(
                f"gateway.access is not set and gateway.listen is {self.listen!r}, expected a file of who may "
                f"call, or {OPEN!r} for everybody who can reach it"
            )

    def on_front(self, front: str, *, has_envoy: bool) -> Self:
        """Return the same with the front that serves; ``front`` is what the command line asks for, or empty."""
        front = front or self.front
        if front == "auto":
            front = self._quickest_front(has_envoy)
        if front == "direct" and self.tls is not None:
            raise FieldInvalid("the front is 'direct' and gateway.tls_certificate is set, expected 'envoy' or 'grpcio'")
        return replace(self, front=front)

    def _quickest_front(self, has_envoy: bool) -> str:
        """Choose so that strangers meet the HTTP/2 of Envoy or grpcio, and everybody else ours, which is quicker."""
        if self.tls is None and is_loopback(self.listen):
            return "direct"
        if not has_envoy:
            return "grpcio"
        return "envoy-tcp" if self.tls is not None and self.tls.client_ca is not None else "envoy"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the ``[gateway]`` table of a TOML file; raises FieldInvalid."""
        return cls.from_json(read_table(path, "gateway"), path.parent.resolve())


def _gateway_id(given: str) -> str:
    return socket.gethostname() if given == HOST else given


def _digests(given: Sequence[str], where: str) -> tuple[str, ...]:
    try:
        return tuple(parse_digest(digest, f"{where}[{i}]") for i, digest in enumerate(given))
    except DigestMalformed as error:
        raise FieldInvalid(str(error)) from error


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
    if certificate is not None and key is not None:
        return Tls(certificate, key, client_ca)
    if certificate is not None or key is not None:
        raise FieldInvalid("gateway.tls_certificate and gateway.tls_key: one is set, expected both or neither")
    if client_ca is not None:
        raise FieldInvalid("gateway.tls_client_ca is set without gateway.tls_key, expected both")
    return None
