"""Strict reading of JSON objects: every complaint names the field, its value and what was expected."""

import math
from collections.abc import Callable, Mapping
from typing import Any

MOST_WHOLE = 2**53  # numbers of canonical JSON are IEEE doubles


class FieldInvalid(ValueError):
    """A field of a contract document is missing, unknown or wrong."""


class Reader:
    """Take named fields out of one JSON object; ``done`` refuses what nobody asked for."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise FieldInvalid(f"{where} is {value!r}, expected an object")
        self._left = dict(value)
        self._where = where

    def _take(self, name: str, expected: str, is_valid: Callable[[Any], bool], default: Any = ...) -> Any:
        if name not in self._left:
            if default is not ...:
                return default
            raise FieldInvalid(f"{self._where}.{name} is missing, expected {expected}")
        value = self._left.pop(name)
        if not is_valid(value):
            raise FieldInvalid(f"{self._where}.{name} is {value!r}, expected {expected}")
        return value

    def text(self, name: str, default: Any = ..., *, choices: tuple[str, ...] = ()) -> str:
        """Take a string, one of ``choices`` when given."""
        expected = f"one of {', '.join(choices)}" if choices else "a non-empty string"

        def is_valid(value: Any) -> bool:
            return isinstance(value, str) and (value in choices if choices else value != "")

        found: str = self._take(name, expected, is_valid, default)
        return found

    def maybe_text(self, name: str) -> str | None:
        """Take a string or null; absent counts as null."""
        found: str | None = self._take(name, "a string or null", lambda v: v is None or isinstance(v, str), None)
        return found

    def integer(self, name: str, low: int, high: int, default: Any = ...) -> int:
        """Take a whole number in ``low..high``."""
        found: int = self._take(
            name,
            f"a whole number from {low} to {high}",
            lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high,
            default,
        )
        return found

    def number(self, name: str, low: float, high: float, default: Any = ...) -> float:
        """Take a number in ``low..high``."""
        found = self._take(
            name,
            f"a number from {low:g} to {high:g}",
            lambda v: isinstance(v, int | float) and not isinstance(v, bool) and low <= v <= high,
            default,
        )
        return float(found)

    def flag(self, name: str, default: Any = ...) -> bool:
        """Take true or false."""
        found: bool = self._take(name, "true or false", lambda v: isinstance(v, bool), default)
        return found

    def texts(self, name: str, default: Any = ...) -> tuple[str, ...]:
        """Take a list of distinct non-empty strings."""
        found = self._take(
            name,
            "a list of distinct non-empty strings",
            lambda v: isinstance(v, list) and all(isinstance(s, str) and s for s in v) and len(set(v)) == len(v),
            default,
        )
        return tuple(found)

    def items(self, name: str, default: Any = ...) -> list[Any]:
        """Take a list, its elements unchecked."""
        found: list[Any] = self._take(name, "a list", lambda v: isinstance(v, list), default)
        return found

    def object(self, name: str, default: Any = ...) -> dict[str, Any]:
        """Take an object, its contents unchecked."""
        found: dict[str, Any] = self._take(name, "an object", lambda v: isinstance(v, Mapping), default)
        return dict(found)

    def done(self) -> None:
        """Refuse fields that were never taken."""
        if self._left:
            raise FieldInvalid(f"{self._where} has unknown fields: {', '.join(sorted(self._left))}")


def check_json(value: Any, where: str) -> None:
    """Refuse what canonical JSON cannot say: dates, no numbers, whole numbers beyond 2**53, broken text.

    Raises:
        FieldInvalid: Names where it is.
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            check_json(name, f"a name in {where}")
            check_json(item, f"{where}.{name}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            check_json(item, f"{where}[{i}]")
    elif isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise FieldInvalid(f"{where} is {value!r}, expected text that UTF-8 can say")
    elif isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= MOST_WHOLE:
            raise FieldInvalid(f"{where} is {value}, expected less than 2**53")
    elif not (value is None or isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value))):
        raise FieldInvalid(f"{where} is {value!r}, expected text, a finite number, true or false, a list or an object")
