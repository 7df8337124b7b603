"""A control plane and a gateway that answer what a test wants, and ways to call the command line."""

import json
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
from typer.testing import CliRunner

from controlplane.cli.app import app
from protos import control_pb2, control_pb2_grpc, decide_pb2, decide_pb2_grpc
from protos.contract.attestation import Approval
from protos.contract.digest import canonical_json, digest_bytes
from protos.contract.plan import Split
from protos.contract.plan_rules import to_split_digest

OLD, NEW, OTHER = ("sha256:" + letter * 64 for letter in "abc")
BEFORE = Split("brand", OLD, NEW, None, 0, 5_000, 10_000, 0, "r-1")


WORST = [
    {"label": f"label-{i}", "text": f"case {i}", "primary_decision": "allow", "candidate_decision": "block"}
    for i in range(5)
]
EVALUATION = canonical_json({"gates": [], "worst_regressions": WORST})
GATES = canonical_json({"gates": []})
MANIFEST = canonical_json(
    {
        "bundle": NEW,
        "suite": OTHER,
        "rollout": "r-1",
        "files": {"evaluation.json": digest_bytes(EVALUATION), "gates.json": digest_bytes(GATES)},
    }
)


def draft(**changes: Any) -> control_pb2.ApprovalDraft:
    statement = Approval(
        person="draft",
        specialist="brand",
        rollout="r-1",
        step="canary",
        bundle=NEW,
        evidence=digest_bytes(MANIFEST),
        suite=OTHER,
        from_split=BEFORE.shape_digest(),
        to_split=to_split_digest(BEFORE, 5_000),
        ceiling_bp=5_000,
        audience="prod",
        not_before=0,
        expires=0,
        nonce="draft",
        author="trainer",
        reason="draft",
    )
    shape = json.dumps(BEFORE.shape())
    return control_pb2.ApprovalDraft(
        rollout="r-1",
        step="canary",
        ceiling_bp=5_000,
        statement=canonical_json(replace(statement, **changes).to_statement()),
        summary="it gets better",
        from_shape_json=shape,
        to_shape_json=shape,
        evidence_path="/somewhere",
        evidence_manifest=MANIFEST,
        evaluation_json=EVALUATION,
        gates_json=GATES,
    )


def job(kind: str, state: str, at: int, **result: Any) -> control_pb2.Job:
    return control_pb2.Job(
        id=f"{kind}-{at}",
        kind=kind,
        specialist="brand",
        state=state,
        created_at=f"2026-01-01T00:00:{at:02}",
        finished_at=f"2026-01-01T00:00:{at + 5:02}" if state == "done" else "",
        result_json=json.dumps(result) if result else "",
        message=f"{kind} [/is] {state}",
    )


class FakeControl(control_pb2_grpc.ControlServiceServicer):
    """Keeps what it is asked; a rollout it is asked for repeatedly walks through ``rollouts``."""

    def __init__(self) -> None:
        self.draft = draft()
        self.asked: list[Any] = []
        gate = control_pb2.GateReading(gate="shadow_cost", verdict="not_yet", sample=7, sample_missing=9)
        self.rollouts = [control_pb2.Rollout(id="r-1", phase="shadow", candidate_digest=NEW, gates=[gate])]
        self.jobs: dict[str, list[control_pb2.Job]] = {}
        self.evidence = control_pb2.Evidence(rollout="r-1", path="/nowhere/at/all", digest=OTHER)
        self.readings: list[control_pb2.DriftReading] = []
        self.shadow = control_pb2.ShadowReport(rollout="r-1")
        self.holdback = control_pb2.HoldbackReport(specialist="brand")
        self.specialist = control_pb2.Specialist(name="brand", primary_digest=OLD, samples=2**40)

    def of(self, kind: type) -> list[Any]:
        return [request for request in self.asked if isinstance(request, kind)]

    def ListSpecialists(self, request: Any, context: Any) -> Any:  # noqa: N802
        return control_pb2.ListSpecialistsResponse(specialists=[self.specialist])

    def GetSpecialist(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.specialist

    def Train(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request)
        return job("train", "queued", 10)

    def Evaluate(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request)
        return job("evaluate", "queued", 20)

    def GetJob(self, request: Any, context: Any) -> Any:  # noqa: N802
        states = self.jobs[request.id]
        return states.pop(0) if len(states) > 1 else states[0]

    def ListJobs(self, request: Any, context: Any) -> Any:  # noqa: N802
        before = job("evaluate", "done", 1)
        return control_pb2.ListJobsResponse(jobs=[before, *(states[0] for states in self.jobs.values())])

    def GetRollout(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.id not in ("r-1", "brand"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"rollout is {request.id!r}, expected another")
        return self.rollouts.pop(0) if len(self.rollouts) > 1 else self.rollouts[0]

    def DraftApproval(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request)
        return self.draft

    def SubmitApproval(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request)
        return control_pb2.Rollout(id="r-1", phase="canary")

    def RollBack(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request)
        return control_pb2.Rollout(id="r-1", phase="rolled_back")

    def HoldRollout(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "rollout 'r-1' is held already")

    def RejectRollout(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "person is '', expected 1 to 2000 characters")

    def GetHistory(self, request: Any, context: Any) -> Any:  # noqa: N802
        entry = control_pb2.HistoryEntry(seq=3, actor="ann", action="approval.given", detail_json='{"bundle": "[/b]"}')
        return control_pb2.GetHistoryResponse(entries=[entry])

    def GetDriftStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        return control_pb2.DriftStatus(readings=self.readings)

    def GetHoldbackReport(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.holdback

    def GetShadowReport(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.rollout != "brand":
            context.abort(grpc.StatusCode.NOT_FOUND, f"rollout is {request.rollout!r}, expected another")
        return self.shadow

    def GetEvidence(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.evidence


class FakeGateway(decide_pb2_grpc.DecisionServiceServicer):
    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.told: dict[str, Any] = {}  # the metadata of the last decision

    def Decide(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request)
        self.told = dict(context.invocation_metadata())
        fallback = decide_pb2.Fallback(used=True, reason=decide_pb2.FALLBACK_REASON_NO_TIME)
        return decide_pb2.DecideResponse(
            decision_id="d-1",
            decision="block [/now]",
            fallback=fallback,
            arm=decide_pb2.ARM_CANARY,
            bundle_digest=NEW,
            plan_generation=2**40,
            bucket=77,
            truncated=True,
            reasons=[decide_pb2.Reason(field="utilisation", log_odds=1.25)],
        )

    def ReportOutcome(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request)
        return decide_pb2.ReportOutcomeResponse(recorded=True)


@contextmanager
def served(add: Any, service: Any) -> Iterator[str]:
    """Serve on a free port and return the address."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def interlock(*arguments: str, given: str = "") -> tuple[int, str]:
    """Run a command as a person does; return its exit code and all it said."""
    result = CliRunner().invoke(app, arguments, input=given, env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def said(*arguments: str) -> tuple[int, Any]:
    """Run a command as a script does; return its exit code and its one JSON document."""
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, json.loads(result.stdout)
