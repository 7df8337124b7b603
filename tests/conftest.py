"""Settings of every test."""

import os

# Two test processes share two cores: numeric libraries that each take both wait for each other, up to fifty times as
# long. Read when such a library is imported, also by every process that a test starts.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from hypothesis import settings  # noqa: E402

import protos.contract.stay_here  # noqa: E402, F401 - before any test imports OpenVINO

# Where a failure stops a landing the examples are the same each time; a person's runs go on looking for new ones.
settings.register_profile("steady", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("steady")
