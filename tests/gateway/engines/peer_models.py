"""Models for real servers, read as text: they run in the servers' own environments."""

MLSERVER = """
import numpy
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput


class Model(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload):
        raw = payload.inputs[0].data[0]
        text = raw.decode() if isinstance(raw, bytes) else str(raw)
        if "please fail" in text:
            raise RuntimeError("the model broke")
        first = (len(text) % 10 + 1) / 12
        values = [float("nan")] * 2 if "please nan" in text else [first, 1 - first]
        output = ResponseOutput(name="probabilities", shape=[1, 2], datatype="FP32", data=values)
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[output])
"""

TRITON = """
import numpy
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            text = pb.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)[0].decode()
            if "please fail" in text:
                answers.append(pb.InferenceResponse(error=pb.TritonError("the model broke")))
                continue
            first = (len(text) % 10 + 1) / 12
            values = [float("nan")] * 2 if "please nan" in text else [first, 1 - first]
            output = pb.Tensor("probabilities", numpy.array([values], dtype=numpy.float32))
            answers.append(pb.InferenceResponse(output_tensors=[output]))
        return answers
"""

TRITON_CONFIG = """name: "{model}"
backend: "python"
max_batch_size: 8
input [{{ name: "text", data_type: TYPE_STRING, dims: [ 1 ] }}]
output [{{ name: "probabilities", data_type: TYPE_FP32, dims: [ 2 ] }}]
instance_group [{{ kind: KIND_CPU, count: 1 }}]
"""
