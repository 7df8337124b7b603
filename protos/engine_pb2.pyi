from protos import decide_pb2 as _decide_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_LIVE: _ClassVar[Priority]
    PRIORITY_CANARY: _ClassVar[Priority]
    PRIORITY_SHADOW: _ClassVar[Priority]
    PRIORITY_BATCH: _ClassVar[Priority]

class ResultStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESULT_STATUS_OK: _ClassVar[ResultStatus]
    RESULT_STATUS_EXPIRED: _ClassVar[ResultStatus]
    RESULT_STATUS_CANCELLED: _ClassVar[ResultStatus]
    RESULT_STATUS_OVERLOADED: _ClassVar[ResultStatus]
    RESULT_STATUS_UNKNOWN_BUNDLE: _ClassVar[ResultStatus]
    RESULT_STATUS_BAD_INPUT: _ClassVar[ResultStatus]
    RESULT_STATUS_ENGINE_ERROR: _ClassVar[ResultStatus]

class FaultKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAULT_KIND_NONE: _ClassVar[FaultKind]
    FAULT_KIND_INVERT: _ClassVar[FaultKind]
    FAULT_KIND_ERROR: _ClassVar[FaultKind]
    FAULT_KIND_DELAY: _ClassVar[FaultKind]
PRIORITY_LIVE: Priority
PRIORITY_CANARY: Priority
PRIORITY_SHADOW: Priority
PRIORITY_BATCH: Priority
RESULT_STATUS_OK: ResultStatus
RESULT_STATUS_EXPIRED: ResultStatus
RESULT_STATUS_CANCELLED: ResultStatus
RESULT_STATUS_OVERLOADED: ResultStatus
RESULT_STATUS_UNKNOWN_BUNDLE: ResultStatus
RESULT_STATUS_BAD_INPUT: ResultStatus
RESULT_STATUS_ENGINE_ERROR: ResultStatus
FAULT_KIND_NONE: FaultKind
FAULT_KIND_INVERT: FaultKind
FAULT_KIND_ERROR: FaultKind
FAULT_KIND_DELAY: FaultKind

class Frame(_message.Message):
    __slots__ = ("hello", "load", "loaded", "unload", "job", "result", "cancel", "stats_request", "stats", "generate", "chunk", "inject_fault", "fault_injected", "unloaded")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    UNLOAD_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    STATS_REQUEST_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    GENERATE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    INJECT_FAULT_FIELD_NUMBER: _ClassVar[int]
    FAULT_INJECTED_FIELD_NUMBER: _ClassVar[int]
    UNLOADED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    load: Load
    loaded: Loaded
    unload: Unload
    job: Job
    result: Result
    cancel: Cancel
    stats_request: StatsRequest
    stats: Stats
    generate: GenerateJob
    chunk: Chunk
    inject_fault: InjectFault
    fault_injected: FaultInjected
    unloaded: Unloaded
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., loaded: _Optional[_Union[Loaded, _Mapping]] = ..., unload: _Optional[_Union[Unload, _Mapping]] = ..., job: _Optional[_Union[Job, _Mapping]] = ..., result: _Optional[_Union[Result, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., stats_request: _Optional[_Union[StatsRequest, _Mapping]] = ..., stats: _Optional[_Union[Stats, _Mapping]] = ..., generate: _Optional[_Union[GenerateJob, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., inject_fault: _Optional[_Union[InjectFault, _Mapping]] = ..., fault_injected: _Optional[_Union[FaultInjected, _Mapping]] = ..., unloaded: _Optional[_Union[Unloaded, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("worker_id", "protocol", "backends", "max_queue")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    protocol: int
    backends: _containers.RepeatedScalarFieldContainer[str]
    max_queue: int
    def __init__(self, worker_id: _Optional[str] = ..., protocol: _Optional[int] = ..., backends: _Optional[_Iterable[str]] = ..., max_queue: _Optional[int] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("id", "bundle_digest", "preload")
    ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PRELOAD_FIELD_NUMBER: _ClassVar[int]
    id: int
    bundle_digest: str
    preload: bool
    def __init__(self, id: _Optional[int] = ..., bundle_digest: _Optional[str] = ..., preload: bool = ...) -> None: ...

class Loaded(_message.Message):
    __slots__ = ("id", "bundle_digest", "ok", "error", "can_generate", "load_ms", "capabilities", "servers")
    ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CAN_GENERATE_FIELD_NUMBER: _ClassVar[int]
    LOAD_MS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    id: int
    bundle_digest: str
    ok: bool
    error: str
    can_generate: bool
    load_ms: int
    capabilities: Capabilities
    servers: _containers.RepeatedCompositeFieldContainer[Server]
    def __init__(self, id: _Optional[int] = ..., bundle_digest: _Optional[str] = ..., ok: bool = ..., error: _Optional[str] = ..., can_generate: bool = ..., load_ms: _Optional[int] = ..., capabilities: _Optional[_Union[Capabilities, _Mapping]] = ..., servers: _Optional[_Iterable[_Union[Server, _Mapping]]] = ...) -> None: ...

class Server(_message.Message):
    __slots__ = ("engine", "kind", "model", "model_version", "server", "server_version")
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    engine: str
    kind: str
    model: str
    model_version: str
    server: str
    server_version: str
    def __init__(self, engine: _Optional[str] = ..., kind: _Optional[str] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., server: _Optional[str] = ..., server_version: _Optional[str] = ...) -> None: ...

class Capabilities(_message.Message):
    __slots__ = ("label_logprobs", "lora", "prefix_cache", "constraints", "vocabulary_mass", "max_batch_tokens")
    LABEL_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    LORA_FIELD_NUMBER: _ClassVar[int]
    PREFIX_CACHE_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINTS_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_MASS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_TOKENS_FIELD_NUMBER: _ClassVar[int]
    label_logprobs: str
    lora: str
    prefix_cache: bool
    constraints: _containers.RepeatedScalarFieldContainer[str]
    vocabulary_mass: bool
    max_batch_tokens: int
    def __init__(self, label_logprobs: _Optional[str] = ..., lora: _Optional[str] = ..., prefix_cache: bool = ..., constraints: _Optional[_Iterable[str]] = ..., vocabulary_mass: bool = ..., max_batch_tokens: _Optional[int] = ...) -> None: ...

class Unloaded(_message.Message):
    __slots__ = ("bundle_digest", "reason")
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    bundle_digest: str
    reason: str
    def __init__(self, bundle_digest: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Unload(_message.Message):
    __slots__ = ("bundle_digest",)
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    bundle_digest: str
    def __init__(self, bundle_digest: _Optional[str] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("id", "bundle_digest", "remaining_us", "priority", "input")
    ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REMAINING_US_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    id: int
    bundle_digest: str
    remaining_us: int
    priority: Priority
    input: _decide_pb2.Input
    def __init__(self, id: _Optional[int] = ..., bundle_digest: _Optional[str] = ..., remaining_us: _Optional[int] = ..., priority: _Optional[_Union[Priority, str]] = ..., input: _Optional[_Union[_decide_pb2.Input, _Mapping]] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("id", "status", "message", "probabilities", "label", "decision", "score", "truncated", "tokens", "queue_us", "engine_us", "batch_size", "bundle_digest", "vocabulary_mass", "reasons", "label_logprobs", "bounded")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    ENGINE_US_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_MASS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    LABEL_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    BOUNDED_FIELD_NUMBER: _ClassVar[int]
    id: int
    status: ResultStatus
    message: str
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    label: int
    decision: int
    score: float
    truncated: bool
    tokens: int
    queue_us: int
    engine_us: int
    batch_size: int
    bundle_digest: str
    vocabulary_mass: float
    reasons: _containers.RepeatedCompositeFieldContainer[_decide_pb2.Reason]
    label_logprobs: _containers.RepeatedScalarFieldContainer[float]
    bounded: bool
    def __init__(self, id: _Optional[int] = ..., status: _Optional[_Union[ResultStatus, str]] = ..., message: _Optional[str] = ..., probabilities: _Optional[_Iterable[float]] = ..., label: _Optional[int] = ..., decision: _Optional[int] = ..., score: _Optional[float] = ..., truncated: bool = ..., tokens: _Optional[int] = ..., queue_us: _Optional[int] = ..., engine_us: _Optional[int] = ..., batch_size: _Optional[int] = ..., bundle_digest: _Optional[str] = ..., vocabulary_mass: _Optional[float] = ..., reasons: _Optional[_Iterable[_Union[_decide_pb2.Reason, _Mapping]]] = ..., label_logprobs: _Optional[_Iterable[float]] = ..., bounded: bool = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Stats(_message.Message):
    __slots__ = ("queued", "completed", "expired", "cancelled", "batches", "loaded", "resident_bytes", "bundles", "bases")
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    BASES_FIELD_NUMBER: _ClassVar[int]
    queued: int
    completed: int
    expired: int
    cancelled: int
    batches: int
    loaded: _containers.RepeatedScalarFieldContainer[str]
    resident_bytes: int
    bundles: _containers.RepeatedCompositeFieldContainer[ResidentBundle]
    bases: _containers.RepeatedCompositeFieldContainer[ResidentBase]
    def __init__(self, queued: _Optional[int] = ..., completed: _Optional[int] = ..., expired: _Optional[int] = ..., cancelled: _Optional[int] = ..., batches: _Optional[int] = ..., loaded: _Optional[_Iterable[str]] = ..., resident_bytes: _Optional[int] = ..., bundles: _Optional[_Iterable[_Union[ResidentBundle, _Mapping]]] = ..., bases: _Optional[_Iterable[_Union[ResidentBase, _Mapping]]] = ...) -> None: ...

class ResidentBundle(_message.Message):
    __slots__ = ("bundle_digest", "specialist", "backend", "preload", "bytes")
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    PRELOAD_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    bundle_digest: str
    specialist: str
    backend: str
    preload: bool
    bytes: int
    def __init__(self, bundle_digest: _Optional[str] = ..., specialist: _Optional[str] = ..., backend: _Optional[str] = ..., preload: bool = ..., bytes: _Optional[int] = ...) -> None: ...

class ResidentBase(_message.Message):
    __slots__ = ("name", "bundles", "bytes", "extra_bytes", "adapters", "adapters_in_use", "max_adapters")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    EXTRA_BYTES_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_IN_USE_FIELD_NUMBER: _ClassVar[int]
    MAX_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    bundles: int
    bytes: int
    extra_bytes: int
    adapters: int
    adapters_in_use: int
    max_adapters: int
    def __init__(self, name: _Optional[str] = ..., bundles: _Optional[int] = ..., bytes: _Optional[int] = ..., extra_bytes: _Optional[int] = ..., adapters: _Optional[int] = ..., adapters_in_use: _Optional[int] = ..., max_adapters: _Optional[int] = ...) -> None: ...

class GenerateJob(_message.Message):
    __slots__ = ("id", "bundle_digest", "remaining_us", "priority", "input", "max_tokens", "constraint")
    ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REMAINING_US_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINT_FIELD_NUMBER: _ClassVar[int]
    id: int
    bundle_digest: str
    remaining_us: int
    priority: Priority
    input: _decide_pb2.Input
    max_tokens: int
    constraint: _decide_pb2.Constraint
    def __init__(self, id: _Optional[int] = ..., bundle_digest: _Optional[str] = ..., remaining_us: _Optional[int] = ..., priority: _Optional[_Union[Priority, str]] = ..., input: _Optional[_Union[_decide_pb2.Input, _Mapping]] = ..., max_tokens: _Optional[int] = ..., constraint: _Optional[_Union[_decide_pb2.Constraint, _Mapping]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("id", "text", "last", "status", "message", "tokens")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    id: int
    text: str
    last: bool
    status: ResultStatus
    message: str
    tokens: int
    def __init__(self, id: _Optional[int] = ..., text: _Optional[str] = ..., last: bool = ..., status: _Optional[_Union[ResultStatus, str]] = ..., message: _Optional[str] = ..., tokens: _Optional[int] = ...) -> None: ...

class InjectFault(_message.Message):
    __slots__ = ("id", "bundle_digest", "kind", "delay_us")
    ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DELAY_US_FIELD_NUMBER: _ClassVar[int]
    id: int
    bundle_digest: str
    kind: FaultKind
    delay_us: int
    def __init__(self, id: _Optional[int] = ..., bundle_digest: _Optional[str] = ..., kind: _Optional[_Union[FaultKind, str]] = ..., delay_us: _Optional[int] = ...) -> None: ...

class FaultInjected(_message.Message):
    __slots__ = ("id", "ok", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: int
    ok: bool
    error: str
    def __init__(self, id: _Optional[int] = ..., ok: bool = ..., error: _Optional[str] = ...) -> None: ...
