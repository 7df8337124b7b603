"""``interlock decide`` and ``interlock outcome``: one call to the gateway, as a caller makes it."""

import math
import re
from typing import Annotated

import typer
from rich.text import Text

from controlplane.cli.connection import GATEWAY, TIMEOUT_S, gateway_at
from controlplane.cli.output import JsonFlag, as_dict, command, say, say_json, short, table, visible
from protos import decide_pb2
from protos.contract.fields import FieldInvalid

# JSON's numbers, and no zero in front: "007" is a name.
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,18})", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
GatewayOption = Annotated[str, typer.Option("--gateway", envvar="INTERLOCK_GATEWAY", help="Address of the gateway.")]


@command
def decide(
    specialist: Annotated[str, typer.Argument(help="Who decides.")],
    text: Annotated[str, typer.Argument(help="What about; empty when fields are given.")] = "",
    gateway: GatewayOption = GATEWAY,
    key: Annotated[str, typer.Option(help="Routing key: the same key meets the same arm.")] = "",
    decision_id: Annotated[str, typer.Option(help="Your own id, to report an outcome later.")] = "",
    deadline_ms: Annotated[int, typer.Option(min=1, max=600_000, help="Time you can spend.")] = 1000,
    field: Annotated[
        list[str] | None, typer.Option(help="A typed field, name=value; text like a number: name='\"12\"'.")
    ] = None,
    override: Annotated[str, typer.Option(help="For testers: primary, candidate or a digest of the plan.")] = "",
    token: Annotated[str, typer.Option(envvar="INTERLOCK_OVERRIDE_TOKEN", help="What allows the override.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Ask for one decision."""
    given = decide_pb2.Input(text=text)
    for item in field or []:
        name, found, value = item.partition("=")
        if not found or not name:
            raise FieldInvalid(f"field is {item!r}, expected name=value")
        given.fields[name].CopyFrom(_value(value))
    request = decide_pb2.DecideRequest(specialist=specialist, input=given, routing_key=key, decision_id=decision_id)
    with gateway_at(gateway) as stub:
        metadata = (("interlock-override", override), ("authorization", f"Bearer {token}")) if override else ()
        answer = stub.Decide(request, timeout=deadline_ms / 1000, metadata=metadata)
    if as_json:
        say_json(as_dict(answer))
        return
    arm = decide_pb2.Arm.Name(answer.arm).removeprefix("ARM_").lower()
    reason = decide_pb2.FallbackReason.Name(answer.fallback.reason).removeprefix("FALLBACK_REASON_").lower()
    said = f"fallback, {reason}" if answer.fallback.used else f"label {answer.label}"
    cut = (", input truncated" if answer.truncated else "") + (", cached" if answer.cached else "")
    reasons = [(one.field, f"{one.log_odds:+.2f}", one.statement) for one in answer.reasons]
    say(
        Text.assemble((visible(answer.decision), "bold"), visible(f" ({said}, score {answer.score:.3f}{cut})")),
        table("", ("label", "probability"), [(p.label, f"{p.probability:.3f}") for p in answer.probabilities]),
        *([table("", ("reason", "log odds", "in words"), reasons)] if reasons else []),
        f"arm {arm}, bundle {short(answer.bundle_digest)}, plan {answer.plan_generation}, bucket {answer.bucket}, "
        f"decision {answer.decision_id}\n{answer.timing.total_us / 1000:.1f} ms at the gateway: "
        f"queue {answer.timing.queue_us / 1000:.1f}, engine {answer.timing.engine_us / 1000:.1f}",
    )


@command
def outcome(
    specialist: Annotated[str, typer.Argument(help="Who decided.")],
    decision_id: Annotated[str, typer.Argument(help="Which decision.")],
    label: Annotated[str, typer.Argument(help="What it really was.")],
    source: Annotated[str, typer.Option(help="Who says so.")] = "operator",
    gateway: GatewayOption = GATEWAY,
    as_json: JsonFlag = False,
) -> None:
    """Report what really happened to an earlier decision."""
    request = decide_pb2.ReportOutcomeRequest(
        specialist=specialist, decision_id=decision_id, label=label, source=source
    )
    with gateway_at(gateway) as stub:
        answer = stub.ReportOutcome(request, timeout=TIMEOUT_S)
    if as_json:
        say_json(as_dict(answer))
    else:
        say("recorded" if answer.recorded else "not recorded: the capture lane is full, send it again")


def _value(text: str) -> decide_pb2.Value:
    if len(text) > 1 and text[0] == text[-1] == '"':
        return decide_pb2.Value(text=text[1:-1])
    if text in ("true", "false"):
        return decide_pb2.Value(flag=text == "true")
    if _INTEGER.fullmatch(text) and -(2**63) <= int(text) < 2**63:
        return decide_pb2.Value(integer=int(text))
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)) and not _INTEGER.fullmatch(text):
        return decide_pb2.Value(number=float(text))
    return decide_pb2.Value(text=text)
