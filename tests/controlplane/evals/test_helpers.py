"""What measuring starts does not outlive it."""

import os
import select
import subprocess
import sys

PARENT = """
import sys, time
from controlplane.evals import helpers
child = helpers.start([sys.executable, "-c", "import time; time.sleep(600)"], sys.stderr.buffer)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_helper_ends_with_the_process_that_started_it_also_when_that_one_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        watched = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    ended, _, _ = select.select([watched], [], [], 60.0)
    os.close(watched)
    assert ended
