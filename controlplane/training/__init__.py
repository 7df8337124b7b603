"""Training: bundles made from labelled rows in a child process of its own."""

import protos.contract.stay_here  # noqa: F401 - before any module here imports OpenVINO
