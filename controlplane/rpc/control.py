"""What the command line asks, answered from the store; protobuf on one side, rows on the other."""

from controlplane.rpc.readings import ReadingCalls
from controlplane.rpc.records import RecordCalls
from controlplane.rpc.rollout import RolloutCalls
from controlplane.rpc.specialist import SpecialistCalls
from protos import control_pb2_grpc


class ControlService(SpecialistCalls, RolloutCalls, ReadingCalls, RecordCalls, control_pb2_grpc.ControlServiceServicer):
    """Every call is one transaction."""
