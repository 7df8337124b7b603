"""The training child on a Ray cluster: ``python -m controlplane.training.on_ray --config FILE --address ADDRESS``.

To its parent it is a training child like any other. The node that runs it needs this package and the base model; data
go there as bytes and the bundle comes back as bytes, so no folder has to be shared.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from controlplane.training.child import Child, ConfigInvalid, run_child
from protos.contract.bundle import BundleStore

LOCAL = "local"  # a cluster of this machine alone, for as long as the job runs
_FILES = ("train_file", "dev_file")


def train_there(config: dict[str, Any], files: dict[str, bytes]) -> Iterator[str | bytes]:
    """Run the training child on this node; yield its lines, then the bundles it made as a tar archive."""
    with tempfile.TemporaryDirectory(prefix="interlock-ray-") as folder:
        here = Path(folder)
        for name, data in files.items():
            (here / name).write_bytes(data)
        mine = {name: str(here / name) for name in files} | {
            "bundles_dir": str(here / "bundles"),
            "checkpoint_dir": None,
        }
        (here / "config.json").write_text(json.dumps(config | mine))
        command = [sys.executable, "-m", "controlplane.training", "--foreground", "--config", str(here / "config.json")]
        # Its input stays open for as long as this node works on it: a cancelled task ends its child too.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:  # noqa: UP028 - Ray sends into this generator, which a file cannot take
                yield line
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            if (here / "bundles").is_dir():
                archive.add(here / "bundles", arcname=".")
        yield packed.getvalue()


def run(config: dict[str, Any], child: Child, address: str) -> dict[str, Any]:
    """Send a training to the cluster and bring its bundle home; raises ConfigInvalid with what the child said."""
    try:
        files = {name: Path(config[name]).read_bytes() for name in _FILES if config[name] is not None}
        store = BundleStore(Path(config["bundles_dir"]))
        threads = int(config.get("recipe", {}).get("threads", 1))
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ConfigInvalid(f"config: {type(error).__name__}: {error}") from error
    own: dict[str, Any] = {"num_cpus": threads, "include_dashboard": False}
    known = {"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}}
    ray.init(log_to_driver=False, runtime_env=known, **(own if address == LOCAL else {"address": address}))
    result: dict[str, Any] | None = None
    try:
        task = ray.remote(train_there).options(num_cpus=threads, num_returns="streaming", max_retries=0)
        stream: Any = task.remote(config, files)
        for reference in stream:
            said = ray.get(reference)
            if isinstance(said, bytes):
                _bring_home(said, store.root)
                continue
            event = json.loads(said)
            match event["event"]:
                case "progress":
                    child.say(event)
                case "done":
                    result = event["result"]
                case "failed":
                    raise ConfigInvalid(str(event["error"]))
    except ray.exceptions.RayError as error:
        raise ConfigInvalid(f"Ray: {error}") from error
    finally:
        ray.shutdown()
    if result is None:
        raise ConfigInvalid("the child on the cluster ended without a word")
    store.load(str(result["bundle_digest"]))  # every byte is what its name says, or this raises
    return result | {"executor": "ray"}


def _bring_home(packed: bytes, root: Path) -> None:
    """Unpack bundles beside the others; a folder that is there already holds the same bytes by its name."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".adding-") as staging:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(staging, filter="data")
        (root / "bases").mkdir(exist_ok=True)
        for path in [*Path(staging).glob("[0-9a-f]*"), *Path(staging).glob("bases/[0-9a-f]*")]:
            with contextlib.suppress(OSError):
                os.replace(path, root / path.relative_to(staging))


def main() -> int:
    """Entry point of the child process."""
    parser = argparse.ArgumentParser("python -m controlplane.training.on_ray", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="JSON configuration of a training")
    parser.add_argument("--address", default=LOCAL, help="of the cluster: HOST:PORT, auto, or local for one of its own")
    chosen = parser.parse_args()
    return run_child(lambda value, child: run(value, child, chosen.address), chosen.config)


if __name__ == "__main__":
    sys.exit(main())
