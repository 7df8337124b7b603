"""What a gateway remembers on disk, written whole or not at all."""

import contextlib
import os
from pathlib import Path

import structlog
from google.protobuf.message import DecodeError

from protos import traffic_pb2

log = structlog.get_logger()


class StateFile:
    """One file with the last good plan, the highest ledger head, and what was taken back here."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "state.pb"
        self._current = directory / "current"

    def load(self) -> traffic_pb2.GatewayState:
        """Return what was saved last; nothing there is a new gateway, something unreadable is said."""
        try:
            return traffic_pb2.GatewayState.FromString(self.path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, DecodeError) as error:
            log.error("stored_state_unreadable", path=str(self.path), error=str(error))
        return traffic_pb2.GatewayState()

    def save(self, state: traffic_pb2.GatewayState) -> None:
        """Replace what is on disk; raises OSError and leaves the old state when the disk refuses."""
        staging = self.path.with_suffix(".tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with staging.open("wb") as file:
                file.write(state.SerializeToString())
                file.flush()
                os.fsync(file.fileno())
            os.replace(staging, self.path)
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError:
            with contextlib.suppress(OSError):
                staging.unlink()
            raise

    def note_current(self, at: float) -> None:
        """Remember that no newer plan stood at a time: as the time of an empty file, which costs next to nothing."""
        with contextlib.suppress(OSError):
            if not self._current.exists():
                self._current.touch()
            os.utime(self._current, (at, at))

    def current_at(self) -> float:
        """Return the last such time, in Unix seconds; 0 when none is known."""
        try:
            return self._current.stat().st_mtime
        except OSError:
            return 0.0
