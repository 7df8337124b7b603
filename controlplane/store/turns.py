"""A lock that serves its waiters in the order they came."""

from collections import deque
from threading import Lock


class Turns:
    """Whose turn it is to write, among the threads of one process.

    SQLite's writers poll for its lock, up to 100 ms apart: one that asks again at once keeps every other out for as
    long as it goes on, while capture is read, say. In a line nobody waits for more than those before it.
    """

    def __init__(self) -> None:
        self._guard = Lock()
        self._is_taken = False
        self._waiting: deque[Lock] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._is_taken:
                self._is_taken = True
                return
            mine = Lock()
            mine.acquire()
            self._waiting.append(mine)
        mine.acquire()

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_taken = False
