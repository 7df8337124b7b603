"""Take the next version of the list of people, as its owners signed it, and keep it for gateways that are behind."""

import json

from controlplane.errors import ApprovalRefused
from controlplane.loop.deployment import Deployment
from controlplane.store.files import replace_file
from controlplane.store.store import Unit
from protos import traffic_pb2
from protos.contract.attestation import AttestationInvalid, Operators
from protos.contract.operators import envelope_to_json, next_version


def update_operators(unit: Unit, deployment: Deployment, envelope: traffic_pb2.Envelope) -> Operators:
    """Replace the list of people by its next version.

    Raises:
        ApprovalRefused: ``operators_invalid``: not the next version, or not signed by enough owners.
    """
    current = deployment.operators()
    try:
        following = next_version(current, envelope)
    except AttestationInvalid as error:
        raise ApprovalRefused(error.reason, str(error)) from error
    unit.record(
        ", ".join(sorted(p.person for p in current.owners())),
        "operators.updated",
        {
            "version": following.version,
            "people": [p.person for p in following.people],
            "revoked": [{"key": r.key, "since": r.since} for r in following.revoked],
            "expires": following.expires,
        },
    )
    data = (json.dumps(envelope_to_json(envelope), indent=1) + "\n").encode()
    folder = deployment.settings.operators_dir
    folder.mkdir(parents=True, exist_ok=True)
    # The history first: a gateway that is behind needs every step between its version and this.
    replace_file(folder / f"{following.version}.json", data)
    replace_file(deployment.settings.operators, data)
    return following
