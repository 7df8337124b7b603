"""Open Inference Protocol v2 and Triton's extensions of it: one model per specialist.

Triton's methods for loading models, shared memory, tracing and logging are not served: models
change only by an approved plan, and the rest is the operator's.
"""

from collections.abc import AsyncIterator

from gateway.errors import GatewayError, PromptRejected, UnknownSpecialist
from gateway.rpc.decide import decide_all
from gateway.rpc.oip_config import VERSION, model_config, model_metadata
from gateway.rpc.oip_row import RowReader, write_row
from gateway.rpc.oip_statistics import model_statistics
from gateway.rpc.oip_stream import interleave
from gateway.rpc.oip_tensors import read_question, write_answer
from gateway.rpc.ports import Gateway
from gateway.rpc.status import status_of
from gateway.rpc.wire import Call, Kind, Method, closing, parse
from protos import oip_pb2
from protos.contract.task import TaskSpec

SERVICE = "inference.GRPCInferenceService"
EXTENSIONS = ("classification", "parameters", "model_configuration", "statistics")
STREAM_CONCURRENCY = 64  # requests of one stream that are read and not yet answered
END_ON_ERROR = "triton_grpc_error"
FINAL = "triton_final_response"


class InferenceService:
    """Reads and writes the protocol's messages; the gateway does the work."""

    def __init__(self, gateway: Gateway, server_version: str) -> None:
        self._gateway = gateway
        self._server_version = server_version
        self._rows = RowReader(self._task)

    def methods(self) -> tuple[Method, ...]:
        """Return this service's rows of the method table."""
        handlers = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ServerMetadata": self.server_metadata,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "RepositoryIndex": self.repository_index,
            "ModelInfer": self.model_infer,
        }
        return (
            *(Method(f"/{SERVICE}/{name}", Kind.UNARY, handler) for name, handler in handlers.items()),
            Method(f"/{SERVICE}/ModelStreamInfer", Kind.BIDI_STREAM, self.model_stream_infer),
        )

    async def server_live(self, call: Call, payload: bytes) -> bytes:
        """Say that this process runs."""
        return oip_pb2.ServerLiveResponse(live=True).SerializeToString()

    async def server_ready(self, call: Call, payload: bytes) -> bytes:
        """Say whether every specialist can answer."""
        return oip_pb2.ServerReadyResponse(ready=self._gateway.is_ready()).SerializeToString()

    async def server_metadata(self, call: Call, payload: bytes) -> bytes:
        """Name the server and the extensions that are true of it."""
        return oip_pb2.ServerMetadataResponse(
            name="interlock", version=self._server_version, extensions=EXTENSIONS
        ).SerializeToString()

    async def model_ready(self, call: Call, payload: bytes) -> bytes:
        """Say whether one specialist can answer; not ready is OK and false."""
        request = parse(oip_pb2.ModelReadyRequest, payload)
        self._task(request.name, request.version)
        return oip_pb2.ModelReadyResponse(ready=self._gateway.is_ready_for(request.name)).SerializeToString()

    async def model_metadata(self, call: Call, payload: bytes) -> bytes:
        """Describe a specialist's tensors."""
        request = parse(oip_pb2.ModelMetadataRequest, payload)
        return model_metadata(self._task(request.name, request.version)).SerializeToString()

    async def model_config(self, call: Call, payload: bytes) -> bytes:
        """Describe a specialist as Triton's configuration does."""
        request = parse(oip_pb2.ModelConfigRequest, payload)
        config = model_config(self._task(request.name, request.version))
        return oip_pb2.ModelConfigResponse(config=config).SerializeToString()

    async def model_statistics(self, call: Call, payload: bytes) -> bytes:
        """Say what one specialist did since the gateway started, or every one where no name is given."""
        request = parse(oip_pb2.ModelStatisticsRequest, payload)
        if request.name:
            self._task(request.name, request.version)
        names = (request.name,) if request.name else self._gateway.specialists()
        found = [model_statistics(name, self._gateway.statistics(name)) for name in names]
        return oip_pb2.ModelStatisticsResponse(model_stats=found).SerializeToString()

    async def repository_index(self, call: Call, payload: bytes) -> bytes:
        """List the specialists of the plan in force."""
        request = parse(oip_pb2.RepositoryIndexRequest, payload)
        if request.repository_name:
            raise PromptRejected(f"repository_name is {request.repository_name[:80]!r}, expected none: there is one")
        index = oip_pb2.RepositoryIndexResponse()
        for name in self._gateway.specialists():
            if self._gateway.is_ready_for(name):
                index.models.add(name=name, version=VERSION, state="READY")
            elif not request.ready:
                index.models.add(name=name, version=VERSION, state="UNAVAILABLE", reason="no engine is ready")
        return index.SerializeToString()

    async def model_infer(self, call: Call, payload: bytes) -> bytes:
        """Decide every row of a request."""
        row = self._rows.read(payload)
        if row is None:
            return await self._infer(call, parse(oip_pb2.ModelInferRequest, payload))
        try:
            answer = await self._gateway.decide(row.question, call.deadline, call.arrived)
        except GatewayError as error:
            raise error.at("row[0]") from error.__cause__
        return write_row(row, answer)

    async def model_stream_infer(self, call: Call, payloads: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Decide requests as they come, each with one answer that bears its id; answers may overtake each other.

        An error is an answer too, unless the caller asked that the first one ends the stream.
        """
        ends_on_error = call.metadata.get(END_ON_ERROR) == "true"

        async def answer(payload: bytes) -> bytes:
            request = parse(oip_pb2.ModelInferRequest, payload)
            answer = oip_pb2.ModelStreamInferResponse()
            try:
                answer.infer_response.MergeFromString(await self._infer(call, request))
            except Exception as error:
                if ends_on_error:
                    raise
                answer.error_message = status_of(error, call.path).message
                answer.infer_response.id = request.id
                answer.infer_response.model_name = request.model_name
                answer.infer_response.model_version = request.model_version
            # Of a model that gives one answer a request every answer is the last. Triton says so even unasked.
            answer.infer_response.parameters[FINAL].bool_param = True
            return answer.SerializeToString()

        async with closing(interleave(payloads, answer, STREAM_CONCURRENCY)) as answers:
            async for ready in answers:
                yield ready

    async def _infer(self, call: Call, request: oip_pb2.ModelInferRequest) -> bytes:
        task = self._task(request.model_name, request.model_version)
        asked = read_question(request, task)
        if len(asked.questions) == 1:  # no task of its own, no check before the check
            try:
                answers = [await self._gateway.decide(asked.questions[0], call.deadline, call.arrived)]
            except GatewayError as error:
                raise error.at("row[0]") from error.__cause__
        else:
            answers = await decide_all(self._gateway, asked.questions, call, "row")
        return write_answer(request.id, task, asked, answers)

    def _task(self, name: str, version: str) -> TaskSpec:
        task = self._gateway.task(name)
        if version not in ("", VERSION):
            raise UnknownSpecialist(name, version)
        return task
