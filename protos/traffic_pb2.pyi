from protos import decide_pb2 as _decide_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Envelope(_message.Message):
    __slots__ = ("payload", "payload_type", "signatures")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_TYPE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    payload_type: str
    signatures: _containers.RepeatedCompositeFieldContainer[Signature]
    def __init__(self, payload: _Optional[bytes] = ..., payload_type: _Optional[str] = ..., signatures: _Optional[_Iterable[_Union[Signature, _Mapping]]] = ...) -> None: ...

class Signature(_message.Message):
    __slots__ = ("key_id", "sig")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SIG_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    sig: bytes
    def __init__(self, key_id: _Optional[str] = ..., sig: _Optional[bytes] = ...) -> None: ...

class WatchPlanRequest(_message.Message):
    __slots__ = ("gateway_id", "generation", "ledger_size", "operators_version", "witness_key")
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LEDGER_SIZE_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_VERSION_FIELD_NUMBER: _ClassVar[int]
    WITNESS_KEY_FIELD_NUMBER: _ClassVar[int]
    gateway_id: str
    generation: int
    ledger_size: int
    operators_version: int
    witness_key: str
    def __init__(self, gateway_id: _Optional[str] = ..., generation: _Optional[int] = ..., ledger_size: _Optional[int] = ..., operators_version: _Optional[int] = ..., witness_key: _Optional[str] = ...) -> None: ...

class PlanOffer(_message.Message):
    __slots__ = ("plan", "approvals", "operators", "checkpoint", "consistent_from", "consistency", "records", "steps")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    APPROVALS_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    CONSISTENT_FROM_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    plan: Envelope
    approvals: _containers.RepeatedCompositeFieldContainer[Envelope]
    operators: _containers.RepeatedCompositeFieldContainer[Envelope]
    checkpoint: str
    consistent_from: int
    consistency: _containers.RepeatedScalarFieldContainer[bytes]
    records: _containers.RepeatedCompositeFieldContainer[LedgerProof]
    steps: _containers.RepeatedCompositeFieldContainer[Envelope]
    def __init__(self, plan: _Optional[_Union[Envelope, _Mapping]] = ..., approvals: _Optional[_Iterable[_Union[Envelope, _Mapping]]] = ..., operators: _Optional[_Iterable[_Union[Envelope, _Mapping]]] = ..., checkpoint: _Optional[str] = ..., consistent_from: _Optional[int] = ..., consistency: _Optional[_Iterable[bytes]] = ..., records: _Optional[_Iterable[_Union[LedgerProof, _Mapping]]] = ..., steps: _Optional[_Iterable[_Union[Envelope, _Mapping]]] = ...) -> None: ...

class LedgerProof(_message.Message):
    __slots__ = ("seq", "body", "hashes")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    seq: int
    body: bytes
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, seq: _Optional[int] = ..., body: _Optional[bytes] = ..., hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class GatewayState(_message.Message):
    __slots__ = ("offer", "checkpoint", "operators", "spent", "rollbacks", "untold")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    ROLLBACKS_FIELD_NUMBER: _ClassVar[int]
    UNTOLD_FIELD_NUMBER: _ClassVar[int]
    offer: PlanOffer
    checkpoint: str
    operators: _containers.RepeatedCompositeFieldContainer[Envelope]
    spent: _containers.RepeatedCompositeFieldContainer[SpentApproval]
    rollbacks: _containers.RepeatedCompositeFieldContainer[LocalRollback]
    untold: _containers.RepeatedCompositeFieldContainer[LocalRollback]
    def __init__(self, offer: _Optional[_Union[PlanOffer, _Mapping]] = ..., checkpoint: _Optional[str] = ..., operators: _Optional[_Iterable[_Union[Envelope, _Mapping]]] = ..., spent: _Optional[_Iterable[_Union[SpentApproval, _Mapping]]] = ..., rollbacks: _Optional[_Iterable[_Union[LocalRollback, _Mapping]]] = ..., untold: _Optional[_Iterable[_Union[LocalRollback, _Mapping]]] = ...) -> None: ...

class SpentApproval(_message.Message):
    __slots__ = ("digest", "expires")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    digest: str
    expires: int
    def __init__(self, digest: _Optional[str] = ..., expires: _Optional[int] = ...) -> None: ...

class LocalRollback(_message.Message):
    __slots__ = ("order", "at_unix_ms", "took_us", "generation", "salt")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    TOOK_US_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    order: Envelope
    at_unix_ms: int
    took_us: int
    generation: int
    salt: str
    def __init__(self, order: _Optional[_Union[Envelope, _Mapping]] = ..., at_unix_ms: _Optional[int] = ..., took_us: _Optional[int] = ..., generation: _Optional[int] = ..., salt: _Optional[str] = ...) -> None: ...

class Acknowledgement(_message.Message):
    __slots__ = ("gateway_id", "generation", "plan_digest", "applied", "reason", "message", "generation_in_force", "at_unix_ms", "apply_ms", "cosigned_checkpoint")
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_IN_FORCE_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    APPLY_MS_FIELD_NUMBER: _ClassVar[int]
    COSIGNED_CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    gateway_id: str
    generation: int
    plan_digest: str
    applied: bool
    reason: str
    message: str
    generation_in_force: int
    at_unix_ms: int
    apply_ms: int
    cosigned_checkpoint: str
    def __init__(self, gateway_id: _Optional[str] = ..., generation: _Optional[int] = ..., plan_digest: _Optional[str] = ..., applied: bool = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., generation_in_force: _Optional[int] = ..., at_unix_ms: _Optional[int] = ..., apply_ms: _Optional[int] = ..., cosigned_checkpoint: _Optional[str] = ...) -> None: ...

class AcknowledgeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ArmCounters(_message.Message):
    __slots__ = ("specialist", "salt", "arm", "bundle_digest", "requests", "errors", "fallbacks", "in_time", "latency_counts")
    class FallbacksEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    IN_TIME_FIELD_NUMBER: _ClassVar[int]
    LATENCY_COUNTS_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    salt: str
    arm: _decide_pb2.Arm
    bundle_digest: str
    requests: int
    errors: int
    fallbacks: _containers.ScalarMap[str, int]
    in_time: int
    latency_counts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, specialist: _Optional[str] = ..., salt: _Optional[str] = ..., arm: _Optional[_Union[_decide_pb2.Arm, str]] = ..., bundle_digest: _Optional[str] = ..., requests: _Optional[int] = ..., errors: _Optional[int] = ..., fallbacks: _Optional[_Mapping[str, int]] = ..., in_time: _Optional[int] = ..., latency_counts: _Optional[_Iterable[int]] = ...) -> None: ...

class ShadowCounters(_message.Message):
    __slots__ = ("specialist", "salt", "candidate_digest", "offered", "sent", "paired", "drops")
    class DropsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFERED_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    PAIRED_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    salt: str
    candidate_digest: str
    offered: int
    sent: int
    paired: int
    drops: _containers.ScalarMap[str, int]
    def __init__(self, specialist: _Optional[str] = ..., salt: _Optional[str] = ..., candidate_digest: _Optional[str] = ..., offered: _Optional[int] = ..., sent: _Optional[int] = ..., paired: _Optional[int] = ..., drops: _Optional[_Mapping[str, int]] = ...) -> None: ...

class GatewayReport(_message.Message):
    __slots__ = ("gateway_id", "run_id", "generation", "latency_bounds_us", "arms", "drops", "at_unix_ms", "shadows", "rollbacks", "plan_digest")
    class DropsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LATENCY_BOUNDS_US_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    SHADOWS_FIELD_NUMBER: _ClassVar[int]
    ROLLBACKS_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    gateway_id: str
    run_id: str
    generation: int
    latency_bounds_us: _containers.RepeatedScalarFieldContainer[int]
    arms: _containers.RepeatedCompositeFieldContainer[ArmCounters]
    drops: _containers.ScalarMap[str, int]
    at_unix_ms: int
    shadows: _containers.RepeatedCompositeFieldContainer[ShadowCounters]
    rollbacks: _containers.RepeatedCompositeFieldContainer[LocalRollback]
    plan_digest: str
    def __init__(self, gateway_id: _Optional[str] = ..., run_id: _Optional[str] = ..., generation: _Optional[int] = ..., latency_bounds_us: _Optional[_Iterable[int]] = ..., arms: _Optional[_Iterable[_Union[ArmCounters, _Mapping]]] = ..., drops: _Optional[_Mapping[str, int]] = ..., at_unix_ms: _Optional[int] = ..., shadows: _Optional[_Iterable[_Union[ShadowCounters, _Mapping]]] = ..., rollbacks: _Optional[_Iterable[_Union[LocalRollback, _Mapping]]] = ..., plan_digest: _Optional[str] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ("generation", "recorded")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    generation: int
    recorded: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, generation: _Optional[int] = ..., recorded: _Optional[_Iterable[str]] = ...) -> None: ...

class LocalRollbackRequest(_message.Message):
    __slots__ = ("order",)
    ORDER_FIELD_NUMBER: _ClassVar[int]
    order: Envelope
    def __init__(self, order: _Optional[_Union[Envelope, _Mapping]] = ...) -> None: ...

class LocalRollbackResponse(_message.Message):
    __slots__ = ("gateway_id", "generation", "primary_digest", "took_us")
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOOK_US_FIELD_NUMBER: _ClassVar[int]
    gateway_id: str
    generation: int
    primary_digest: str
    took_us: int
    def __init__(self, gateway_id: _Optional[str] = ..., generation: _Optional[int] = ..., primary_digest: _Optional[str] = ..., took_us: _Optional[int] = ...) -> None: ...

class GetInForceRequest(_message.Message):
    __slots__ = ("specialist",)
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    def __init__(self, specialist: _Optional[str] = ...) -> None: ...

class InForce(_message.Message):
    __slots__ = ("gateway_id", "generation", "deployment", "primary_digest", "candidate_digest", "previous_digest", "canary_bp", "shadow_bp", "ledger_size", "operators_version")
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CANARY_BP_FIELD_NUMBER: _ClassVar[int]
    SHADOW_BP_FIELD_NUMBER: _ClassVar[int]
    LEDGER_SIZE_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_VERSION_FIELD_NUMBER: _ClassVar[int]
    gateway_id: str
    generation: int
    deployment: str
    primary_digest: str
    candidate_digest: str
    previous_digest: str
    canary_bp: int
    shadow_bp: int
    ledger_size: int
    operators_version: int
    def __init__(self, gateway_id: _Optional[str] = ..., generation: _Optional[int] = ..., deployment: _Optional[str] = ..., primary_digest: _Optional[str] = ..., candidate_digest: _Optional[str] = ..., previous_digest: _Optional[str] = ..., canary_bp: _Optional[int] = ..., shadow_bp: _Optional[int] = ..., ledger_size: _Optional[int] = ..., operators_version: _Optional[int] = ...) -> None: ...
