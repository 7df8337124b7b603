"""OIP servers: a classifier that answers raw or typed as servers do, and TensorRT-LLM behind Triton's LLM API."""

import struct
from typing import Any

import grpc
import numpy as np

from protos import oip_pb2, oip_pb2_grpc
from tests.gateway.engines.fake_model import ANSWER, MODEL, VERBALIZERS, Busy, Failed, FakeModel, Refused

SERVER_ERRORS = {"mlserver": grpc.StatusCode.INVALID_ARGUMENT}  # it calls everything that


class FakeOip(oip_pb2_grpc.GRPCInferenceServiceServicer):
    """One model, ``tiny/decoder``; ``preset`` decides how it answers."""

    def __init__(self, model: FakeModel, preset: str, scores: str = "probabilities") -> None:
        self.model = model
        self.preset = preset
        self.scores = scores
        self.is_model_ready = True
        self.model_version = "3"
        self.authorizations: set[str] = set()

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        # OpenVINO Model Server is ready although a model is not.
        return oip_pb2.ServerReadyResponse(ready=self.model.is_up)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return oip_pb2.ServerMetadataResponse(name="fake server", version="1.2")

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return oip_pb2.ModelReadyResponse(ready=self.is_model_ready and request.name == MODEL)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = oip_pb2.ModelMetadataResponse(name=MODEL, versions=[self.model_version], platform="fake")
        width = len(self.model.label_ids)
        if self.preset == "triton-llmapi":
            answer.inputs.add(name="text_input", datatype="BYTES", shape=[-1])
            answer.outputs.add(name="text_output", datatype="BYTES", shape=[-1])
        elif self.preset == "ovms":
            for name in ("input_ids", "attention_mask"):
                answer.inputs.add(name=name, datatype="INT64", shape=[-1, -1])
            answer.outputs.add(name=self.scores, datatype="FP32", shape=[-1, width])
        else:
            answer.inputs.add(name="text", datatype="BYTES", shape=[-1, 1])
            answer.outputs.add(name=self.scores, datatype="FP32", shape=[-1, width])
        return answer

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.model.requests.append(request)
        self.authorizations |= {str(v) for k, v in context.invocation_metadata() if k == "authorization"}
        texts = self._texts(request)
        try:
            for text in texts:
                await self.model.begin(request.id, text)
        except Failed as error:
            await context.abort(SERVER_ERRORS.get(self.preset, grpc.StatusCode.INTERNAL), str(error))
        except Busy as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except Refused as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        answer = oip_pb2.ModelInferResponse(model_name=MODEL, id=request.id)
        if self.preset == "triton-llmapi":
            return self._written(request, texts[0], answer)
        rows = [self._row(text) for text in texts]
        if any("please lose a row" in text for text in texts):
            rows.pop()
        values = [value for row in rows for value in row]
        output = answer.outputs.add(name=self.scores, datatype="FP32", shape=[len(rows), len(self.model.label_ids)])
        if self.preset == "mlserver":
            output.contents.fp32_contents.extend(values)
        else:
            answer.raw_output_contents.append(struct.pack(f"<{len(values)}f", *values))
        return answer

    def _row(self, text: str) -> list[float]:
        if self.scores == "logits":
            return [float(self.model.logits(text)[i]) for i in self.model.label_ids]
        return self.model.label_probabilities(text)

    def _texts(self, request: Any) -> list[str]:
        names = [tensor.name for tensor in request.inputs]
        raw = request.raw_input_contents[0]
        if self.preset == "ovms":
            assert names == ["input_ids", "attention_mask"]
            assert request.inputs[0].shape == request.inputs[1].shape
            shape = tuple(request.inputs[0].shape)
            ids, mask = (np.frombuffer(data, "<i8").reshape(shape) for data in request.raw_input_contents)
            assert (np.diff(mask) <= 0).all()
            return [self.model.decode(row[: kept.sum()].tolist()) for row, kept in zip(ids, mask, strict=True)]
        texts = []
        while raw:
            size = 4 + int.from_bytes(raw[:4], "little")
            assert len(raw) >= size
            texts.append(raw[4:size].decode())
            raw = raw[size:]
        assert list(request.inputs[0].shape) == [len(texts), 1][: len(request.inputs[0].shape)]
        return texts

    def _written(self, request: Any, text: str, answer: Any) -> Any:
        given = {tensor.name: raw for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)}
        if given["sampling_param_max_tokens"] != (1).to_bytes(4, "little"):
            written, logprob = ANSWER, -1.0
        else:
            best = self.model.label_logprobs(text)
            logprob = max(best)
            written = list(VERBALIZERS.values())[best.index(logprob)]
        if "please say something else" in text:
            written = " maybe"
        data = written.encode()
        answer.outputs.add(name="text_output", datatype="BYTES", shape=[1])
        answer.raw_output_contents.append(len(data).to_bytes(4, "little") + data)
        answer.outputs.add(name="cumulative_logprob", datatype="FP32", shape=[1])
        answer.raw_output_contents.append(struct.pack("<f", logprob))
        return answer
