"""What MLServer runs; copied beside its settings."""

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Constant(MLModel):  # type: ignore[misc]
    """Scores everything 0.5."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        score = ResponseOutput(name="score", datatype="FP32", shape=[1], data=[0.5])
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[score])
