from protos import artf_pb2 as _artf_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JsonRequest(_message.Message):
    __slots__ = ("lifecycle", "id", "tmax", "bid_request", "bid_response", "originator", "applicable_intents")
    LIFECYCLE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TMAX_FIELD_NUMBER: _ClassVar[int]
    BID_REQUEST_FIELD_NUMBER: _ClassVar[int]
    BID_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ORIGINATOR_FIELD_NUMBER: _ClassVar[int]
    APPLICABLE_INTENTS_FIELD_NUMBER: _ClassVar[int]
    lifecycle: _artf_pb2.Lifecycle
    id: str
    tmax: int
    bid_request: bytes
    bid_response: bytes
    originator: _artf_pb2.Originator
    applicable_intents: _containers.RepeatedScalarFieldContainer[_artf_pb2.Intent]
    def __init__(self, lifecycle: _Optional[_Union[_artf_pb2.Lifecycle, str]] = ..., id: _Optional[str] = ..., tmax: _Optional[int] = ..., bid_request: _Optional[bytes] = ..., bid_response: _Optional[bytes] = ..., originator: _Optional[_Union[_artf_pb2.Originator, _Mapping]] = ..., applicable_intents: _Optional[_Iterable[_Union[_artf_pb2.Intent, str]]] = ...) -> None: ...

class Feedback(_message.Message):
    __slots__ = ("id", "originator", "verdicts", "notices", "test")
    ID_FIELD_NUMBER: _ClassVar[int]
    ORIGINATOR_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    NOTICES_FIELD_NUMBER: _ClassVar[int]
    TEST_FIELD_NUMBER: _ClassVar[int]
    id: str
    originator: _artf_pb2.Originator
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    notices: _containers.RepeatedCompositeFieldContainer[Notice]
    test: bool
    def __init__(self, id: _Optional[str] = ..., originator: _Optional[_Union[_artf_pb2.Originator, _Mapping]] = ..., verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ..., notices: _Optional[_Iterable[_Union[Notice, _Mapping]]] = ..., test: bool = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("intent", "path", "result", "specialist")
    class Result(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        RESULT_UNSPECIFIED: _ClassVar[Verdict.Result]
        ACCEPTED: _ClassVar[Verdict.Result]
        REJECTED: _ClassVar[Verdict.Result]
    RESULT_UNSPECIFIED: Verdict.Result
    ACCEPTED: Verdict.Result
    REJECTED: Verdict.Result
    INTENT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    intent: _artf_pb2.Intent
    path: str
    result: Verdict.Result
    specialist: str
    def __init__(self, intent: _Optional[_Union[_artf_pb2.Intent, str]] = ..., path: _Optional[str] = ..., result: _Optional[_Union[Verdict.Result, str]] = ..., specialist: _Optional[str] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("path", "result", "price", "submitted", "min_bid_to_win", "loss_reason", "specialist")
    class Result(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        RESULT_UNSPECIFIED: _ClassVar[Notice.Result]
        WON: _ClassVar[Notice.Result]
        LOST: _ClassVar[Notice.Result]
    RESULT_UNSPECIFIED: Notice.Result
    WON: Notice.Result
    LOST: Notice.Result
    PATH_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_FIELD_NUMBER: _ClassVar[int]
    MIN_BID_TO_WIN_FIELD_NUMBER: _ClassVar[int]
    LOSS_REASON_FIELD_NUMBER: _ClassVar[int]
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    path: str
    result: Notice.Result
    price: float
    submitted: float
    min_bid_to_win: float
    loss_reason: int
    specialist: str
    def __init__(self, path: _Optional[str] = ..., result: _Optional[_Union[Notice.Result, str]] = ..., price: _Optional[float] = ..., submitted: _Optional[float] = ..., min_bid_to_win: _Optional[float] = ..., loss_reason: _Optional[int] = ..., specialist: _Optional[str] = ...) -> None: ...

class FeedbackReceipt(_message.Message):
    __slots__ = ("recorded", "censored", "unmapped", "dropped")
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    CENSORED_FIELD_NUMBER: _ClassVar[int]
    UNMAPPED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    recorded: int
    censored: int
    unmapped: int
    dropped: int
    def __init__(self, recorded: _Optional[int] = ..., censored: _Optional[int] = ..., unmapped: _Optional[int] = ..., dropped: _Optional[int] = ...) -> None: ...
