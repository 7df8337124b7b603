"""The one request every server in the benchmark gets, byte for byte, and what counts as an answer."""

import struct

import grpc

from protos import oip_pb2

MODEL = "bench"
METHOD = "/inference.GRPCInferenceService/ModelInfer"
TOTAL_BYTES = 1024
WORDS = "the quick brown fox reads one page about gardens and another about engines, both quite safe; "


def request(text: str) -> oip_pb2.ModelInferRequest:
    """Ask for the score of one text."""
    raw = text.encode()
    message = oip_pb2.ModelInferRequest(model_name=MODEL, raw_input_contents=[struct.pack("<I", len(raw)) + raw])
    message.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
    message.outputs.add(name="score")
    return message


def request_bytes() -> bytes:
    """Return the request, 1,024 bytes whole."""
    size = TOTAL_BYTES
    while True:
        text = (WORDS * (1 + size // len(WORDS)))[:size]
        data = request(text).SerializeToString()
        if len(data) <= TOTAL_BYTES:
            return data
        size -= len(data) - TOTAL_BYTES


def is_fallback(body: bytes) -> bool:
    """Say whether an answer is marked as one the engine had no part in. Only fallbacks give a reason."""
    return b"fallback_reason" in body


def check_answer(address: str, timeout_s: float) -> oip_pb2.ModelInferResponse:
    """Ask once with an ordinary client; raises RuntimeError unless a score comes back."""
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(METHOD, response_deserializer=oip_pb2.ModelInferResponse.FromString)
        try:
            answer: oip_pb2.ModelInferResponse = ask(request_bytes(), timeout=timeout_s, wait_for_ready=True)
        except grpc.RpcError as error:
            raise RuntimeError(f"{address} answered {error.code().name}: {error.details()}") from error
    if [output.name for output in answer.outputs] != ["score"] or not (
        answer.raw_output_contents or answer.outputs[0].contents.fp32_contents
    ):
        raise RuntimeError(f"{address} answered without a score: {answer}")
    if answer.parameters["fallback"].bool_param:
        raise RuntimeError(f"{address} answered a fallback: {answer.parameters['fallback_reason'].string_param}")
    return answer
