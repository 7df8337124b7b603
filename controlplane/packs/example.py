"""One labelled text."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """A text, its true label, and the part of the traffic it comes from."""

    text: str
    label: str
    slice: str = ""
