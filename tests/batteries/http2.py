"""A caller that says exactly what a test wants: HTTP/2 in order, and any bytes inside."""

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

import h2.config
import h2.connection
import h2.events

PATIENCE_S = 20.0


@dataclass
class Answer:
    """How one stream ended."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    was_reset: bool = False
    is_over: bool = False

    @property
    def status(self) -> int | None:
        """The gRPC status, wherever it was told."""
        told = self.trailers.get("grpc-status", self.headers.get("grpc-status"))
        return None if told is None else int(told)

    @property
    def message(self) -> str:
        return self.trailers.get("grpc-message", self.headers.get("grpc-message", ""))


class Caller:
    """One connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._h2.initiate_connection()
        self._flush()
        self.answers: dict[int, Answer] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def open(self, path: str, *extra: tuple[str, str], **changed: str) -> int:
        """Send headers; ``changed`` replaces some, with ``_`` for ``-``."""
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "test",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        headers.update({name.replace("_", "-"): value for name, value in changed.items()})
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, [*headers.items(), *extra])
        self.answers[stream] = Answer()
        self._flush()
        return stream

    def send(self, stream: int, *pieces: bytes, end: bool = True) -> None:
        """Send each piece as a DATA frame of its own; stop once the server has answered."""
        for i, piece in enumerate(pieces):
            if self.answers[stream].is_over:
                return
            while self._h2.local_flow_control_window(stream) < len(piece):
                if not self._read() or self.answers[stream].is_over:
                    return
            self._h2.send_data(stream, piece, end_stream=end and i == len(pieces) - 1)
            self._flush()

    def reset(self, stream: int) -> None:
        self._h2.reset_stream(stream, 8)
        self._flush()

    def finish(self, stream: int) -> Answer:
        """Read until the stream is over."""
        while not self.answers[stream].is_over and self._read():
            pass
        return self.answers[stream]

    def call(self, path: str, pieces: Iterable[bytes], *extra: tuple[str, str], **changed: str) -> Answer:
        """Make one whole call."""
        stream = self.open(path, *extra, **changed)
        self.send(stream, *pieces)
        return self.finish(stream)

    def _read(self) -> bool:
        data = self._socket.recv(65536)
        if not data:
            for answer in self.answers.values():
                answer.is_over = True
            return False
        for event in self._h2.receive_data(data):
            answer = self.answers.get(getattr(event, "stream_id", 0) or 0)
            if answer is None:
                continue
            if isinstance(event, h2.events.ResponseReceived):
                answer.headers = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                answer.body += event.data
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.TrailersReceived):
                answer.trailers = dict(event.headers)
            elif isinstance(event, h2.events.StreamEnded):
                answer.is_over = True
            elif isinstance(event, h2.events.StreamReset):
                answer.is_over = answer.was_reset = True
        self._flush()
        return True

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())
