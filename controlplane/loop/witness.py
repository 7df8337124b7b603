"""Who else vouches for the ledger's heads: gateways by themselves, auditors by command."""

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from controlplane.errors import ApprovalRefused
from controlplane.loop.deployment import LOOP, Deployment
from controlplane.store import ledger, records
from controlplane.store.store import Unit
from protos import traffic_pb2
from protos.contract.checkpoint import CheckpointInvalid, verify_checkpoint, verify_cosignature
from protos.contract.keys import NATIVE, KeyInvalid, parse_public

log = structlog.get_logger()


def meet_witness(unit: Unit, said: traffic_pb2.WatchPlanRequest) -> None:
    """Keep the key a gateway shows first; another one later does not replace it."""
    name = f"gateway/{said.gateway_id}"
    if not said.witness_key or len(said.witness_key) > 200:
        return
    known = records.witness_key(unit, name)
    if known is None:
        records.add_witness(unit, name, said.witness_key)
        unit.record(LOOP, "witness.met", {"witness": name, "key": said.witness_key})
    elif known != said.witness_key:
        log.warning("witness_key_changed", witness=name)


def keep_cosignature(unit: Unit, deployment: Deployment, said: traffic_pb2.Acknowledgement) -> None:
    """Keep a gateway's word on a head, once it is found good; a bad one is only logged."""
    if said.cosigned_checkpoint:
        try:
            add_cosignature(unit, deployment, f"gateway/{said.gateway_id}", said.cosigned_checkpoint)
        except (CheckpointInvalid, KeyInvalid) as error:
            log.warning("cosignature_refused", gateway=said.gateway_id, error=str(error))


def add_cosignature(unit: Unit, deployment: Deployment, name: str, text: str) -> bool:
    """Keep a witness's cosignature of a head of this ledger; return whether it is news.

    Raises:
        CheckpointInvalid: It is no head of this ledger, or not cosigned by the witness of that name.
        KeyInvalid: No witness of that name has shown a key.
    """
    key = parse_public(records.witness_key(unit, name) or "", f"key of witness {name!r}")
    return _keep(unit, deployment, name, text, key)[1]


def add_auditor_s(unit: Unit, deployment: Deployment, name: str, text: str) -> int:
    """Keep an auditor's cosignature of a head and return the head's size.

    Raises:
        ApprovalRefused: Nobody enrolled as an auditor by that name cosigned this head of this ledger.
    """
    person = name.removeprefix("auditor/")
    keys = [
        parse_public(key, "operators.keys")
        for p in deployment.operators().people
        if p.person == person and "auditor" in p.roles
        for key in p.keys
        if key.startswith(f"{NATIVE}:") and deployment.operators().revoked_since(key) is None
    ]
    if not keys or person == name:
        raise ApprovalRefused("approver_not_allowed", f"{name!r} is no auditor, expected auditor/PERSON as enrolled")
    for key in keys:
        try:
            size, is_new = _keep(unit, deployment, name, text, key)
        except CheckpointInvalid as error:
            refused = error
            continue
        if is_new:
            unit.record(person, "ledger.cosigned", {"witness": name, "size": size})
        return size
    raise ApprovalRefused("signature_invalid", str(refused)) from refused


def _keep(unit: Unit, deployment: Deployment, name: str, text: str, key: Ed25519PublicKey) -> tuple[int, bool]:
    verify_cosignature(text, name, key)
    head = verify_checkpoint(text, deployment.ledger_origin, deployment.key.public_key())
    stored = ledger.stored_checkpoint(unit.connection, head.size)
    if stored is None or stored[0] < head.size:
        raise CheckpointInvalid("origin_mismatch", f"the ledger never signed a head of {head.size} entries or more")
    line = next(one for one in text.rpartition("\n\n")[2].splitlines(True) if one.startswith(f"— {name} "))
    return head.size, records.add_cosignature(unit, head.size, name, line)
