"""Rows are protobuf: what one side writes the other side's library reads, and what is no row is left to it."""

import math
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protos import decide_pb2, engine_pb2
from protos.contract.frames import FrameDecoder, encode
from protos.contract.given import Given
from protos.contract.rows import JobRow, ResultRow, read_job, read_result, write_job, write_result

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
NAMES = st.one_of(st.just("sha256:" + "a" * 64), st.text(max_size=60))
TEXTS = st.one_of(st.text(max_size=200), st.integers(0, 17_000).map(lambda n: "x" * n))


def body(frame: bytes) -> engine_pb2.Frame:
    assert struct.unpack_from("<I", frame)[0] == len(frame) - 4
    return engine_pb2.Frame.FromString(frame[4:])


@given(U64, NAMES, U32, st.integers(0, 4), TEXTS)
@settings(deadline=None)
def test_a_job_says_the_same_as_a_row_and_as_a_message(
    id: int, bundle: str, remaining_us: int, priority: int, text: str
) -> None:
    asked = Given.of_text(text)
    frame = write_job(id, bundle, remaining_us, priority, asked.raw)
    job = body(frame).job
    assert (job.id, job.bundle_digest, job.remaining_us, job.priority) == (id, bundle, remaining_us, priority)
    assert job.input == decide_pb2.Input(text=text) and Given.of(job.input).text == text
    for found in FrameDecoder().feed_rows(frame, read_job):
        if isinstance(found, JobRow):
            assert found == JobRow(id, bundle, remaining_us, priority, asked)
        else:
            assert found.job == job


@given(U64, NAMES, st.tuples(*[U32] * 6), st.booleans(), st.lists(st.floats(0, 1, width=32), max_size=5_000 // 100))
@settings(deadline=None)
def test_an_answer_says_the_same_as_a_row_and_as_a_message(
    id: int, bundle: str, numbers: tuple[int, ...], truncated: bool, probabilities: list[float]
) -> None:
    label, decision, tokens, queue_us, engine_us, batch_size = numbers
    row = ResultRow(
        id, label, decision, 0.25, truncated, tokens, queue_us, engine_us, batch_size, bundle, tuple(probabilities)
    )
    frame = write_result(row)
    assert body(frame).result == engine_pb2.Result(**row._asdict())
    assert FrameDecoder().feed_rows(frame, read_result) == [row]


def test_usual_frames_are_rows() -> None:
    asked = Given.of_text("a page about cats " * 50)
    job = write_job(7, "sha256:" + "a" * 64, 98_000, 1, asked.raw)
    assert read_job(job, 0, len(job)) == JobRow(7, "sha256:" + "a" * 64, 98_000, 1, asked)


@pytest.mark.parametrize(
    "frame",
    [
        engine_pb2.Frame(job=engine_pb2.Job(id=1, bundle_digest="b", input=decide_pb2.Input(text="x"))),
        engine_pb2.Frame(job=engine_pb2.Job(id=1)),
        engine_pb2.Frame(cancel=engine_pb2.Cancel(id=1)),
        engine_pb2.Frame(result=engine_pb2.Result(id=1, status=engine_pb2.RESULT_STATUS_EXPIRED, message="x" * 90)),
        engine_pb2.Frame(result=engine_pb2.Result(id=1, probabilities=[0.5, 0.5], bundle_digest="b" * 71)),
        engine_pb2.Frame(),
    ],
    ids=["another order", "no input", "cancel", "expired", "fields left out", "empty"],
)
def test_whatever_is_no_row_is_read_as_a_message(frame: engine_pb2.Frame) -> None:
    for read in (read_job, read_result):
        assert FrameDecoder().feed_rows(encode(frame), read) == [frame]


@given(st.integers(0, 250), st.integers(0, 255))
@example(18, 128)  # a priority that goes on
@example(20, 0)  # a length of one byte
@settings(deadline=None)
def test_a_broken_byte_never_makes_a_row_say_what_the_message_does_not(place: int, value: int) -> None:
    """Where the row reads something, the library reads the same."""
    bundle, asked = "sha256:" + "a" * 64, Given.of_text("a text of some length " * 5)
    job = bytearray(write_job(7, bundle, 98_000, 1, asked.raw))
    job[4 + place % (len(job) - 4)] = value
    if (found := read_job(bytes(job), 0, len(job))) is not None:
        meant = engine_pb2.Frame.FromString(bytes(job[4:])).job
        assert (meant.id, meant.bundle_digest, meant.remaining_us, meant.priority) == found[:4]
        assert meant.input.text == found.input.text
    answer = bytearray(write_result(ResultRow(7, 1, 1, 0.75, False, 9, 30, 20, 4, bundle, (0.25, 0.75))))
    answer[4 + place % (len(answer) - 4)] = value
    if (told := read_result(bytes(answer), 0, len(answer))) is not None and not math.isnan(sum(told.probabilities)):
        result = engine_pb2.Frame.FromString(bytes(answer[4:])).result
        if not math.isnan(told.score):
            assert result == engine_pb2.Result(**told._asdict())


def test_inputs_of_fields_keep_their_fields() -> None:
    message = decide_pb2.Input(fields={"amount": decide_pb2.Value(number=3.5)})
    asked = Given.of(message)
    assert asked.fields["amount"].number == 3.5 and asked.message() == message
    frame = write_job(1, "sha256:" + "a" * 64, 5, 0, asked.raw)
    assert read_job(frame, 0, len(frame)) is None and body(frame).job.input == message
