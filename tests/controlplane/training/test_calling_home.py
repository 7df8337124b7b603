"""Libraries that report their use to their makers do so from none of our processes: what is learned stays here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

for needed in ("torch", "openvino", "nncf"):
    pytest.importorskip(needed)

CONVERSION = """
import sys
watched = []
told = ("os.fork", "os.forkpty", "socket.connect", "socket.getaddrinfo", "subprocess.Popen")
sys.addaudithook(lambda event, args: watched.append(f"{event}{args}") if event in told else None)

import torch
from controlplane.training.ir import quantise, to_ir

class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = torch.nn.Embedding(50, 16), torch.nn.Linear(16, 2)

    def forward(self, input_ids, attention_mask):
        return self.head((self.words(input_ids) * attention_mask[:, :, None]).mean(1))

watched.clear()
ids = torch.arange(8).reshape(2, 4)
quantise(to_ir(Mean().eval(), ids, torch.ones_like(ids)), ids.tolist())
print(*watched, *({"openvino_telemetry"} & {name for name, module in sys.modules.items() if module}), sep="\\n")
"""


def test_a_conversion_asks_nobody_and_leaves_nothing_in_the_home_directory(tmp_path: Path) -> None:
    """Without a person's word OpenVINO's converter forks a process that calls an analytics service, and keeps an id."""
    ours = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(
        [sys.executable, "-c", CONVERSION],
        env={**ours, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []
    assert list(tmp_path.iterdir()) == []
