from protos import control_pb2 as _control_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobCommand(_message.Message):
    __slots__ = ("id", "person", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    PERSON_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    person: str
    reason: str
    def __init__(self, id: _Optional[str] = ..., person: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ListRetrainDecisionsRequest(_message.Message):
    __slots__ = ("specialist",)
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    def __init__(self, specialist: _Optional[str] = ...) -> None: ...

class RetrainDecisions(_message.Message):
    __slots__ = ("decisions",)
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    decisions: _containers.RepeatedCompositeFieldContainer[RetrainDecision]
    def __init__(self, decisions: _Optional[_Iterable[_Union[RetrainDecision, _Mapping]]] = ...) -> None: ...

class RetrainDecision(_message.Message):
    __slots__ = ("id", "specialist", "trigger", "retrains", "code", "reason", "job", "at")
    ID_FIELD_NUMBER: _ClassVar[int]
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    RETRAINS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    id: int
    specialist: str
    trigger: str
    retrains: bool
    code: str
    reason: str
    job: str
    at: str
    def __init__(self, id: _Optional[int] = ..., specialist: _Optional[str] = ..., trigger: _Optional[str] = ..., retrains: bool = ..., code: _Optional[str] = ..., reason: _Optional[str] = ..., job: _Optional[str] = ..., at: _Optional[str] = ...) -> None: ...

class NextCasesRequest(_message.Message):
    __slots__ = ("specialist", "limit", "person")
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PERSON_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    limit: int
    person: str
    def __init__(self, specialist: _Optional[str] = ..., limit: _Optional[int] = ..., person: _Optional[str] = ...) -> None: ...

class Cases(_message.Message):
    __slots__ = ("cases",)
    CASES_FIELD_NUMBER: _ClassVar[int]
    cases: _containers.RepeatedCompositeFieldContainer[Case]
    def __init__(self, cases: _Optional[_Iterable[_Union[Case, _Mapping]]] = ...) -> None: ...

class Case(_message.Message):
    __slots__ = ("decision_id", "text", "decision", "score", "why", "labels")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    text: str
    decision: str
    score: float
    why: str
    labels: int
    def __init__(self, decision_id: _Optional[str] = ..., text: _Optional[str] = ..., decision: _Optional[str] = ..., score: _Optional[float] = ..., why: _Optional[str] = ..., labels: _Optional[int] = ...) -> None: ...

class ImportLabelsRequest(_message.Message):
    __slots__ = ("specialist", "labels")
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    labels: _containers.RepeatedCompositeFieldContainer[GivenLabel]
    def __init__(self, specialist: _Optional[str] = ..., labels: _Optional[_Iterable[_Union[GivenLabel, _Mapping]]] = ...) -> None: ...

class GivenLabel(_message.Message):
    __slots__ = ("decision_id", "person", "label")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    PERSON_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    person: str
    label: str
    def __init__(self, decision_id: _Optional[str] = ..., person: _Optional[str] = ..., label: _Optional[str] = ...) -> None: ...

class ImportLabelsResponse(_message.Message):
    __slots__ = ("kept", "refused")
    KEPT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    kept: int
    refused: _containers.RepeatedCompositeFieldContainer[RefusedLabel]
    def __init__(self, kept: _Optional[int] = ..., refused: _Optional[_Iterable[_Union[RefusedLabel, _Mapping]]] = ...) -> None: ...

class RefusedLabel(_message.Message):
    __slots__ = ("row", "problem")
    ROW_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    row: int
    problem: str
    def __init__(self, row: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...

class GetLabelsRequest(_message.Message):
    __slots__ = ("specialist",)
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    def __init__(self, specialist: _Optional[str] = ...) -> None: ...

class Labels(_message.Message):
    __slots__ = ("cases", "has_alpha", "alpha", "pairs")
    CASES_FIELD_NUMBER: _ClassVar[int]
    HAS_ALPHA_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    cases: _containers.RepeatedCompositeFieldContainer[LabelledCase]
    has_alpha: bool
    alpha: float
    pairs: _containers.RepeatedCompositeFieldContainer[Agreement]
    def __init__(self, cases: _Optional[_Iterable[_Union[LabelledCase, _Mapping]]] = ..., has_alpha: bool = ..., alpha: _Optional[float] = ..., pairs: _Optional[_Iterable[_Union[Agreement, _Mapping]]] = ...) -> None: ...

class LabelledCase(_message.Message):
    __slots__ = ("decision_id", "text", "label", "given")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    GIVEN_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    text: str
    label: str
    given: _containers.RepeatedCompositeFieldContainer[GivenLabel]
    def __init__(self, decision_id: _Optional[str] = ..., text: _Optional[str] = ..., label: _Optional[str] = ..., given: _Optional[_Iterable[_Union[GivenLabel, _Mapping]]] = ...) -> None: ...

class Agreement(_message.Message):
    __slots__ = ("first", "second", "cases", "kappa")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    CASES_FIELD_NUMBER: _ClassVar[int]
    KAPPA_FIELD_NUMBER: _ClassVar[int]
    first: str
    second: str
    cases: int
    kappa: float
    def __init__(self, first: _Optional[str] = ..., second: _Optional[str] = ..., cases: _Optional[int] = ..., kappa: _Optional[float] = ...) -> None: ...
