from protos import traffic_pb2 as _traffic_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UpdateOperatorsRequest(_message.Message):
    __slots__ = ("envelope",)
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    envelope: _traffic_pb2.Envelope
    def __init__(self, envelope: _Optional[_Union[_traffic_pb2.Envelope, _Mapping]] = ...) -> None: ...

class GetOperatorsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OperatorsState(_message.Message):
    __slots__ = ("version", "operators_json", "expires")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_JSON_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    version: int
    operators_json: str
    expires: int
    def __init__(self, version: _Optional[int] = ..., operators_json: _Optional[str] = ..., expires: _Optional[int] = ...) -> None: ...

class GetHeadRequest(_message.Message):
    __slots__ = ("least_size",)
    LEAST_SIZE_FIELD_NUMBER: _ClassVar[int]
    least_size: int
    def __init__(self, least_size: _Optional[int] = ...) -> None: ...

class Head(_message.Message):
    __slots__ = ("size", "checkpoint", "witnesses", "seen")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    WITNESSES_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    size: int
    checkpoint: str
    witnesses: _containers.RepeatedScalarFieldContainer[str]
    seen: _containers.RepeatedCompositeFieldContainer[Witnessed]
    def __init__(self, size: _Optional[int] = ..., checkpoint: _Optional[str] = ..., witnesses: _Optional[_Iterable[str]] = ..., seen: _Optional[_Iterable[_Union[Witnessed, _Mapping]]] = ...) -> None: ...

class Witnessed(_message.Message):
    __slots__ = ("witness", "size", "checkpoint")
    WITNESS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    witness: str
    size: int
    checkpoint: str
    def __init__(self, witness: _Optional[str] = ..., size: _Optional[int] = ..., checkpoint: _Optional[str] = ...) -> None: ...

class ProveEntryRequest(_message.Message):
    __slots__ = ("seq", "size")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    seq: int
    size: int
    def __init__(self, seq: _Optional[int] = ..., size: _Optional[int] = ...) -> None: ...

class EntryProof(_message.Message):
    __slots__ = ("seq", "body", "hashes", "checkpoint")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    seq: int
    body: bytes
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    checkpoint: str
    def __init__(self, seq: _Optional[int] = ..., body: _Optional[bytes] = ..., hashes: _Optional[_Iterable[bytes]] = ..., checkpoint: _Optional[str] = ...) -> None: ...

class ProveConsistencyRequest(_message.Message):
    __slots__ = ("old_size", "new_size")
    OLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    NEW_SIZE_FIELD_NUMBER: _ClassVar[int]
    old_size: int
    new_size: int
    def __init__(self, old_size: _Optional[int] = ..., new_size: _Optional[int] = ...) -> None: ...

class ConsistencyProof(_message.Message):
    __slots__ = ("old_size", "hashes", "checkpoint")
    OLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    old_size: int
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    checkpoint: str
    def __init__(self, old_size: _Optional[int] = ..., hashes: _Optional[_Iterable[bytes]] = ..., checkpoint: _Optional[str] = ...) -> None: ...

class CosignRequest(_message.Message):
    __slots__ = ("witness", "checkpoint")
    WITNESS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    witness: str
    checkpoint: str
    def __init__(self, witness: _Optional[str] = ..., checkpoint: _Optional[str] = ...) -> None: ...

class ExplainDecisionRequest(_message.Message):
    __slots__ = ("decision_id", "specialist")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    specialist: str
    def __init__(self, decision_id: _Optional[str] = ..., specialist: _Optional[str] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("decision_id", "specialist", "at", "input_digest", "input", "input_state", "arm", "bundle_digest", "plan_generation", "plan_digest", "rollout", "decision", "score", "threshold", "reason_codes", "fallback", "outcome", "outcome_at", "outcome_source", "approved_by", "ledger_seq", "beyond", "expected_costs", "reasons")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    INPUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    INPUT_STATE_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PLAN_GENERATION_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    REASON_CODES_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_AT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_SOURCE_FIELD_NUMBER: _ClassVar[int]
    APPROVED_BY_FIELD_NUMBER: _ClassVar[int]
    LEDGER_SEQ_FIELD_NUMBER: _ClassVar[int]
    BEYOND_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_COSTS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    specialist: str
    at: str
    input_digest: str
    input: str
    input_state: str
    arm: str
    bundle_digest: str
    plan_generation: int
    plan_digest: str
    rollout: str
    decision: str
    score: float
    threshold: float
    reason_codes: _containers.RepeatedScalarFieldContainer[str]
    fallback: bool
    outcome: str
    outcome_at: str
    outcome_source: str
    approved_by: _containers.RepeatedScalarFieldContainer[str]
    ledger_seq: int
    beyond: str
    expected_costs: _containers.RepeatedCompositeFieldContainer[ExpectedCost]
    reasons: _containers.RepeatedCompositeFieldContainer[GivenReason]
    def __init__(self, decision_id: _Optional[str] = ..., specialist: _Optional[str] = ..., at: _Optional[str] = ..., input_digest: _Optional[str] = ..., input: _Optional[str] = ..., input_state: _Optional[str] = ..., arm: _Optional[str] = ..., bundle_digest: _Optional[str] = ..., plan_generation: _Optional[int] = ..., plan_digest: _Optional[str] = ..., rollout: _Optional[str] = ..., decision: _Optional[str] = ..., score: _Optional[float] = ..., threshold: _Optional[float] = ..., reason_codes: _Optional[_Iterable[str]] = ..., fallback: bool = ..., outcome: _Optional[str] = ..., outcome_at: _Optional[str] = ..., outcome_source: _Optional[str] = ..., approved_by: _Optional[_Iterable[str]] = ..., ledger_seq: _Optional[int] = ..., beyond: _Optional[str] = ..., expected_costs: _Optional[_Iterable[_Union[ExpectedCost, _Mapping]]] = ..., reasons: _Optional[_Iterable[_Union[GivenReason, _Mapping]]] = ...) -> None: ...

class ExpectedCost(_message.Message):
    __slots__ = ("decision", "cost")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    decision: str
    cost: float
    def __init__(self, decision: _Optional[str] = ..., cost: _Optional[float] = ...) -> None: ...

class GivenReason(_message.Message):
    __slots__ = ("field", "log_odds")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    LOG_ODDS_FIELD_NUMBER: _ClassVar[int]
    field: str
    log_odds: float
    def __init__(self, field: _Optional[str] = ..., log_odds: _Optional[float] = ...) -> None: ...

class GetArmsRequest(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    def __init__(self, rollout: _Optional[str] = ...) -> None: ...

class Arms(_message.Message):
    __slots__ = ("arms", "drops")
    class DropsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ARMS_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    arms: _containers.RepeatedCompositeFieldContainer[Arm]
    drops: _containers.ScalarMap[str, int]
    def __init__(self, arms: _Optional[_Iterable[_Union[Arm, _Mapping]]] = ..., drops: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Arm(_message.Message):
    __slots__ = ("arm", "bundle_digest", "requests", "unanswered", "late", "p50_ms", "p99_ms")
    ARM_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    UNANSWERED_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    P50_MS_FIELD_NUMBER: _ClassVar[int]
    P99_MS_FIELD_NUMBER: _ClassVar[int]
    arm: str
    bundle_digest: str
    requests: int
    unanswered: int
    late: int
    p50_ms: float
    p99_ms: float
    def __init__(self, arm: _Optional[str] = ..., bundle_digest: _Optional[str] = ..., requests: _Optional[int] = ..., unanswered: _Optional[int] = ..., late: _Optional[int] = ..., p50_ms: _Optional[float] = ..., p99_ms: _Optional[float] = ...) -> None: ...

class DrillRequest(_message.Message):
    __slots__ = ("rollout", "person")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    PERSON_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    person: str
    def __init__(self, rollout: _Optional[str] = ..., person: _Optional[str] = ...) -> None: ...

class DrillReport(_message.Message):
    __slots__ = ("rollout", "took_ms", "generation", "at", "gateways")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    TOOK_MS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    took_ms: int
    generation: int
    at: str
    gateways: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, rollout: _Optional[str] = ..., took_ms: _Optional[int] = ..., generation: _Optional[int] = ..., at: _Optional[str] = ..., gateways: _Optional[_Iterable[str]] = ...) -> None: ...
