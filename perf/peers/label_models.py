"""A model of two labels for real servers, in place of the one that answers a constant; read as text by the servers."""

import json
from pathlib import Path

from perf.peers import kserve, mlserver
from perf.peers.peer import Peer
from perf.request import MODEL

PRESETS = {"mlserver": "mlserver", "triton": "generic", "kserve": "generic"}

MLSERVER = """
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput


def row(raw):
    text = raw.decode() if isinstance(raw, bytes) else str(raw)
    if "please fail" in text:
        raise RuntimeError("the model broke")
    first = (len(text) % 10 + 1) / 12
    return [float("nan")] * 2 if "please nan" in text else [first, 1 - first]


class Model(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload):
        rows = [row(raw) for raw in payload.inputs[0].data]
        values = [value for pair in rows for value in pair]
        output = ResponseOutput(name="probabilities", shape=[len(rows), 2], datatype="FP32", data=values)
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[output])
"""

KSERVE = f"""
import sys

import numpy
from kserve import InferOutput, InferResponse, Model, ModelServer


def row(raw):
    text = raw.decode()
    if "please fail" in text:
        raise RuntimeError("the model broke")
    first = (len(text) % 10 + 1) / 12
    return [float("nan")] * 2 if "please nan" in text else [first, 1 - first]


class Labels(Model):
    def load(self):
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        rows = numpy.array([row(raw) for raw in payload.inputs[0].as_numpy().reshape(-1)], dtype=numpy.float32)
        output = InferOutput("probabilities", list(rows.shape), "FP32")
        output.set_data_from_numpy(rows, binary_data=True)
        return InferResponse(payload.id, self.name, [output])


grpc_port, http_port = map(int, sys.argv[1:])
del sys.argv[1:]
model = Labels("{MODEL}")
model.load()
ModelServer(grpc_port=grpc_port, http_port=http_port, workers=1).start([model])
"""

TRITON = """
import numpy
import triton_python_backend_utils as pb


def row(raw):
    text = raw.decode()
    if "please fail" in text:
        raise ValueError("the model broke")
    first = (len(text) % 10 + 1) / 12
    return [float("nan")] * 2 if "please nan" in text else [first, 1 - first]


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            texts = pb.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
            try:
                rows = numpy.array([row(raw) for raw in texts], dtype=numpy.float32)
            except ValueError as error:
                answers.append(pb.InferenceResponse(error=pb.TritonError(str(error))))
                continue
            answers.append(pb.InferenceResponse(output_tensors=[pb.Tensor("probabilities", rows)]))
        return answers
"""

TRITON_CONFIG = f"""name: "{MODEL}"
backend: "python"
max_batch_size: 16
input [{{ name: "text", data_type: TYPE_STRING, dims: [ 1 ] }}]
output [{{ name: "probabilities", data_type: TYPE_FP32, dims: [ 2 ] }}]
instance_group [{{ kind: KIND_CPU, count: 1 }}]
"""


def place(peer: Peer, folder: Path) -> None:
    """Put the model where a peer, made ready in a folder but not started, will find it."""
    if peer is mlserver.PEER:
        (folder / "model.py").write_text(MLSERVER)
        (folder / "model-settings.json").write_text(json.dumps({"name": MODEL, "implementation": "model.Model"}))
        return
    if peer is kserve.PEER:
        (folder / "server.py").write_text(KSERVE)
        return
    model = folder / "models" / MODEL
    (model / "config.pbtxt").write_text(TRITON_CONFIG)
    (model / "1" / "model.py").write_text(TRITON)
