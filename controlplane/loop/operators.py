"""Take the next version of the list of people, as its owners signed it, and keep it for gateways that are behind."""

import json
from dataclasses import replace

from controlplane.errors import ApprovalRefused
from controlplane.loop import publish
from controlplane.loop.deployment import Deployment
from controlplane.store import plans
from controlplane.store.files import replace_file
from controlplane.store.store import Unit
from protos import traffic_pb2
from protos.contract.attestation import AttestationInvalid, Operators
from protos.contract.operators import envelope_to_json, next_version
from protos.contract.plan_rules import PlanRefused


def update_operators(unit: Unit, deployment: Deployment, envelope: traffic_pb2.Envelope) -> Operators:
    """Replace the list of people by its next version.

    Raises:
        ApprovalRefused: ``operators_invalid``: not the next version, not signed by enough owners, or the plan that
            stands would not stand under it.
    """
    current = deployment.operators()
    try:
        following = next_version(current, envelope)
    except AttestationInvalid as error:
        raise ApprovalRefused(error.reason, str(error)) from error
    try:
        check_standing(unit, deployment, following)
    except PlanRefused as refused:
        raise ApprovalRefused(refused.reason, str(refused)) from refused
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


def check_standing(unit: Unit, deployment: Deployment, people: Operators) -> None:
    """Hold the plan that stands to a list of people.

    Raises:
        PlanRefused: ``operators_invalid``: it could not be checked under it, and gateways would take no plan after it.
    """
    row = plans.standing(unit)
    if row is None:
        return
    try:
        envelopes = plans.approvals_for(unit, row.plan)
        # A key may be revoked even from before what it approved: then nothing may stand on it.
        publish.check(unit, deployment, None, row.plan, envelopes, replace(people, revoked=()), was_in_force=True)
    except PlanRefused as refused:
        raise PlanRefused(
            "operators_invalid",
            f"plan {row.generation} stands, and would not under version {people.version} ({refused.reason}: "
            f"{refused}), so that none could follow it, a way back included; expected whoever approved it in the list, "
            "their keys revoked perhaps, and no more required_approvals than it has",
        ) from refused
