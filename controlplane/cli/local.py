"""Rolling back at the gateways themselves, with control plane and database away."""

import secrets
import time
from pathlib import Path
from typing import Any

import typer

from controlplane.cli.connection import local_at
from controlplane.cli.output import REFUSED, Problem, marked, say, say_json, short, table
from controlplane.cli.signing import check_key, sign_with
from protos import traffic_pb2
from protos.contract.attestation import STATEMENT_TYPE
from protos.contract.rollback import RollbackOrder

VALID_S = 600


def roll_back_at(gateways: list[str], specialist: str, person: str, reason: str, key: Path, as_json: bool) -> None:
    """Sign one order and have every gateway obey it; ends with 1 unless all did.

    Raises:
        Problem: No gateway could be asked what serves, or there is nothing to go back from.
        KeyInvalid: The key cannot sign.
    """
    check_key(key)
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    orders: dict[str, traffic_pb2.Envelope] = {}
    for address in gateways:
        row: dict[str, Any] = {"gateway": address, "ok": False}
        rows.append(row)
        try:
            with local_at(address) as server:
                found = server.GetInForce(traffic_pb2.GetInForceRequest(specialist=specialist))
                bundle = found.candidate_digest or (found.primary_digest if found.previous_digest else "")
                if not bundle:
                    row |= {"ok": True, "primary": found.primary_digest, "message": "nothing to go back from"}
                    continue
                if bundle not in orders:
                    orders[bundle] = _order(found.deployment, specialist, bundle, person, reason, key)
                done = server.RollBack(traffic_pb2.LocalRollbackRequest(order=orders[bundle]))
            row |= {
                "ok": True,
                "gateway_id": done.gateway_id,
                "left": bundle,
                "primary": done.primary_digest,
                "generation": done.generation,
                "took_ms": round(done.took_us / 1000, 3),
                "message": f"left {short(bundle)} in {done.took_us / 1000:.1f} ms",
            }
        except Problem as problem:
            row["message"] = str(problem)
    whole_ms = round((time.monotonic() - began) * 1000, 1)
    good = all(row["ok"] for row in rows)
    if as_json:
        say_json({"rolled_back": good, "took_ms": whole_ms, "gateways": rows})
    else:
        cells = []
        for row in rows:
            word = marked("ok", "green") if row["ok"] else marked("NOT", "red")
            cells.append((row["gateway"], word, row["message"], short(row.get("primary", ""))))
        say(table(f"{whole_ms:.0f} ms in all", ("gateway", "", "what happened", "serves now"), cells))
    if not good:
        raise typer.Exit(REFUSED)


def _order(deployment: str, specialist: str, bundle: str, person: str, reason: str, key: Path) -> traffic_pb2.Envelope:
    now = int(time.time())
    order = RollbackOrder(person, specialist, bundle, deployment, now, now + VALID_S, secrets.token_hex(16), reason)
    envelope = traffic_pb2.Envelope(payload=order.payload(), payload_type=STATEMENT_TYPE)
    sign_with(key, envelope)
    return envelope
