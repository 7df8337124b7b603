from protos import decide_pb2 as _decide_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CaptureRecord(_message.Message):
    __slots__ = ("sample", "shadow_pair", "outcome", "drops")
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    SHADOW_PAIR_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    sample: Sample
    shadow_pair: ShadowPair
    outcome: Outcome
    drops: Drops
    def __init__(self, sample: _Optional[_Union[Sample, _Mapping]] = ..., shadow_pair: _Optional[_Union[ShadowPair, _Mapping]] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ..., drops: _Optional[_Union[Drops, _Mapping]] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("decision_id", "specialist", "routing_key_hash", "input", "input_digest", "answer", "at_unix_ms", "inclusion_bp", "salt", "in_time", "drawn_for", "inclusion")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_HASH_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    INPUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    INCLUSION_BP_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    IN_TIME_FIELD_NUMBER: _ClassVar[int]
    DRAWN_FOR_FIELD_NUMBER: _ClassVar[int]
    INCLUSION_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    specialist: str
    routing_key_hash: str
    input: _decide_pb2.Input
    input_digest: str
    answer: _decide_pb2.DecideResponse
    at_unix_ms: int
    inclusion_bp: int
    salt: str
    in_time: bool
    drawn_for: str
    inclusion: float
    def __init__(self, decision_id: _Optional[str] = ..., specialist: _Optional[str] = ..., routing_key_hash: _Optional[str] = ..., input: _Optional[_Union[_decide_pb2.Input, _Mapping]] = ..., input_digest: _Optional[str] = ..., answer: _Optional[_Union[_decide_pb2.DecideResponse, _Mapping]] = ..., at_unix_ms: _Optional[int] = ..., inclusion_bp: _Optional[int] = ..., salt: _Optional[str] = ..., in_time: bool = ..., drawn_for: _Optional[str] = ..., inclusion: _Optional[float] = ...) -> None: ...

class ShadowPair(_message.Message):
    __slots__ = ("decision_id", "specialist", "salt", "primary_digest", "candidate_digest", "primary_decision", "candidate_decision", "primary_score", "candidate_score", "primary_label", "candidate_label", "primary_us", "candidate_us", "candidate_in_time", "candidate_failure", "at_unix_ms", "primary_fallback", "primary_engine_us", "candidate_engine_us", "primary_probabilities", "candidate_probabilities")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_DECISION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_DECISION_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_SCORE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_SCORE_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_LABEL_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_LABEL_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_US_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_US_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_IN_TIME_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FAILURE_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_FALLBACK_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_ENGINE_US_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_ENGINE_US_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    specialist: str
    salt: str
    primary_digest: str
    candidate_digest: str
    primary_decision: str
    candidate_decision: str
    primary_score: float
    candidate_score: float
    primary_label: str
    candidate_label: str
    primary_us: int
    candidate_us: int
    candidate_in_time: bool
    candidate_failure: _decide_pb2.FallbackReason
    at_unix_ms: int
    primary_fallback: bool
    primary_engine_us: int
    candidate_engine_us: int
    primary_probabilities: _containers.RepeatedScalarFieldContainer[float]
    candidate_probabilities: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, decision_id: _Optional[str] = ..., specialist: _Optional[str] = ..., salt: _Optional[str] = ..., primary_digest: _Optional[str] = ..., candidate_digest: _Optional[str] = ..., primary_decision: _Optional[str] = ..., candidate_decision: _Optional[str] = ..., primary_score: _Optional[float] = ..., candidate_score: _Optional[float] = ..., primary_label: _Optional[str] = ..., candidate_label: _Optional[str] = ..., primary_us: _Optional[int] = ..., candidate_us: _Optional[int] = ..., candidate_in_time: bool = ..., candidate_failure: _Optional[_Union[_decide_pb2.FallbackReason, str]] = ..., at_unix_ms: _Optional[int] = ..., primary_fallback: bool = ..., primary_engine_us: _Optional[int] = ..., candidate_engine_us: _Optional[int] = ..., primary_probabilities: _Optional[_Iterable[float]] = ..., candidate_probabilities: _Optional[_Iterable[float]] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("decision_id", "specialist", "label", "observed_at_unix_ms", "received_at_unix_ms", "source")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    specialist: str
    label: str
    observed_at_unix_ms: int
    received_at_unix_ms: int
    source: str
    def __init__(self, decision_id: _Optional[str] = ..., specialist: _Optional[str] = ..., label: _Optional[str] = ..., observed_at_unix_ms: _Optional[int] = ..., received_at_unix_ms: _Optional[int] = ..., source: _Optional[str] = ...) -> None: ...

class Drops(_message.Message):
    __slots__ = ("gateway_id", "by_cause", "at_unix_ms")
    class ByCauseEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    BY_CAUSE_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    gateway_id: str
    by_cause: _containers.ScalarMap[str, int]
    at_unix_ms: int
    def __init__(self, gateway_id: _Optional[str] = ..., by_cause: _Optional[_Mapping[str, int]] = ..., at_unix_ms: _Optional[int] = ...) -> None: ...
