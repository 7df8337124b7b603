"""Text from a growing list of token ids: a character of several tokens is written once it is whole."""

from collections.abc import Callable, Iterable, Sequence

from gateway.engines.ports import Piece

UNFINISHED = "\ufffd"  # what tokenizers write for bytes that are no character yet


class TextPieces:
    """Collects ids and gives out the text they add."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._written = ""

    def add(self, ids: Iterable[int]) -> list[Piece]:
        """Take more ids; return the piece they complete, if any."""
        self._ids += ids
        text = self._decode(self._ids)
        if text.endswith(UNFINISHED) or not text.startswith(self._written) or text == self._written:
            return []
        return [self._piece(text)]

    def end(self) -> list[Piece]:
        """Return what is left, whole or not."""
        text = self._decode(self._ids) if self._ids else ""
        return [self._piece(text)] if len(text) > len(self._written) else []

    def _piece(self, text: str) -> Piece:
        added, self._written = text[len(self._written) :], text
        return Piece(added, len(self._ids))
