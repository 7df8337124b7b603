"""The texts in JSON that is still being written."""

import json


class JsonTexts:
    """Reads JSON piece by piece and gives its text values as soon as they are complete, each with its key.

    What is no JSON gives no texts or odd ones; it never raises.
    """

    def __init__(self) -> None:
        self._keys: list[str] = []  # one for each open object or list: the key that its values are of
        self._text: list[str] | None = None  # the open text's characters as written
        self._is_escaped = False
        self._closed: str | None = None  # a text whose next character says whether it is a key

    def feed(self, piece: str) -> list[tuple[str, str]]:
        """Return key and text of the values that are complete with this piece."""
        found: list[tuple[str, str]] = []
        for character in piece:
            if self._text is not None:
                self._inside(character, self._text)
            elif not character.isspace():
                self._outside(character, found)
        return found

    def end(self) -> list[tuple[str, str]]:
        """Return what was complete but for the character behind it: JSON that is one text alone."""
        found: list[tuple[str, str]] = []
        self._outside("", found)
        return found

    def _inside(self, character: str, text: list[str]) -> None:
        if character == '"' and not self._is_escaped:
            self._closed, self._text = _read("".join(text)), None
            return
        text.append(character)
        self._is_escaped = character == "\\" and not self._is_escaped

    def _outside(self, character: str, found: list[tuple[str, str]]) -> None:
        closed, self._closed = self._closed, None
        if closed is not None:
            if character == ":" and self._keys:
                self._keys[-1] = closed
            else:
                found.append((self._keys[-1] if self._keys else "", closed))
        if character == '"':
            self._text = []
        elif character in ("{", "["):
            self._keys.append(self._keys[-1] if self._keys else "")
        elif character in ("}", "]") and self._keys:
            self._keys.pop()


def _read(raw: str) -> str:
    try:
        text: str = json.loads(f'"{raw}"', strict=False)
    except ValueError:
        text = raw
    # JSON may escape half of a character, which no other message can carry.
    return text.encode("utf-8", "replace").decode("utf-8")
