"""A specialist as an Open Inference Protocol model: its tensors, its metadata, its Triton configuration."""

from protos import model_config_pb2, oip_pb2
from protos.contract.task import TaskSpec

VERSION = "1"
PLATFORM = "interlock"
MAX_ROWS = 64
DATATYPES = {"text": "BYTES", "number": "FP64", "integer": "INT64", "flag": "BOOL"}
OUTPUTS = {"label": "BYTES", "probabilities": "FP32", "score": "FP32", "decision": "BYTES"}
_CONFIG_TYPES = {
    "BYTES": model_config_pb2.TYPE_STRING,
    "FP64": model_config_pb2.TYPE_FP64,
    "FP32": model_config_pb2.TYPE_FP32,
    "INT64": model_config_pb2.TYPE_INT64,
    "BOOL": model_config_pb2.TYPE_BOOL,
}


def output_width(name: str, labels: int) -> int:
    """Return how many values of an output one row has."""
    return labels if name == "probabilities" else 1


def model_metadata(task: TaskSpec) -> oip_pb2.ModelMetadataResponse:
    """Describe a specialist's tensors; the first dimension of each is the batch."""
    answer = oip_pb2.ModelMetadataResponse(name=task.name, versions=[VERSION], platform=PLATFORM)
    for field in task.fields:
        answer.inputs.add(name=field.name, datatype=DATATYPES[field.kind], shape=[-1, 1])
    for name, datatype in OUTPUTS.items():
        answer.outputs.add(name=name, datatype=datatype, shape=[-1, output_width(name, len(task.labels))])
    return answer


def model_config(task: TaskSpec) -> model_config_pb2.ModelConfig:
    """Say the same as the metadata does, without the batch dimension, which ``max_batch_size`` stands for."""
    config = model_config_pb2.ModelConfig(
        name=task.name,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=MAX_ROWS,
        dynamic_batching=model_config_pb2.ModelDynamicBatching(),
        model_transaction_policy=model_config_pb2.ModelTransactionPolicy(decoupled=False),
    )
    for field in task.fields:
        config.input.add(
            name=field.name, data_type=_CONFIG_TYPES[DATATYPES[field.kind]], dims=[1], optional=not field.required
        )
    for name, datatype in OUTPUTS.items():
        config.output.add(name=name, data_type=_CONFIG_TYPES[datatype], dims=[output_width(name, len(task.labels))])
    return config
