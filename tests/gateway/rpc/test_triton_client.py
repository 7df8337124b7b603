"""A stock Triton client, in a process of its own, is served by either front as its own server would."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.rpc.envoy import is_installed
from perf.processes import ROOT
from protos import model_config_pb2, oip_pb2
from tests.gateway.deployment import Deployment
from tests.gateway.stories import run, start

PYTHON = ROOT / ".venv-tools" / "bin" / "python"
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-tools with tritonclient: run `make setup`")


async def client(argument: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        str(PYTHON),
        str(Path(__file__).with_name("triton_client.py")),
        argument,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


@pytest.fixture(scope="module", params=["grpcio", "envoy", "direct"])
def said(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything that the client was told."""
    if request.param == "envoy" and not is_installed():
        pytest.skip("Envoy is not installed here")
    told: dict[str, Any] = {}

    async def story(deployment: Deployment) -> None:
        deployment.settings["front"] = request.param
        await start(deployment)
        assert await deployment.log_value("gateway", "front=") == request.param
        told["began_ms"] = time.time_ns() // 1_000_000
        told.update(await client(f"127.0.0.1:{deployment.port}"))
        told["ended_ms"] = time.time_ns() // 1_000_000

    run(tmp_path_factory.mktemp(request.param), story)
    return told


def test_the_synchronous_client_gets_the_right_answers(said: dict[str, Any]) -> None:
    told = said["sync"]
    assert told["live"] and told["ready"] and told["model_ready"]
    assert told["label"] == told["classified"] == told["packed"] == told["async"] == ["unsafe", "safe"]
    assert told["decision"] == ["block", "allow"]
    assert [max(range(2), key=row.__getitem__) for row in told["probabilities"]] == [1, 0]


def test_the_client_reads_configuration_and_index(said: dict[str, Any]) -> None:
    told = said["sync"]
    assert told["inputs"] == [["text", "BYTES", [-1, 1]]]
    outputs = [["label", [1]], ["probabilities", [2]], ["score", [1]], ["decision", [1]]]
    assert told["config"] == [64, [["text", True, [1]]], outputs, True, False]
    assert told["shapes"] == [[2, 1], [2, 2], [2, 1]]
    assert told["index"] == [["brand", "1", "READY"]]
    assert "statistics" in told["extensions"] and "sequence" not in told["extensions"]


@pytest.mark.parametrize(
    ("what", "status", "words"),
    [
        ("priority", "INVALID_ARGUMENT", "'priority' is 1"),
        ("sequence", "INVALID_ARGUMENT", "'sequence_"),
        ("model", "NOT_FOUND", "'nobody'"),
        *[(what, "UNIMPLEMENTED", "") for what in ("load", "unload", "shared memory", "device memory", "trace", "log")],
    ],
)
def test_what_is_not_served_is_refused(said: dict[str, Any], what: str, status: str, words: str) -> None:
    refused = said["sync"]["refused"][what]
    assert refused.startswith(f"StatusCode.{status}: ")
    assert words in refused


def test_a_stream_answers_each_request_and_survives_an_error(said: dict[str, Any]) -> None:
    told = said["stream"]
    expected = {f"s-{i}": [("unsafe", "safe")[i % 2]] for i in range(40)}
    assert told["found"] == {**expected, "after": ["unsafe"]}
    assert told["errors"] == ["unknown specialist 'nobody'"]
    assert told["finals"] == 41


def test_a_stream_ends_with_the_status_of_its_first_error_where_asked(said: dict[str, Any]) -> None:
    assert said["stream"]["ended"] == ["StatusCode.NOT_FOUND", "unknown specialist 'nobody'"]


def test_the_asynchronous_client_gets_the_right_answers(said: dict[str, Any]) -> None:
    told = said["aio"]
    assert told["ready"]
    assert told["one"] == ["unsafe", "safe"]
    assert told["many"] == ["unsafe", "safe"] * 10
    assert told["stream"] == {f"a-{i}": [("unsafe", "safe")[i % 2]] for i in range(20)}


def test_statistics_say_what_happened(said: dict[str, Any]) -> None:
    told = said["statistics"]
    # Five requests of two rows; the one of blanks was refused before any engine saw it.
    assert told["inferences"] == 10
    assert told["durations"] == {"success": 10, "fail": 0, "queue": 10, "compute_infer": 10}
    assert 5 <= told["executions"] <= 10
    assert abs(told["batches"] - told["executions_in_all"]) <= 1  # each is rounded from shares
    assert 0 < told["engine_ns"] < told["success_ns"]
    assert said["began_ms"] <= told["last_inference"] <= said["ended_ms"]


def test_every_field_is_where_tritons_protocol_has_it() -> None:
    theirs = asyncio.run(client("fields"))
    ours: dict[str, dict[str, list[Any]]] = {}

    def add(message: Any) -> None:
        ours[message.full_name] = {f.name: [f.number, f.type, f.is_repeated] for f in message.fields}
        for nested in message.nested_types:
            add(nested)

    for file in (oip_pb2, model_config_pb2):
        for message in file.DESCRIPTOR.message_types_by_name.values():
            add(message)
    kinds = model_config_pb2.DataType.DESCRIPTOR.values
    ours["inference.DataType"] = {value.name: [value.number, 0, False] for value in kinds}
    assert len(ours) > 40
    for name, fields in ours.items():
        assert fields.items() <= theirs[name].items(), name
