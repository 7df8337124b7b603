"""The engine worker: one process that owns a device, its models and the queue in front of them."""

import protos.contract.stay_here  # noqa: F401 - before any module here imports OpenVINO
