"""What a worker is told when it starts."""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from protos.contract.cached_store import MAX_BYTES

MAX_SOCKET_PATH_BYTES = 107  # sun_path on Linux, less its ending zero


@dataclass(frozen=True, slots=True)
class Settings:
    """A worker's settings, read once.

    Attributes:
        max_queue: Jobs that may wait; more are answered OVERLOADED.
        token_budget: Most tokens in one batch, counted as rows times the longest row.
        threads: CPU threads one inference may use.
        bundles_url: Where bundles and bases come from that are not in the directories; empty: from nowhere.
        bundles_max_bytes: Of what was fetched from there, what stays in each directory beside what is held; 0: all.
        bases: Directory of base models; None for the folder ``bases`` of the bundle store.
        max_rank: Highest rank of a LoRA adapter.
        max_adapters: Most adapters on one base.
        allow_faults: Whether rollback drills may break this worker on purpose.
        drain_timeout_s: How long queued jobs may take to finish after a signal to stop.
    """

    socket: Path
    bundles: Path
    worker_id: str
    max_queue: int = 1024
    token_budget: int = 512
    threads: int = 1
    bundles_url: str = ""
    bundles_max_bytes: int = MAX_BYTES
    bases: Path | None = None
    max_rank: int = 64
    max_adapters: int = 8
    allow_faults: bool = False
    drain_timeout_s: float = 2.0


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"is {text!r}, expected a whole number from {low} to {high}")
        return value

    return parse


def _socket(text: str) -> Path:
    if not text or len(os.fsencode(text)) > MAX_SOCKET_PATH_BYTES:
        raise argparse.ArgumentTypeError(f"is {text!r}, expected a path of 1 to {MAX_SOCKET_PATH_BYTES} bytes")
    return Path(text)


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Read settings from the command line; wrong use exits with status 2."""
    parser = argparse.ArgumentParser(prog="python -m gateway.worker", description=__doc__, allow_abbrev=False)
    parser.add_argument("--socket", type=_socket, required=True, help="Unix socket to listen on")
    parser.add_argument("--bundles", type=Path, required=True, help="directory of the bundle store")
    parser.add_argument("--max-queue", type=_whole(1, 1 << 20), default=1024, help="jobs that may wait")
    parser.add_argument("--token-budget", type=_whole(1, 1 << 24), default=512, help="most tokens in one batch")
    parser.add_argument("--threads", type=_whole(1, 1024), default=1, help="CPU threads one inference may use")
    parser.add_argument("--bundles-url", default="", help="fsspec URL of a store that fills those directories")
    parser.add_argument(
        "--bundles-max-bytes",
        type=_whole(0, 1 << 50),
        default=MAX_BYTES,
        help="most bytes of fetched bundles; 0: no limit",
    )
    parser.add_argument("--bases", type=Path, help="directory of base models, BUNDLES/bases unless told")
    parser.add_argument("--max-rank", type=_whole(1, 1024), default=64, help="highest rank of a LoRA adapter")
    parser.add_argument("--max-adapters", type=_whole(1, 1024), default=8, help="most adapters on one base")
    parser.add_argument("--allow-faults", action="store_true", help="accept InjectFault, for drills")
    parser.add_argument("--worker-id", default=f"worker-{os.getpid()}", help="name in Hello and in logs")
    return Settings(**vars(parser.parse_args(arguments)))
