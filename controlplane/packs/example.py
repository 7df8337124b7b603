"""One labelled text."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """A text, its true label, the part of the traffic it comes from, and how many real cases it stands for."""

    text: str
    label: str
    slice: str = ""
    weight: float = 1.0
