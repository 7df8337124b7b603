"""Import this before a library that reports its use to its makers: from our processes none does.

Without a person's word OpenVINO's converter (and NNCF through it) forks a process at each step that calls an analytics
service, and keeps an identifier in the home directory. Specialists are made from what must not leave a house, and a
fork of a process with threads may never end. Both libraries go on without the package that does it.
"""

import os
import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # "import" fails, as where it is not installed
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
