import protos.contract.stay_here  # noqa: F401 - before any module here imports OpenVINO
