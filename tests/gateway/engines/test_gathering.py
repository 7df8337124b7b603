"""Texts that share a remote request: who goes with whom, who leaves, and what an answer may look like."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import cast

import pytest

from gateway.engines.gathering import BatchEngine, Gathering
from gateway.engines.ports import Broken, Busy, EngineProblem, InputRefused, LabelScores, OutOfTime, ScoreJob, Served
from protos import engine_pb2
from protos.contract.fields import FieldInvalid
from protos.contract.given import Given
from protos.contract.servers import RemoteSettings
from tests.batteries.engines import CASES, PATIENCE_S, Rig, remote
from tests.tasks import TASK

MINUTE_S = 60.0
OK, ERROR = engine_pb2.RESULT_STATUS_OK, engine_pb2.RESULT_STATUS_ENGINE_ERROR
ONE, TWO = Served("one", TASK, {}), Served("two", TASK, {})


class Scripted:
    """An engine whose answers the test gives; a score is the text's length."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.answers: list[asyncio.Future[None]] = []
        self.aborted = 0
        self.missing = 0

    def batch_key(self, job: ScoreJob) -> str | None:
        return None if job.text.startswith("alone") else job.served.digest

    async def score_many(self, jobs: Sequence[ScoreJob], timeout_s: float) -> list[LabelScores | EngineProblem]:
        assert timeout_s > 0
        self.asked.append([job.text for job in jobs])
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        try:
            await answer
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        if len(jobs) > 1 and any("wrong" in job.text for job in jobs):
            raise InputRefused("a text is wrong")
        found: list[LabelScores | EngineProblem] = [self._row(job.text) for job in jobs]
        return found[self.missing :]

    @staticmethod
    def _row(text: str) -> LabelScores | EngineProblem:
        return Broken("this row is no answer") if "nan" in text else LabelScores((float(len(text)),))

    async def close(self) -> None:
        pass


async def turn() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def ask(
    gathering: Gathering, text: str, served: Served = ONE, timeout_s: float = MINUTE_S
) -> asyncio.Task[LabelScores]:
    return asyncio.create_task(gathering.score(ScoreJob(text, served, text), timeout_s))


def run(story: Callable[[Scripted, Gathering], Awaitable[None]], max_batch: int = 3, max_requests: int = 1) -> None:
    async def main() -> None:
        engine = Scripted()
        gathering = Gathering(cast(BatchEngine, engine), max_batch=max_batch, max_requests=max_requests)
        await story(engine, gathering)
        await gathering.close()

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def test_a_call_that_finds_room_goes_at_once_and_those_that_wait_go_together() -> None:
    async def story(engine: Scripted, gathering: Gathering) -> None:
        first = ask(gathering, "a")
        await turn()
        assert engine.asked == [["a"]]
        rest = [ask(gathering, "b" * n) for n in range(2, 7)]
        await turn()
        assert len(engine.asked) == 1
        engine.answers[0].set_result(None)
        await turn()
        assert engine.asked[1:] == [["bb", "bbb", "bbbb"]]
        engine.answers[1].set_result(None)
        await turn()
        assert engine.asked[2:] == [["bbbbb", "bbbbbb"]]
        engine.answers[2].set_result(None)
        found = [await call for call in (first, *rest)]
        assert [scores.values for scores in found] == [(float(n),) for n in range(1, 7)]
        assert [scores.batch_size for scores in found] == [1, 3, 3, 3, 2, 2]

    run(story)


def test_calls_of_one_turn_share_a_request_although_nothing_is_open() -> None:
    async def story(engine: Scripted, gathering: Gathering) -> None:
        calls = [ask(gathering, text) for text in ("a", "bb", "ccc", "dddd")]
        await turn()
        assert engine.asked == [["a", "bb", "ccc"], ["dddd"]]
        for answer in engine.answers:
            answer.set_result(None)
        assert [scores.batch_size for scores in await asyncio.gather(*calls)] == [3, 3, 3, 1]

    run(story, max_requests=2)


def test_only_calls_that_may_share_a_request_do_and_the_oldest_goes_first() -> None:
    async def story(engine: Scripted, gathering: Gathering) -> None:
        calls = [
            ask(gathering, "one a"),
            ask(gathering, "two a", TWO),
            ask(gathering, "alone a"),
            ask(gathering, "one b"),
            ask(gathering, "alone b"),
        ]
        for place in range(4):
            await turn()
            engine.answers[place].set_result(None)
        await asyncio.gather(*calls)
        assert engine.asked == [["one a", "one b"], ["two a"], ["alone a"], ["alone b"]]

    run(story)


def test_a_caller_who_leaves_while_waiting_is_not_asked_for() -> None:
    async def story(engine: Scripted, gathering: Gathering) -> None:
        first, gone, last = (ask(gathering, "a"), ask(gathering, "alone"), ask(gathering, "bb"))
        await turn()
        gone.cancel()
        await turn()
        engine.answers[0].set_result(None)
        assert [(await call).values for call in (first, last)] == [(1.0,), (2.0,)]
        await turn()
        assert engine.asked == [["a", "bb"]]

    run(story)


def test_a_request_goes_on_until_the_last_of_its_callers_has_left() -> None:
    async def story(engine: Scripted, gathering: Gathering) -> None:
        calls = [ask(gathering, text) for text in ("a", "bb", "ccc")]
        await turn()
        calls[0].cancel()
        calls[1].cancel()
        await turn()
        assert engine.aborted == 0
        engine.answers[0].set_result(None)
        assert (await calls[2]).values == (3.0,)

        calls = [ask(gathering, text) for text in ("a", "bb")]
        waits = ask(gathering, "alone")
        await turn()
        for call in calls:
            call.cancel()
        await turn()
        assert engine.aborted == 1
        assert engine.asked[2:] == [["alone"]]  # its place is free
        engine.answers[2].set_result(None)
        await waits

    run(story)


def test_each_caller_has_its_own_deadline() -> None:
    async def story(engine: Scripted, gathering: Gathering) -> None:
        long, short = ask(gathering, "a"), ask(gathering, "bb", timeout_s=0.01)
        await turn()
        assert engine.asked == [["a", "bb"]]
        with pytest.raises(OutOfTime):
            await short
        assert engine.aborted == 0
        engine.answers[0].set_result(None)
        assert (await long).values == (1.0,)

    run(story)


def test_a_failed_request_fails_for_all_and_a_wrong_row_for_one() -> None:
    async def story(engine: Scripted, gathering: Gathering) -> None:
        calls = [ask(gathering, text) for text in ("a", "bb")]
        await turn()
        engine.answers[0].set_exception(Busy("no room"))
        for found in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(found, Busy)
            assert str(found) == "no room"
        calls = [ask(gathering, text) for text in ("a", "nan", "ccc")]
        await turn()
        engine.answers[1].set_result(None)
        first, second, third = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(second, Broken)
        assert [s.values for s in (first, third) if isinstance(s, LabelScores)] == [(1.0,), (3.0,)]

    run(story)


def test_after_a_refused_input_each_text_is_asked_for_alone() -> None:
    async def story(engine: Scripted, gathering: Gathering) -> None:
        calls = [ask(gathering, text) for text in ("a", "wrong", "ccc")]
        await turn()
        engine.answers[0].set_result(None)
        await turn()
        engine.answers[1].set_result(None)
        await turn()
        engine.answers[2].set_exception(InputRefused("it is wrong"))
        await turn()
        engine.answers[3].set_result(None)
        first, second, third = await asyncio.gather(*calls, return_exceptions=True)
        assert engine.asked == [["a", "wrong", "ccc"], ["a"], ["wrong"], ["ccc"]]
        assert isinstance(second, InputRefused)
        assert [s.values for s in (first, third) if isinstance(s, LabelScores)] == [(1.0,), (3.0,)]

    run(story)


def test_an_answer_with_fewer_rows_is_nobodys_answer() -> None:
    async def story(engine: Scripted, gathering: Gathering) -> None:
        engine.missing = 1
        calls = [ask(gathering, text) for text in ("a", "bb")]
        await turn()
        engine.answers[0].set_result(None)
        for found in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(found, Broken)
            assert str(found) == "1 answers, expected 2"

    run(story)


GATHERED = [name for name, case in CASES.items() if case.max_batch > 1 and "llmapi" not in name]


def on_a_server(name: str, root: Path, texts: Sequence[str]) -> tuple[list[engine_pb2.Result], list[list[float]], Rig]:
    """Ask a fake server of a real protocol for all texts in one turn."""

    async def main() -> tuple[list[engine_pb2.Result], list[list[float]], Rig]:
        async with remote(name, root) as rig:
            bundle = await rig.loaded()
            futures = [
                rig.link.submit(bundle, Given.of_text(text), 60_000_000, engine_pb2.PRIORITY_LIVE)[1] for text in texts
            ]
            return await asyncio.gather(*futures), [rig.expected(text) for text in texts], rig

    return asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


@pytest.mark.parametrize("name", GATHERED)
def test_forty_texts_of_unlike_lengths_are_three_requests(name: str, tmp_path: Path) -> None:
    results, expected, rig = on_a_server(name, tmp_path, [f"page {'y' * i}" for i in range(40)])
    assert len(rig.model.requests) == 3
    assert [result.batch_size for result in results] == [16] * 32 + [8] * 8
    for result, row in zip(results, expected, strict=True):
        assert list(result.label_logprobs) == pytest.approx(row, abs=1e-4)


@pytest.mark.parametrize("name", GATHERED)
def test_what_is_wrong_with_one_text_leaves_the_others_their_answers(name: str, tmp_path: Path) -> None:
    results, expected, _ = on_a_server(name, tmp_path, ["page 1", "page: please nan", "page 2"])
    assert [result.status for result in results] == [OK, ERROR, OK]
    assert list(results[2].label_logprobs) == pytest.approx(expected[2], abs=1e-4)
    if "mlserver" in name:  # which calls every failure a wrong input, so its word for one is not taken
        return
    results, expected, _ = on_a_server(name, tmp_path, ["page 1", "page: please refuse", "page 2"])
    assert [result.status for result in results] == [OK, engine_pb2.RESULT_STATUS_BAD_INPUT, OK]


@pytest.mark.parametrize("name", GATHERED)
def test_an_answer_that_does_not_match_its_texts_is_refused(name: str, tmp_path: Path) -> None:
    results, _, _ = on_a_server(name, tmp_path, ["page 1", "page: please lose a row"])
    assert [result.status for result in results] == [ERROR, ERROR]
    assert "expected" in results[0].message
    if name.startswith("openai") and name != "openai sglang gathered":  # rows that name their place
        results, _, _ = on_a_server(name, tmp_path, ["page 1", "page: please repeat a row"])
        assert [result.status for result in results] == [ERROR, ERROR]


@pytest.mark.parametrize("kind", ["trtllm-grpc", "sglang-grpc"])
def test_a_protocol_of_one_text_a_request_is_not_asked_for_more(kind: str, tmp_path: Path) -> None:
    value = {"name": "near", "kind": kind, "address": "127.0.0.1:1", "max_batch": 8}
    with pytest.raises(FieldInvalid, match=f"max_batch is 8, expected 1: {kind} takes one text"):
        RemoteSettings.from_json(value, "gateway.engines[0]", tmp_path)
