"""A bounded record of live traffic, written by its own thread; a request never waits for a disk.

The event loop appends to a deque and the writer takes from it: both are atomic, so the two
threads share no lock. What cannot be kept is counted by cause and the counts are recorded too.
"""

import contextlib
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from gateway.metrics import Metrics
from protos import capture_pb2
from protos.contract.segment import SegmentWriter

log = structlog.get_logger()


class CaptureLane:
    """Offer records; a full lane or a full disk drops them and says so."""

    def __init__(
        self,
        directory: Path,
        run_id: str,
        gateway_id: str,
        metrics: Metrics,
        *,
        max_records: int,
        quota_bytes: int,
        segment_bytes: int,
        flush_s: float,
        segment_s: float,
        seal: Callable[[], X25519PublicKey] | None,
    ) -> None:
        self._directory = directory
        self._run_id = run_id
        self._gateway_id = gateway_id
        self._metrics = metrics
        self._max_records = max_records
        self._quota_bytes = quota_bytes
        self._segment_bytes = segment_bytes
        self._flush_s = flush_s
        self._segment_s = segment_s
        self._seal = seal
        self._opened = 0.0
        self._queue: deque[capture_pb2.CaptureRecord] = deque()
        self._numbers = itertools.count()
        self._writer: SegmentWriter | None = None
        self._stopping = threading.Event()
        self._has_logged_failure = False
        self.drops: Counter[str] = Counter()  # of this lane and of the shadow's; the event loop's own
        self._disk_drops = 0  # written by the writer thread only
        self._reported: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def offer(self, record: capture_pb2.CaptureRecord) -> bool:
        """Keep a record if there is room; say whether it was kept."""
        if len(self._queue) >= self._max_records:
            self.drop("capture_queue_full")
            return False
        self._queue.append(record)
        return True

    def drop(self, cause: str) -> None:
        """Count something that was not recorded."""
        self.drops[cause] += 1
        self._metrics.drops.labels(cause).inc()

    def all_drops(self) -> dict[str, int]:
        """Return everything not recorded since the start, by cause."""
        return {**self.drops, **({"capture_disk": self._disk_drops} if self._disk_drops else {})}

    def close(self) -> None:
        """Write what is queued and stop."""
        self._stopping.set()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stopping.wait(self._flush_s)
            batch = [self._queue.popleft() for _ in range(len(self._queue))]
            self._add_drops(batch)
            if batch:
                self._write(batch)
        if self._writer is not None:
            self._writer.close()

    def _add_drops(self, batch: list[capture_pb2.CaptureRecord]) -> None:
        now = Counter(self.all_drops())
        new = now - self._reported
        if new:
            self._reported = now
            drops = capture_pb2.Drops(
                gateway_id=self._gateway_id, by_cause=dict(new), at_unix_ms=int(time.time() * 1000)
            )
            batch.append(capture_pb2.CaptureRecord(drops=drops))

    def _write(self, batch: list[capture_pb2.CaptureRecord]) -> None:
        try:
            writer = self._open()
            writer.append(batch)
            self._has_logged_failure = False
        except OSError as error:
            self._disk_drops += sum(1 for record in batch if not record.HasField("drops"))
            self._metrics.drops.labels("capture_disk").inc(len(batch))
            if not self._has_logged_failure:
                log.error("capture_disk", error=str(error))
                self._has_logged_failure = True

    def _open(self) -> SegmentWriter:
        is_old = time.monotonic() - self._opened >= self._segment_s
        if self._writer is not None and (is_old or self._writer.size >= self._segment_bytes):
            self._writer.close()
            self._writer = None
        if self._writer is None:
            used = self._used()
            if used >= self._quota_bytes:
                raise OSError(28, f"{used} bytes captured, the quota is {self._quota_bytes}")
            name = f"{time.time_ns() // 1_000_000:015d}-{self._run_id}-{next(self._numbers):06d}.seg"
            self._writer = SegmentWriter(self._directory / name, None if self._seal is None else self._seal())
            self._opened = time.monotonic()
        return self._writer

    def _used(self) -> int:
        used = 0
        for path in self._directory.glob("*.seg") if self._directory.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):  # the reader removes segments it has finished with
                used += path.stat().st_size
        return used
