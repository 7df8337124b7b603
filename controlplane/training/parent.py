"""Run the training child to its end, for somebody who waits for it."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from controlplane.errors import Unusable
from controlplane.training.child import FOREGROUND
from protos.contract.digest import canonical_json

LAST_LINES = 5


class TrainingFailed(Unusable):
    """The child said what it cannot use, or ended without a word."""


def train(
    config: Mapping[str, Any], folder: Path, tell: Callable[[float, str], None] = lambda share, said: None
) -> dict[str, Any]:
    """Train as a configuration says and return what the child tells of its bundle.

    Args:
        folder: Takes the configuration and what libraries print.
        tell: Hears the share done, 0 to 1, and what is being done.
    Raises:
        TrainingFailed: There is no bundle.
    """
    path, log = folder / "config.json", folder / "log.txt"
    path.write_bytes(canonical_json(dict(config)))
    command = [sys.executable, "-m", "controlplane.training", FOREGROUND, "--config", str(path)]
    event: dict[str, Any] = {}
    # The child ends with its input, which therefore stays open until it is done.
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors) as child,
    ):
        assert child.stdout is not None
        for line in child.stdout:
            event = json.loads(line)
            if event["event"] == "progress":
                tell(event["fraction"], event["message"])
    if event.get("event") != "done":
        lines = log.read_text("utf-8", "replace").splitlines()[-LAST_LINES:]
        said = str(event.get("error", "")).removeprefix("ConfigInvalid: ")
        raise TrainingFailed(said or f"training ended with {child.returncode}: {' | '.join(lines)}")
    result: dict[str, Any] = event["result"]
    return result
