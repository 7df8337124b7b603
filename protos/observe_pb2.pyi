from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EraseCapturedRequest(_message.Message):
    __slots__ = ("specialist", "caller", "decision_id", "everything", "requested_by", "reason")
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    EVERYTHING_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    caller: str
    decision_id: str
    everything: bool
    requested_by: str
    reason: str
    def __init__(self, specialist: _Optional[str] = ..., caller: _Optional[str] = ..., decision_id: _Optional[str] = ..., everything: bool = ..., requested_by: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ErasedCaptured(_message.Message):
    __slots__ = ("keys", "data_sets")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    DATA_SETS_FIELD_NUMBER: _ClassVar[int]
    keys: int
    data_sets: int
    def __init__(self, keys: _Optional[int] = ..., data_sets: _Optional[int] = ...) -> None: ...

class GetRetentionRequest(_message.Message):
    __slots__ = ("specialist",)
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    def __init__(self, specialist: _Optional[str] = ...) -> None: ...

class Retention(_message.Message):
    __slots__ = ("days", "keys", "oldest")
    DAYS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_FIELD_NUMBER: _ClassVar[int]
    days: int
    keys: int
    oldest: str
    def __init__(self, days: _Optional[int] = ..., keys: _Optional[int] = ..., oldest: _Optional[str] = ...) -> None: ...

class SketchWindow(_message.Message):
    __slots__ = ("rows", "quantiles", "frequent", "callers", "moments")
    class QuantilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    class FrequentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    ROWS_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    FREQUENT_FIELD_NUMBER: _ClassVar[int]
    CALLERS_FIELD_NUMBER: _ClassVar[int]
    MOMENTS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    quantiles: _containers.ScalarMap[str, bytes]
    frequent: _containers.ScalarMap[str, bytes]
    callers: bytes
    moments: Moments
    def __init__(self, rows: _Optional[int] = ..., quantiles: _Optional[_Mapping[str, bytes]] = ..., frequent: _Optional[_Mapping[str, bytes]] = ..., callers: _Optional[bytes] = ..., moments: _Optional[_Union[Moments, _Mapping]] = ...) -> None: ...

class Moments(_message.Message):
    __slots__ = ("embedding", "rows", "sum", "squares")
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    SQUARES_FIELD_NUMBER: _ClassVar[int]
    embedding: str
    rows: int
    sum: _containers.RepeatedScalarFieldContainer[float]
    squares: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, embedding: _Optional[str] = ..., rows: _Optional[int] = ..., sum: _Optional[_Iterable[float]] = ..., squares: _Optional[_Iterable[float]] = ...) -> None: ...

class GetObservationRequest(_message.Message):
    __slots__ = ("specialist",)
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    def __init__(self, specialist: _Optional[str] = ...) -> None: ...

class ReleaseLabelsRequest(_message.Message):
    __slots__ = ("specialist", "source", "day", "requested_by", "reason")
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DAY_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    source: str
    day: str
    requested_by: str
    reason: str
    def __init__(self, specialist: _Optional[str] = ..., source: _Optional[str] = ..., day: _Optional[str] = ..., requested_by: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ReleaseLabelsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Observation(_message.Message):
    __slots__ = ("specialist", "windows", "maturity", "estimates", "readings", "not_kept", "samples", "outcomes", "contradictions", "label_batches", "matured")
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    MATURITY_FIELD_NUMBER: _ClassVar[int]
    ESTIMATES_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    NOT_KEPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    CONTRADICTIONS_FIELD_NUMBER: _ClassVar[int]
    LABEL_BATCHES_FIELD_NUMBER: _ClassVar[int]
    MATURED_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    windows: _containers.RepeatedCompositeFieldContainer[WindowSummary]
    maturity: Maturity
    estimates: _containers.RepeatedCompositeFieldContainer[Estimate]
    readings: _containers.RepeatedCompositeFieldContainer[Reading]
    not_kept: _containers.RepeatedCompositeFieldContainer[NotKept]
    samples: int
    outcomes: int
    contradictions: _containers.RepeatedCompositeFieldContainer[Contradiction]
    label_batches: _containers.RepeatedCompositeFieldContainer[LabelBatch]
    matured: Matured
    def __init__(self, specialist: _Optional[str] = ..., windows: _Optional[_Iterable[_Union[WindowSummary, _Mapping]]] = ..., maturity: _Optional[_Union[Maturity, _Mapping]] = ..., estimates: _Optional[_Iterable[_Union[Estimate, _Mapping]]] = ..., readings: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ..., not_kept: _Optional[_Iterable[_Union[NotKept, _Mapping]]] = ..., samples: _Optional[int] = ..., outcomes: _Optional[int] = ..., contradictions: _Optional[_Iterable[_Union[Contradiction, _Mapping]]] = ..., label_batches: _Optional[_Iterable[_Union[LabelBatch, _Mapping]]] = ..., matured: _Optional[_Union[Matured, _Mapping]] = ...) -> None: ...

class WindowSummary(_message.Message):
    __slots__ = ("start", "arm", "rows", "callers", "quantiles", "shares", "bytes", "embedding_shift", "embedded")
    START_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    CALLERS_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_SHIFT_FIELD_NUMBER: _ClassVar[int]
    EMBEDDED_FIELD_NUMBER: _ClassVar[int]
    start: str
    arm: str
    rows: int
    callers: float
    quantiles: _containers.RepeatedCompositeFieldContainer[Quantiles]
    shares: _containers.RepeatedCompositeFieldContainer[Shares]
    bytes: int
    embedding_shift: float
    embedded: int
    def __init__(self, start: _Optional[str] = ..., arm: _Optional[str] = ..., rows: _Optional[int] = ..., callers: _Optional[float] = ..., quantiles: _Optional[_Iterable[_Union[Quantiles, _Mapping]]] = ..., shares: _Optional[_Iterable[_Union[Shares, _Mapping]]] = ..., bytes: _Optional[int] = ..., embedding_shift: _Optional[float] = ..., embedded: _Optional[int] = ...) -> None: ...

class Quantiles(_message.Message):
    __slots__ = ("name", "p05", "p25", "p50", "p75", "p95")
    NAME_FIELD_NUMBER: _ClassVar[int]
    P05_FIELD_NUMBER: _ClassVar[int]
    P25_FIELD_NUMBER: _ClassVar[int]
    P50_FIELD_NUMBER: _ClassVar[int]
    P75_FIELD_NUMBER: _ClassVar[int]
    P95_FIELD_NUMBER: _ClassVar[int]
    name: str
    p05: float
    p25: float
    p50: float
    p75: float
    p95: float
    def __init__(self, name: _Optional[str] = ..., p05: _Optional[float] = ..., p25: _Optional[float] = ..., p50: _Optional[float] = ..., p75: _Optional[float] = ..., p95: _Optional[float] = ...) -> None: ...

class Shares(_message.Message):
    __slots__ = ("name", "share")
    class ShareEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    name: str
    share: _containers.ScalarMap[str, float]
    def __init__(self, name: _Optional[str] = ..., share: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Maturity(_message.Message):
    __slots__ = ("known", "waiting", "due_s", "matured", "censored_share", "curves")
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    DUE_S_FIELD_NUMBER: _ClassVar[int]
    MATURED_FIELD_NUMBER: _ClassVar[int]
    CENSORED_SHARE_FIELD_NUMBER: _ClassVar[int]
    CURVES_FIELD_NUMBER: _ClassVar[int]
    known: int
    waiting: int
    due_s: float
    matured: int
    censored_share: float
    curves: _containers.RepeatedCompositeFieldContainer[Curve]
    def __init__(self, known: _Optional[int] = ..., waiting: _Optional[int] = ..., due_s: _Optional[float] = ..., matured: _Optional[int] = ..., censored_share: _Optional[float] = ..., curves: _Optional[_Iterable[_Union[Curve, _Mapping]]] = ...) -> None: ...

class Curve(_message.Message):
    __slots__ = ("of", "known", "waiting", "age_s", "arrived")
    OF_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_FIELD_NUMBER: _ClassVar[int]
    of: str
    known: int
    waiting: int
    age_s: _containers.RepeatedScalarFieldContainer[float]
    arrived: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, of: _Optional[str] = ..., known: _Optional[int] = ..., waiting: _Optional[int] = ..., age_s: _Optional[_Iterable[float]] = ..., arrived: _Optional[_Iterable[float]] = ...) -> None: ...

class Matured(_message.Message):
    __slots__ = ("known", "accuracy", "cost", "censored_share")
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    CENSORED_SHARE_FIELD_NUMBER: _ClassVar[int]
    known: int
    accuracy: float
    cost: float
    censored_share: float
    def __init__(self, known: _Optional[int] = ..., accuracy: _Optional[float] = ..., cost: _Optional[float] = ..., censored_share: _Optional[float] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("at", "value", "lower", "upper", "realised", "known", "holds", "why")
    AT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    REALISED_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    at: str
    value: float
    lower: float
    upper: float
    realised: float
    known: int
    holds: str
    why: str
    def __init__(self, at: _Optional[str] = ..., value: _Optional[float] = ..., lower: _Optional[float] = ..., upper: _Optional[float] = ..., realised: _Optional[float] = ..., known: _Optional[int] = ..., holds: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class Reading(_message.Message):
    __slots__ = ("at", "signal", "verdict", "value", "threshold", "action", "bundle")
    AT_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    at: str
    signal: str
    verdict: str
    value: float
    threshold: float
    action: str
    bundle: str
    def __init__(self, at: _Optional[str] = ..., signal: _Optional[str] = ..., verdict: _Optional[str] = ..., value: _Optional[float] = ..., threshold: _Optional[float] = ..., action: _Optional[str] = ..., bundle: _Optional[str] = ...) -> None: ...

class NotKept(_message.Message):
    __slots__ = ("reason", "records", "last")
    REASON_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    reason: str
    records: int
    last: str
    def __init__(self, reason: _Optional[str] = ..., records: _Optional[int] = ..., last: _Optional[str] = ...) -> None: ...

class Contradiction(_message.Message):
    __slots__ = ("decision_id", "in_force", "said")
    class SaidEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    IN_FORCE_FIELD_NUMBER: _ClassVar[int]
    SAID_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    in_force: str
    said: _containers.ScalarMap[str, int]
    def __init__(self, decision_id: _Optional[str] = ..., in_force: _Optional[str] = ..., said: _Optional[_Mapping[str, int]] = ...) -> None: ...

class LabelBatch(_message.Message):
    __slots__ = ("source", "day", "labels", "unlearnable", "expected", "state")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DAY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    UNLEARNABLE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    source: str
    day: str
    labels: int
    unlearnable: float
    expected: float
    state: str
    def __init__(self, source: _Optional[str] = ..., day: _Optional[str] = ..., labels: _Optional[int] = ..., unlearnable: _Optional[float] = ..., expected: _Optional[float] = ..., state: _Optional[str] = ...) -> None: ...
