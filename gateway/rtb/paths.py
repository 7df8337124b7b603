"""Where in an auction a specialist's input stands, such as ``request.site.content.title``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from protos import openrtb_pb2
from protos.contract.fields import FieldInvalid

COUNT = "#"  # OpenRTB has fields named "count"
ROOTS = {
    "request": openrtb_pb2.BidRequest.DESCRIPTOR,
    "imp": openrtb_pb2.BidRequest.Imp.DESCRIPTOR,
    "bid": openrtb_pb2.BidResponse.Bid.DESCRIPTOR,
    "seatbid": openrtb_pb2.BidResponse.SeatBid.DESCRIPTOR,
    "deal": openrtb_pb2.BidRequest.Deal.DESCRIPTOR,
}

Scalar = str | float | int | bool
PER = " / "


@dataclass(frozen=True, slots=True)
class Path:
    """A dotted path from one of ``ROOTS``, checked against OpenRTB's schema when made.

    Lists on the way are followed into every element. A path that ends in ``.#`` reads how many
    elements the list before it has; otherwise it ends at scalars.
    """

    text: str
    root: str
    steps: tuple[FieldDescriptor, ...]
    is_count: bool

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Read a path; raises FieldInvalid naming the step that OpenRTB does not have."""
        root, *names = text.split(".")
        if root not in ROOTS or not names:
            raise FieldInvalid(f"{where} is {text!r}, expected a path that begins with one of {', '.join(ROOTS)}")
        is_count = names[-1] == COUNT
        descriptor: Any = ROOTS[root]
        steps: list[FieldDescriptor] = []
        for name in names[:-1] if is_count else names:
            found = descriptor.fields_by_name.get(name) if descriptor is not None else None
            if found is None:
                raise FieldInvalid(f"{where} is {text!r}, but OpenRTB has no field {name!r} there")
            steps.append(found)
            descriptor = found.message_type
        if is_count and not (steps and steps[-1].is_repeated):
            raise FieldInvalid(f"{where} is {text!r}, expected a list before {COUNT!r}")
        if not is_count and descriptor is not None:
            raise FieldInvalid(f"{where} is {text!r}, expected a path that ends at a value")
        return cls(text, root, tuple(steps), is_count)

    def read(self, roots: Mapping[str, Message]) -> list[Scalar]:
        """Return the values found, in order; none where a root or a field on the way is absent."""
        start = roots.get(self.root)
        if start is None:
            return []
        found: list[Any] = [start]
        for step in self.steps:
            name = step.name
            if step.is_repeated:
                found = [item for message in found for item in getattr(message, name)]
            else:
                found = [getattr(message, name) for message in found if message.HasField(name)]
        return [len(found)] if self.is_count else found


@dataclass(frozen=True, slots=True)
class Ratio:
    """The first value of one path divided by that of another, such as ``imp.bidfloor / bid.price``."""

    text: str
    above: Path
    below: Path

    def read(self, roots: Mapping[str, Message]) -> list[Scalar]:
        """Return the quotient; none where a value is absent, no number, or the divisor is 0."""
        values = [next(iter(path.read(roots)), None) for path in (self.above, self.below)]
        above, below = values
        if not isinstance(above, int | float) or not isinstance(below, int | float) or not below:
            return []
        return [above / below]


def parse_source(text: str, where: str) -> Path | Ratio:
    """Read a path or the quotient of two; raises FieldInvalid."""
    above, slash, below = text.partition(PER)
    if not slash:
        return Path.parse(text, where)
    return Ratio(text, Path.parse(above, where), Path.parse(below, where))
