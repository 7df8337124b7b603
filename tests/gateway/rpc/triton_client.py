"""Asks one gateway with the stock Triton client, in each of its ways, and prints what it said as JSON.

Runs in an environment of its own: two sets of generated ``inference`` messages cannot live in one process.
"""

import asyncio
import json
import queue
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

WAIT_S = 20.0
TEXTS = [b"label:unsafe a", b"label:safe b"]


def tensor(texts: list[bytes], *, column: bool = False) -> list[triton.InferInput]:
    values = np.array(texts, dtype=object)
    if column:
        values = values.reshape(-1, 1)
    given = triton.InferInput("text", list(values.shape), "BYTES")
    given.set_data_from_numpy(values)
    return [given]


def words(result: triton.InferResult, name: str = "label") -> list[str]:
    return [value.decode() for value in result.as_numpy(name).ravel()]


def refusal(ask: Callable[[], Any]) -> str:
    try:
        ask()
    except InferenceServerException as error:
        return f"{error.status()}: {error.message()}"
    return "no refusal"


def sync(url: str) -> dict[str, Any]:
    client = triton.InferenceServerClient(url)
    everything = client.infer("brand", tensor(TEXTS), request_id="r-1")
    as_described = client.infer("brand", tensor(TEXTS, column=True))
    best = [triton.InferRequestedOutput("probabilities", class_count=1)]
    classified = client.infer("brand", tensor(TEXTS), outputs=best)
    packed = client.infer("brand", tensor(TEXTS), compression_algorithm="gzip")
    later: queue.Queue[Any] = queue.Queue()
    client.async_infer("brand", tensor(TEXTS), callback=lambda result, error: later.put(error or words(result)))
    metadata = client.get_model_metadata("brand")
    config = client.get_model_config("brand").config
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("brand"),
        "extensions": list(client.get_server_metadata().extensions),
        "inputs": [[t.name, t.datatype, list(t.shape)] for t in metadata.inputs],
        "config": [
            config.max_batch_size,
            [[t.name, t.data_type == model_config_pb2.TYPE_STRING, list(t.dims)] for t in config.input],
            [[t.name, list(t.dims)] for t in config.output],
            config.HasField("dynamic_batching"),
            config.model_transaction_policy.decoupled,
        ],
        "index": [[m.name, m.version, m.state] for m in client.get_model_repository_index().models],
        "label": words(everything),
        "decision": words(everything, "decision"),
        "probabilities": everything.as_numpy("probabilities").tolist(),
        "shapes": [list(as_described.as_numpy(name).shape) for name in ("label", "probabilities", "score")],
        "classified": [row[0].decode().split(":", 2)[2] for row in classified.as_numpy("probabilities")],
        "packed": words(packed),
        "async": later.get(timeout=WAIT_S),
        "refused": {
            "priority": refusal(lambda: client.infer("brand", tensor(TEXTS), priority=1)),
            "sequence": refusal(lambda: client.infer("brand", tensor(TEXTS), sequence_id=3, sequence_start=True)),
            "load": refusal(lambda: client.load_model("brand")),
            "unload": refusal(lambda: client.unload_model("brand")),
            "shared memory": refusal(lambda: client.register_system_shared_memory("r", "/r", 8)),
            "device memory": refusal(client.get_cuda_shared_memory_status),
            "trace": refusal(client.get_trace_settings),
            "log": refusal(client.get_log_settings),
            "model": refusal(lambda: client.infer("nobody", tensor(TEXTS))),
        },
    }


def stream(url: str) -> dict[str, Any]:
    """One stream with an error in it, then one that the first error ends."""
    client = triton.InferenceServerClient(url)
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for i in range(40):
        client.async_stream_infer(
            "brand", tensor([TEXTS[i % 2]]), request_id=f"s-{i}", enable_empty_final_response=i % 4 == 0
        )
    client.async_stream_infer("nobody", tensor([b"x"]), request_id="wrong")
    client.async_stream_infer("brand", tensor([TEXTS[0]]), request_id="after")
    found, errors, finals = {}, [], 0
    for _ in range(42):
        result, error = answers.get(timeout=WAIT_S)
        if error is not None:
            errors.append(error.message())
            continue
        response = result.get_response()
        finals += response.parameters["triton_final_response"].bool_param
        found[response.id] = words(result)
    client.stop_stream()
    client.start_stream(lambda result, error: answers.put((result, error)), headers={"triton_grpc_error": "true"})
    client.async_stream_infer("nobody", tensor([b"x"]), request_id="wrong")
    _, ended = answers.get(timeout=WAIT_S)
    client.stop_stream()
    return {"found": found, "errors": errors, "finals": finals, "ended": [ended.status(), ended.message()]}


async def aio(url: str) -> dict[str, Any]:
    async with triton_aio.InferenceServerClient(url) as client:
        one = await client.infer("brand", tensor(TEXTS))
        many = await asyncio.gather(*(client.infer("brand", tensor([TEXTS[i % 2]])) for i in range(20)))

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for i in range(20):
                yield {"model_name": "brand", "inputs": tensor([TEXTS[i % 2]]), "request_id": f"a-{i}"}

        found = {}
        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            found[result.get_response().id] = words(result)
        left = client.stream_infer(requests())
        await anext(aiter(left))
        left.cancel()
        return {
            "ready": await client.is_model_ready("brand"),
            "one": words(one),
            "many": [words(result)[0] for result in many],
            "stream": found,
        }


def statistics(url: str) -> dict[str, Any]:
    client = triton.InferenceServerClient(url)
    before = client.get_inference_statistics("brand").model_stats[0]
    for _ in range(5):
        client.infer("brand", tensor(TEXTS))
    refusal(lambda: client.infer("brand", tensor([b" "])))
    after = client.get_inference_statistics("").model_stats[0]
    timed = ("success", "fail", "queue", "compute_infer")
    told = {
        name: getattr(after.inference_stats, name).count - getattr(before.inference_stats, name).count for name in timed
    }
    return {
        "inferences": after.inference_count - before.inference_count,
        "executions": after.execution_count - before.execution_count,
        "durations": told,
        "engine_ns": after.inference_stats.compute_infer.ns,
        "success_ns": after.inference_stats.success.ns,
        "batches": sum(batch.compute_infer.count for batch in after.batch_stats),
        "executions_in_all": after.execution_count,
        "last_inference": after.last_inference,
    }


def fields() -> dict[str, dict[str, list[Any]]]:
    """Every field of every message of Triton's protocol files, to hold ours against."""
    found = {}

    def add(message: Any) -> None:
        found[message.full_name] = {f.name: [f.number, f.type, f.is_repeated] for f in message.fields}
        for nested in message.nested_types:
            add(nested)

    for file in (service_pb2, model_config_pb2):
        for message in file.DESCRIPTOR.message_types_by_name.values():
            add(message)
    kinds = model_config_pb2.DataType.DESCRIPTOR.values
    found["inference.DataType"] = {value.name: [value.number, 0, False] for value in kinds}
    return found


def main() -> None:
    if sys.argv[1] == "fields":
        json.dump(fields(), sys.stdout)
        return
    url = sys.argv[1]
    told = {"sync": sync(url), "stream": stream(url), "aio": asyncio.run(aio(url)), "statistics": statistics(url)}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
