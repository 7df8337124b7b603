from protos import traffic_pb2 as _traffic_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListSpecialistsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSpecialistsResponse(_message.Message):
    __slots__ = ("specialists",)
    SPECIALISTS_FIELD_NUMBER: _ClassVar[int]
    specialists: _containers.RepeatedCompositeFieldContainer[Specialist]
    def __init__(self, specialists: _Optional[_Iterable[_Union[Specialist, _Mapping]]] = ...) -> None: ...

class GetSpecialistRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class Specialist(_message.Message):
    __slots__ = ("name", "description", "labels", "decisions", "primary_digest", "candidate_digest", "canary_bp", "shadow_bp", "suite_digest", "open_rollout", "bundles", "samples", "outcomes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CANARY_BP_FIELD_NUMBER: _ClassVar[int]
    SHADOW_BP_FIELD_NUMBER: _ClassVar[int]
    SUITE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    OPEN_ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    decisions: _containers.RepeatedScalarFieldContainer[str]
    primary_digest: str
    candidate_digest: str
    canary_bp: int
    shadow_bp: int
    suite_digest: str
    open_rollout: str
    bundles: _containers.RepeatedCompositeFieldContainer[BundleInfo]
    samples: int
    outcomes: int
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., decisions: _Optional[_Iterable[str]] = ..., primary_digest: _Optional[str] = ..., candidate_digest: _Optional[str] = ..., canary_bp: _Optional[int] = ..., shadow_bp: _Optional[int] = ..., suite_digest: _Optional[str] = ..., open_rollout: _Optional[str] = ..., bundles: _Optional[_Iterable[_Union[BundleInfo, _Mapping]]] = ..., samples: _Optional[int] = ..., outcomes: _Optional[int] = ...) -> None: ...

class BundleInfo(_message.Message):
    __slots__ = ("digest", "state", "cause", "created_at", "evaluation_id")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_ID_FIELD_NUMBER: _ClassVar[int]
    digest: str
    state: str
    cause: str
    created_at: str
    evaluation_id: str
    def __init__(self, digest: _Optional[str] = ..., state: _Optional[str] = ..., cause: _Optional[str] = ..., created_at: _Optional[str] = ..., evaluation_id: _Optional[str] = ...) -> None: ...

class TrainRequest(_message.Message):
    __slots__ = ("specialist", "reason", "requested_by", "start_rollout", "seed", "operation_id")
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_FIELD_NUMBER: _ClassVar[int]
    START_ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    reason: str
    requested_by: str
    start_rollout: bool
    seed: int
    operation_id: str
    def __init__(self, specialist: _Optional[str] = ..., reason: _Optional[str] = ..., requested_by: _Optional[str] = ..., start_rollout: bool = ..., seed: _Optional[int] = ..., operation_id: _Optional[str] = ...) -> None: ...

class EvaluateRequest(_message.Message):
    __slots__ = ("specialist", "bundle_digest", "operation_id")
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    bundle_digest: str
    operation_id: str
    def __init__(self, specialist: _Optional[str] = ..., bundle_digest: _Optional[str] = ..., operation_id: _Optional[str] = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("specialist",)
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    def __init__(self, specialist: _Optional[str] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("id", "kind", "specialist", "state", "attempt", "progress", "message", "result_json", "created_at", "finished_at", "cause")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RESULT_JSON_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    specialist: str
    state: str
    attempt: int
    progress: float
    message: str
    result_json: str
    created_at: str
    finished_at: str
    cause: str
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., specialist: _Optional[str] = ..., state: _Optional[str] = ..., attempt: _Optional[int] = ..., progress: _Optional[float] = ..., message: _Optional[str] = ..., result_json: _Optional[str] = ..., created_at: _Optional[str] = ..., finished_at: _Optional[str] = ..., cause: _Optional[str] = ...) -> None: ...

class StartRolloutRequest(_message.Message):
    __slots__ = ("specialist", "bundle_digest", "started_by", "operation_id")
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    STARTED_BY_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    bundle_digest: str
    started_by: str
    operation_id: str
    def __init__(self, specialist: _Optional[str] = ..., bundle_digest: _Optional[str] = ..., started_by: _Optional[str] = ..., operation_id: _Optional[str] = ...) -> None: ...

class GetRolloutRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ListRolloutsRequest(_message.Message):
    __slots__ = ("specialist",)
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    def __init__(self, specialist: _Optional[str] = ...) -> None: ...

class ListRolloutsResponse(_message.Message):
    __slots__ = ("rollouts",)
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    rollouts: _containers.RepeatedCompositeFieldContainer[Rollout]
    def __init__(self, rollouts: _Optional[_Iterable[_Union[Rollout, _Mapping]]] = ...) -> None: ...

class GateReading(_message.Message):
    __slots__ = ("gate", "verdict", "value", "lower", "upper", "limit", "sample", "sample_missing", "summary")
    GATE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_MISSING_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    gate: str
    verdict: str
    value: float
    lower: float
    upper: float
    limit: float
    sample: int
    sample_missing: int
    summary: str
    def __init__(self, gate: _Optional[str] = ..., verdict: _Optional[str] = ..., value: _Optional[float] = ..., lower: _Optional[float] = ..., upper: _Optional[float] = ..., limit: _Optional[float] = ..., sample: _Optional[int] = ..., sample_missing: _Optional[int] = ..., summary: _Optional[str] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("id", "specialist", "phase", "held", "primary_digest", "candidate_digest", "canary_bp", "shadow_bp", "stages_bp", "waiting_for", "gates", "approvals", "evidence_path", "evidence_digest", "started_by", "started_at", "ended_at", "end_reason", "needs_approval_for", "required_approvals", "rollback_ms", "drills")
    ID_FIELD_NUMBER: _ClassVar[int]
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CANARY_BP_FIELD_NUMBER: _ClassVar[int]
    SHADOW_BP_FIELD_NUMBER: _ClassVar[int]
    STAGES_BP_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    APPROVALS_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_PATH_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    STARTED_BY_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    END_REASON_FIELD_NUMBER: _ClassVar[int]
    NEEDS_APPROVAL_FOR_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_APPROVALS_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_MS_FIELD_NUMBER: _ClassVar[int]
    DRILLS_FIELD_NUMBER: _ClassVar[int]
    id: str
    specialist: str
    phase: str
    held: bool
    primary_digest: str
    candidate_digest: str
    canary_bp: int
    shadow_bp: int
    stages_bp: _containers.RepeatedScalarFieldContainer[int]
    waiting_for: str
    gates: _containers.RepeatedCompositeFieldContainer[GateReading]
    approvals: _containers.RepeatedCompositeFieldContainer[ApprovalInfo]
    evidence_path: str
    evidence_digest: str
    started_by: str
    started_at: str
    ended_at: str
    end_reason: str
    needs_approval_for: str
    required_approvals: int
    rollback_ms: int
    drills: _containers.RepeatedCompositeFieldContainer[DrillInfo]
    def __init__(self, id: _Optional[str] = ..., specialist: _Optional[str] = ..., phase: _Optional[str] = ..., held: bool = ..., primary_digest: _Optional[str] = ..., candidate_digest: _Optional[str] = ..., canary_bp: _Optional[int] = ..., shadow_bp: _Optional[int] = ..., stages_bp: _Optional[_Iterable[int]] = ..., waiting_for: _Optional[str] = ..., gates: _Optional[_Iterable[_Union[GateReading, _Mapping]]] = ..., approvals: _Optional[_Iterable[_Union[ApprovalInfo, _Mapping]]] = ..., evidence_path: _Optional[str] = ..., evidence_digest: _Optional[str] = ..., started_by: _Optional[str] = ..., started_at: _Optional[str] = ..., ended_at: _Optional[str] = ..., end_reason: _Optional[str] = ..., needs_approval_for: _Optional[str] = ..., required_approvals: _Optional[int] = ..., rollback_ms: _Optional[int] = ..., drills: _Optional[_Iterable[_Union[DrillInfo, _Mapping]]] = ...) -> None: ...

class DrillInfo(_message.Message):
    __slots__ = ("at", "took_ms", "gateways", "person")
    AT_FIELD_NUMBER: _ClassVar[int]
    TOOK_MS_FIELD_NUMBER: _ClassVar[int]
    GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    PERSON_FIELD_NUMBER: _ClassVar[int]
    at: str
    took_ms: int
    gateways: _containers.RepeatedScalarFieldContainer[str]
    person: str
    def __init__(self, at: _Optional[str] = ..., took_ms: _Optional[int] = ..., gateways: _Optional[_Iterable[str]] = ..., person: _Optional[str] = ...) -> None: ...

class ApprovalInfo(_message.Message):
    __slots__ = ("person", "step", "ceiling_bp", "expires", "reason", "statement_digest", "void_reason")
    PERSON_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CEILING_BP_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    VOID_REASON_FIELD_NUMBER: _ClassVar[int]
    person: str
    step: str
    ceiling_bp: int
    expires: str
    reason: str
    statement_digest: str
    void_reason: str
    def __init__(self, person: _Optional[str] = ..., step: _Optional[str] = ..., ceiling_bp: _Optional[int] = ..., expires: _Optional[str] = ..., reason: _Optional[str] = ..., statement_digest: _Optional[str] = ..., void_reason: _Optional[str] = ...) -> None: ...

class DraftApprovalRequest(_message.Message):
    __slots__ = ("rollout", "ceiling_bp")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    CEILING_BP_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    ceiling_bp: int
    def __init__(self, rollout: _Optional[str] = ..., ceiling_bp: _Optional[int] = ...) -> None: ...

class ApprovalDraft(_message.Message):
    __slots__ = ("rollout", "step", "ceiling_bp", "statement", "summary", "from_shape_json", "to_shape_json", "evidence_path", "evidence_manifest", "evaluation_json", "gates_json", "drill_json")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CEILING_BP_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    FROM_SHAPE_JSON_FIELD_NUMBER: _ClassVar[int]
    TO_SHAPE_JSON_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_PATH_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_MANIFEST_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_JSON_FIELD_NUMBER: _ClassVar[int]
    GATES_JSON_FIELD_NUMBER: _ClassVar[int]
    DRILL_JSON_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    step: str
    ceiling_bp: int
    statement: bytes
    summary: str
    from_shape_json: str
    to_shape_json: str
    evidence_path: str
    evidence_manifest: bytes
    evaluation_json: bytes
    gates_json: bytes
    drill_json: bytes
    def __init__(self, rollout: _Optional[str] = ..., step: _Optional[str] = ..., ceiling_bp: _Optional[int] = ..., statement: _Optional[bytes] = ..., summary: _Optional[str] = ..., from_shape_json: _Optional[str] = ..., to_shape_json: _Optional[str] = ..., evidence_path: _Optional[str] = ..., evidence_manifest: _Optional[bytes] = ..., evaluation_json: _Optional[bytes] = ..., gates_json: _Optional[bytes] = ..., drill_json: _Optional[bytes] = ...) -> None: ...

class SubmitApprovalRequest(_message.Message):
    __slots__ = ("rollout", "envelope")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    envelope: _traffic_pb2.Envelope
    def __init__(self, rollout: _Optional[str] = ..., envelope: _Optional[_Union[_traffic_pb2.Envelope, _Mapping]] = ...) -> None: ...

class RolloutCommand(_message.Message):
    __slots__ = ("rollout", "reason", "person")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PERSON_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    reason: str
    person: str
    def __init__(self, rollout: _Optional[str] = ..., reason: _Optional[str] = ..., person: _Optional[str] = ...) -> None: ...

class GetHistoryRequest(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    def __init__(self, rollout: _Optional[str] = ...) -> None: ...

class GetHistoryResponse(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[HistoryEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[HistoryEntry, _Mapping]]] = ...) -> None: ...

class HistoryEntry(_message.Message):
    __slots__ = ("seq", "at", "actor", "action", "detail_json", "body")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    DETAIL_JSON_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    seq: int
    at: str
    actor: str
    action: str
    detail_json: str
    body: bytes
    def __init__(self, seq: _Optional[int] = ..., at: _Optional[str] = ..., actor: _Optional[str] = ..., action: _Optional[str] = ..., detail_json: _Optional[str] = ..., body: _Optional[bytes] = ...) -> None: ...

class GetPlanStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PlanStatus(_message.Message):
    __slots__ = ("generation", "plans", "gateways")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    generation: int
    plans: _containers.RepeatedCompositeFieldContainer[PlanInfo]
    gateways: _containers.RepeatedCompositeFieldContainer[GatewayInfo]
    def __init__(self, generation: _Optional[int] = ..., plans: _Optional[_Iterable[_Union[PlanInfo, _Mapping]]] = ..., gateways: _Optional[_Iterable[_Union[GatewayInfo, _Mapping]]] = ...) -> None: ...

class PlanInfo(_message.Message):
    __slots__ = ("generation", "digest", "plan_json", "state", "refused_reason", "created_at", "approved_by")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PLAN_JSON_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_REASON_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    APPROVED_BY_FIELD_NUMBER: _ClassVar[int]
    generation: int
    digest: str
    plan_json: str
    state: str
    refused_reason: str
    created_at: str
    approved_by: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, generation: _Optional[int] = ..., digest: _Optional[str] = ..., plan_json: _Optional[str] = ..., state: _Optional[str] = ..., refused_reason: _Optional[str] = ..., created_at: _Optional[str] = ..., approved_by: _Optional[_Iterable[str]] = ...) -> None: ...

class GatewayInfo(_message.Message):
    __slots__ = ("gateway_id", "generation", "last_seen", "refusals", "last_refusal")
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    LAST_REFUSAL_FIELD_NUMBER: _ClassVar[int]
    gateway_id: str
    generation: int
    last_seen: str
    refusals: int
    last_refusal: str
    def __init__(self, gateway_id: _Optional[str] = ..., generation: _Optional[int] = ..., last_seen: _Optional[str] = ..., refusals: _Optional[int] = ..., last_refusal: _Optional[str] = ...) -> None: ...

class GetDriftStatusRequest(_message.Message):
    __slots__ = ("specialist",)
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    def __init__(self, specialist: _Optional[str] = ...) -> None: ...

class DriftStatus(_message.Message):
    __slots__ = ("readings",)
    READINGS_FIELD_NUMBER: _ClassVar[int]
    readings: _containers.RepeatedCompositeFieldContainer[DriftReading]
    def __init__(self, readings: _Optional[_Iterable[_Union[DriftReading, _Mapping]]] = ...) -> None: ...

class DriftReading(_message.Message):
    __slots__ = ("id", "specialist", "signal", "verdict", "value", "threshold", "sample", "at", "summary", "action")
    ID_FIELD_NUMBER: _ClassVar[int]
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    id: int
    specialist: str
    signal: str
    verdict: str
    value: float
    threshold: float
    sample: int
    at: str
    summary: str
    action: str
    def __init__(self, id: _Optional[int] = ..., specialist: _Optional[str] = ..., signal: _Optional[str] = ..., verdict: _Optional[str] = ..., value: _Optional[float] = ..., threshold: _Optional[float] = ..., sample: _Optional[int] = ..., at: _Optional[str] = ..., summary: _Optional[str] = ..., action: _Optional[str] = ...) -> None: ...

class GetShadowReportRequest(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    def __init__(self, rollout: _Optional[str] = ...) -> None: ...

class ShadowReport(_message.Message):
    __slots__ = ("rollout", "specialist", "phase", "primary_digest", "candidate_digest", "shadow_bp", "since", "flow", "pairs", "primary_fallbacks", "failures", "decisions", "in_time", "detailed", "score", "engine_us", "slower", "score_difference", "known_cost", "expected_by_primary", "expected_by_candidate", "gates")
    class FailuresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SHADOW_BP_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    FLOW_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    IN_TIME_FIELD_NUMBER: _ClassVar[int]
    DETAILED_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_US_FIELD_NUMBER: _ClassVar[int]
    SLOWER_FIELD_NUMBER: _ClassVar[int]
    SCORE_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_COST_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_BY_PRIMARY_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_BY_CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    specialist: str
    phase: str
    primary_digest: str
    candidate_digest: str
    shadow_bp: int
    since: str
    flow: ShadowFlow
    pairs: int
    primary_fallbacks: int
    failures: _containers.ScalarMap[str, int]
    decisions: _containers.RepeatedCompositeFieldContainer[DecisionPair]
    in_time: Estimate
    detailed: int
    score: PairedMeasure
    engine_us: PairedMeasure
    slower: Estimate
    score_difference: Estimate
    known_cost: Estimate
    expected_by_primary: Estimate
    expected_by_candidate: Estimate
    gates: _containers.RepeatedCompositeFieldContainer[GateReading]
    def __init__(self, rollout: _Optional[str] = ..., specialist: _Optional[str] = ..., phase: _Optional[str] = ..., primary_digest: _Optional[str] = ..., candidate_digest: _Optional[str] = ..., shadow_bp: _Optional[int] = ..., since: _Optional[str] = ..., flow: _Optional[_Union[ShadowFlow, _Mapping]] = ..., pairs: _Optional[int] = ..., primary_fallbacks: _Optional[int] = ..., failures: _Optional[_Mapping[str, int]] = ..., decisions: _Optional[_Iterable[_Union[DecisionPair, _Mapping]]] = ..., in_time: _Optional[_Union[Estimate, _Mapping]] = ..., detailed: _Optional[int] = ..., score: _Optional[_Union[PairedMeasure, _Mapping]] = ..., engine_us: _Optional[_Union[PairedMeasure, _Mapping]] = ..., slower: _Optional[_Union[Estimate, _Mapping]] = ..., score_difference: _Optional[_Union[Estimate, _Mapping]] = ..., known_cost: _Optional[_Union[Estimate, _Mapping]] = ..., expected_by_primary: _Optional[_Union[Estimate, _Mapping]] = ..., expected_by_candidate: _Optional[_Union[Estimate, _Mapping]] = ..., gates: _Optional[_Iterable[_Union[GateReading, _Mapping]]] = ...) -> None: ...

class ShadowFlow(_message.Message):
    __slots__ = ("offered", "sent", "paired", "drops", "on_their_way")
    class DropsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    OFFERED_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    PAIRED_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    ON_THEIR_WAY_FIELD_NUMBER: _ClassVar[int]
    offered: int
    sent: int
    paired: int
    drops: _containers.ScalarMap[str, int]
    on_their_way: int
    def __init__(self, offered: _Optional[int] = ..., sent: _Optional[int] = ..., paired: _Optional[int] = ..., drops: _Optional[_Mapping[str, int]] = ..., on_their_way: _Optional[int] = ...) -> None: ...

class DecisionPair(_message.Message):
    __slots__ = ("primary", "candidate", "n")
    PRIMARY_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    primary: str
    candidate: str
    n: int
    def __init__(self, primary: _Optional[str] = ..., candidate: _Optional[str] = ..., n: _Optional[int] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("value", "lower", "upper", "sample")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    value: float
    lower: float
    upper: float
    sample: int
    def __init__(self, value: _Optional[float] = ..., lower: _Optional[float] = ..., upper: _Optional[float] = ..., sample: _Optional[int] = ...) -> None: ...

class GetHoldbackReportRequest(_message.Message):
    __slots__ = ("specialist",)
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    def __init__(self, specialist: _Optional[str] = ...) -> None: ...

class HoldbackReport(_message.Message):
    __slots__ = ("specialist", "bundle_digest", "holdback_bp", "with_model", "without_model", "saved")
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    HOLDBACK_BP_FIELD_NUMBER: _ClassVar[int]
    WITH_MODEL_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_MODEL_FIELD_NUMBER: _ClassVar[int]
    SAVED_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    bundle_digest: str
    holdback_bp: int
    with_model: Estimate
    without_model: Estimate
    saved: Estimate
    def __init__(self, specialist: _Optional[str] = ..., bundle_digest: _Optional[str] = ..., holdback_bp: _Optional[int] = ..., with_model: _Optional[_Union[Estimate, _Mapping]] = ..., without_model: _Optional[_Union[Estimate, _Mapping]] = ..., saved: _Optional[_Union[Estimate, _Mapping]] = ...) -> None: ...

class PairedMeasure(_message.Message):
    __slots__ = ("primary", "candidate", "difference")
    PRIMARY_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    primary: Quantiles
    candidate: Quantiles
    difference: Quantiles
    def __init__(self, primary: _Optional[_Union[Quantiles, _Mapping]] = ..., candidate: _Optional[_Union[Quantiles, _Mapping]] = ..., difference: _Optional[_Union[Quantiles, _Mapping]] = ...) -> None: ...

class Quantiles(_message.Message):
    __slots__ = ("at", "value")
    AT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    at: _containers.RepeatedScalarFieldContainer[float]
    value: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, at: _Optional[_Iterable[float]] = ..., value: _Optional[_Iterable[float]] = ...) -> None: ...

class GetEvidenceRequest(_message.Message):
    __slots__ = ("rollout", "with_files")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    WITH_FILES_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    with_files: bool
    def __init__(self, rollout: _Optional[str] = ..., with_files: bool = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("rollout", "path", "digest", "files")
    class FilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    path: str
    digest: str
    files: _containers.ScalarMap[str, bytes]
    def __init__(self, rollout: _Optional[str] = ..., path: _Optional[str] = ..., digest: _Optional[str] = ..., files: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class GetLedgerRequest(_message.Message):
    __slots__ = ("from_seq", "limit")
    FROM_SEQ_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    from_seq: int
    limit: int
    def __init__(self, from_seq: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class Ledger(_message.Message):
    __slots__ = ("entries", "size", "root", "checkpoint")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[HistoryEntry]
    size: int
    root: str
    checkpoint: str
    def __init__(self, entries: _Optional[_Iterable[_Union[HistoryEntry, _Mapping]]] = ..., size: _Optional[int] = ..., root: _Optional[str] = ..., checkpoint: _Optional[str] = ...) -> None: ...
