"""What a specialist did, in Triton's words."""

from gateway.rpc.oip_config import VERSION
from gateway.serving.statistics import Duration, SpecialistStatistics
from protos import oip_pb2


def model_statistics(name: str, counted: SpecialistStatistics) -> oip_pb2.ModelStatistics:
    """Write a specialist's statistics.

    Every row of a request is an inference of its own. Engines put rows of many callers, and copies
    that only watch, into one batch; of each execution a row counts as its share. The time to read
    and write tensors is not measured, so those durations stay absent.
    """
    statistics = oip_pb2.ModelStatistics(name=name, version=VERSION, last_inference=int(counted.last_unix_s * 1000))
    statistics.inference_count = counted.success.count
    executions = 0.0
    engine = Duration()
    for batch_size, duration in sorted(counted.engine.items()):
        engine.count += duration.count
        engine.total_us += duration.total_us
        executions += duration.count / batch_size
        batch = statistics.batch_stats.add(batch_size=batch_size)
        batch.compute_infer.count = round(duration.count / batch_size)
        batch.compute_infer.ns = duration.total_us * 1000 // batch_size
    statistics.execution_count = round(executions)
    told = statistics.inference_stats
    for target, duration in (
        (told.success, counted.success),
        (told.fail, counted.failure),
        (told.queue, counted.queue),
        (told.compute_infer, engine),
    ):
        target.count = duration.count
        target.ns = duration.total_us * 1000
    told.cache_hit.count = counted.cache_hits
    return statistics
