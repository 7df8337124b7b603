"""What a process tells of itself."""

import subprocess
import sys

STORY = """
import structlog
from protos.contract.process_log import log_to_stderr

log_to_stderr()
log = structlog.get_logger()

def decide(text):
    raise KeyError("label")

try:
    decide("the patient" + " is ill")
except KeyError:
    log.exception("decision_failed", decision="d-1")
"""


def test_a_traceback_in_the_log_says_where_and_not_what_the_variables_held() -> None:
    told = subprocess.run([sys.executable, "-c", STORY], capture_output=True, text=True, check=True)
    assert "decision_failed" in told.stderr
    assert "decision=d-1" in told.stderr
    assert "in decide" in told.stderr
    assert "KeyError: 'label'" in told.stderr
    assert "the patient is ill" not in told.stderr
    assert told.stdout == ""
