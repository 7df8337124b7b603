from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Arm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ARM_UNSPECIFIED: _ClassVar[Arm]
    ARM_PRIMARY: _ClassVar[Arm]
    ARM_BASELINE: _ClassVar[Arm]
    ARM_CANARY: _ClassVar[Arm]
    ARM_HOLDBACK: _ClassVar[Arm]
    ARM_OVERRIDE: _ClassVar[Arm]

class FallbackReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FALLBACK_REASON_UNSPECIFIED: _ClassVar[FallbackReason]
    FALLBACK_REASON_NO_TIME: _ClassVar[FallbackReason]
    FALLBACK_REASON_DEADLINE: _ClassVar[FallbackReason]
    FALLBACK_REASON_OVERLOADED: _ClassVar[FallbackReason]
    FALLBACK_REASON_ENGINE_UNAVAILABLE: _ClassVar[FallbackReason]
    FALLBACK_REASON_ENGINE_ERROR: _ClassVar[FallbackReason]
    FALLBACK_REASON_HOLDBACK: _ClassVar[FallbackReason]
ARM_UNSPECIFIED: Arm
ARM_PRIMARY: Arm
ARM_BASELINE: Arm
ARM_CANARY: Arm
ARM_HOLDBACK: Arm
ARM_OVERRIDE: Arm
FALLBACK_REASON_UNSPECIFIED: FallbackReason
FALLBACK_REASON_NO_TIME: FallbackReason
FALLBACK_REASON_DEADLINE: FallbackReason
FALLBACK_REASON_OVERLOADED: FallbackReason
FALLBACK_REASON_ENGINE_UNAVAILABLE: FallbackReason
FALLBACK_REASON_ENGINE_ERROR: FallbackReason
FALLBACK_REASON_HOLDBACK: FallbackReason

class Value(_message.Message):
    __slots__ = ("text", "number", "integer", "flag")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    text: str
    number: float
    integer: int
    flag: bool
    def __init__(self, text: _Optional[str] = ..., number: _Optional[float] = ..., integer: _Optional[int] = ..., flag: bool = ...) -> None: ...

class Input(_message.Message):
    __slots__ = ("text", "fields")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    text: str
    fields: _containers.MessageMap[str, Value]
    def __init__(self, text: _Optional[str] = ..., fields: _Optional[_Mapping[str, Value]] = ...) -> None: ...

class DecideRequest(_message.Message):
    __slots__ = ("specialist", "input", "routing_key", "decision_id", "budget_us", "test")
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    BUDGET_US_FIELD_NUMBER: _ClassVar[int]
    TEST_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    input: Input
    routing_key: str
    decision_id: str
    budget_us: int
    test: bool
    def __init__(self, specialist: _Optional[str] = ..., input: _Optional[_Union[Input, _Mapping]] = ..., routing_key: _Optional[str] = ..., decision_id: _Optional[str] = ..., budget_us: _Optional[int] = ..., test: bool = ...) -> None: ...

class LabelProbability(_message.Message):
    __slots__ = ("label", "probability")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    label: str
    probability: float
    def __init__(self, label: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class Fallback(_message.Message):
    __slots__ = ("used", "reason")
    USED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    used: bool
    reason: FallbackReason
    def __init__(self, used: bool = ..., reason: _Optional[_Union[FallbackReason, str]] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("queue_us", "engine_us", "total_us")
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    ENGINE_US_FIELD_NUMBER: _ClassVar[int]
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    queue_us: int
    engine_us: int
    total_us: int
    def __init__(self, queue_us: _Optional[int] = ..., engine_us: _Optional[int] = ..., total_us: _Optional[int] = ...) -> None: ...

class Reason(_message.Message):
    __slots__ = ("field", "log_odds", "statement")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    LOG_ODDS_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    field: str
    log_odds: float
    statement: str
    def __init__(self, field: _Optional[str] = ..., log_odds: _Optional[float] = ..., statement: _Optional[str] = ...) -> None: ...

class DecideResponse(_message.Message):
    __slots__ = ("decision_id", "label", "score", "probabilities", "decision", "fallback", "arm", "bundle_digest", "plan_generation", "bucket", "timing", "truncated", "cached", "reasons")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PLAN_GENERATION_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    label: str
    score: float
    probabilities: _containers.RepeatedCompositeFieldContainer[LabelProbability]
    decision: str
    fallback: Fallback
    arm: Arm
    bundle_digest: str
    plan_generation: int
    bucket: int
    timing: Timing
    truncated: bool
    cached: bool
    reasons: _containers.RepeatedCompositeFieldContainer[Reason]
    def __init__(self, decision_id: _Optional[str] = ..., label: _Optional[str] = ..., score: _Optional[float] = ..., probabilities: _Optional[_Iterable[_Union[LabelProbability, _Mapping]]] = ..., decision: _Optional[str] = ..., fallback: _Optional[_Union[Fallback, _Mapping]] = ..., arm: _Optional[_Union[Arm, str]] = ..., bundle_digest: _Optional[str] = ..., plan_generation: _Optional[int] = ..., bucket: _Optional[int] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., truncated: bool = ..., cached: bool = ..., reasons: _Optional[_Iterable[_Union[Reason, _Mapping]]] = ...) -> None: ...

class DecideBatchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[DecideRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[DecideRequest, _Mapping]]] = ...) -> None: ...

class DecideBatchResponse(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[DecideResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[DecideResponse, _Mapping]]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("specialist", "input", "routing_key", "decision_id", "budget_us", "max_tokens", "test", "constraint", "grounding")
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    BUDGET_US_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEST_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINT_FIELD_NUMBER: _ClassVar[int]
    GROUNDING_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    input: Input
    routing_key: str
    decision_id: str
    budget_us: int
    max_tokens: int
    test: bool
    constraint: Constraint
    grounding: Grounding
    def __init__(self, specialist: _Optional[str] = ..., input: _Optional[_Union[Input, _Mapping]] = ..., routing_key: _Optional[str] = ..., decision_id: _Optional[str] = ..., budget_us: _Optional[int] = ..., max_tokens: _Optional[int] = ..., test: bool = ..., constraint: _Optional[_Union[Constraint, _Mapping]] = ..., grounding: _Optional[_Union[Grounding, _Mapping]] = ...) -> None: ...

class Grounding(_message.Message):
    __slots__ = ("field",)
    FIELD_FIELD_NUMBER: _ClassVar[int]
    field: str
    def __init__(self, field: _Optional[str] = ...) -> None: ...

class Constraint(_message.Message):
    __slots__ = ("json_schema", "regex", "choice")
    JSON_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    REGEX_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    json_schema: str
    regex: str
    choice: Choice
    def __init__(self, json_schema: _Optional[str] = ..., regex: _Optional[str] = ..., choice: _Optional[_Union[Choice, _Mapping]] = ...) -> None: ...

class Choice(_message.Message):
    __slots__ = ("texts",)
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, texts: _Optional[_Iterable[str]] = ...) -> None: ...

class GenerateChunk(_message.Message):
    __slots__ = ("decision_id", "text", "last", "arm", "bundle_digest", "plan_generation", "tokens", "statements")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PLAN_GENERATION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    STATEMENTS_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    text: str
    last: bool
    arm: Arm
    bundle_digest: str
    plan_generation: int
    tokens: int
    statements: _containers.RepeatedCompositeFieldContainer[Statement]
    def __init__(self, decision_id: _Optional[str] = ..., text: _Optional[str] = ..., last: bool = ..., arm: _Optional[_Union[Arm, str]] = ..., bundle_digest: _Optional[str] = ..., plan_generation: _Optional[int] = ..., tokens: _Optional[int] = ..., statements: _Optional[_Iterable[_Union[Statement, _Mapping]]] = ...) -> None: ...

class Statement(_message.Message):
    __slots__ = ("key", "text", "grounded", "start", "end")
    KEY_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    GROUNDED_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    key: str
    text: str
    grounded: bool
    start: int
    end: int
    def __init__(self, key: _Optional[str] = ..., text: _Optional[str] = ..., grounded: bool = ..., start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class ReportOutcomeRequest(_message.Message):
    __slots__ = ("specialist", "decision_id", "label", "observed_at_unix_ms", "source")
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    decision_id: str
    label: str
    observed_at_unix_ms: int
    source: str
    def __init__(self, specialist: _Optional[str] = ..., decision_id: _Optional[str] = ..., label: _Optional[str] = ..., observed_at_unix_ms: _Optional[int] = ..., source: _Optional[str] = ...) -> None: ...

class ReportOutcomeResponse(_message.Message):
    __slots__ = ("recorded",)
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    recorded: bool
    def __init__(self, recorded: bool = ...) -> None: ...
