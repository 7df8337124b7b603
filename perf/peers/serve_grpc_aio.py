"""Answer every ModelInfer with a score of 0.5: ``python serve_grpc_aio.py PORT``."""

import asyncio
import struct
import sys
from typing import Any

import grpc.aio
import uvloop

from protos import oip_pb2

SCORE = struct.pack("<f", 0.5)


async def infer(request: oip_pb2.ModelInferRequest, context: Any) -> oip_pb2.ModelInferResponse:
    """Do the least an inference server can do."""
    answer = oip_pb2.ModelInferResponse(model_name=request.model_name, id=request.id, raw_output_contents=[SCORE])
    answer.outputs.add(name="score", datatype="FP32", shape=[request.inputs[0].shape[0]])
    return answer


async def _main(port: int) -> None:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=oip_pb2.ModelInferRequest.FromString,
        response_serializer=oip_pb2.ModelInferResponse.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler})
    server.add_generic_rpc_handlers((service,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1])))
