"""OpenRTB JSON to messages and back, without loss.

The schema cannot hold everything that travels as OpenRTB JSON: ``ext`` is anybody's, exchanges add
fields, and values come in other types than declared. What a message would not give back exactly as
it came is kept beside it, at the place where it stood.
"""

import json
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)

_INTEGERS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63),
}


class OpenRtbInvalid(ValueError):
    """The bytes are not one JSON object."""


@dataclass(frozen=True, slots=True)
class Document(Generic[M]):
    """A message and, by the names and places of JSON, what it does not hold.

    ``rest`` is a tree: at an object of the schema a dictionary of its fields, at a list of such
    objects a dictionary by index, elsewhere the JSON value itself wrapped in ``Kept``.
    """

    message: M
    rest: dict[Any, Any]


@dataclass(frozen=True, slots=True)
class Kept:
    """A JSON value exactly as it came."""

    value: Any


def loads(kind: type[M], data: bytes | str) -> Document[M]:
    """Read JSON text; raises OpenRtbInvalid."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OpenRtbInvalid(f"not JSON: {error}") from error
    return from_json(kind, value)


def from_json(kind: type[M], value: Any) -> Document[M]:
    """Read a JSON object; raises OpenRtbInvalid. Wrong types are kept, not refused: exchanges send them."""
    if not isinstance(value, dict):
        raise OpenRtbInvalid(f"{type(value).__name__} at the top, expected an object")
    message = kind()
    return Document(message, _read(message, value))


def to_json(document: Document[M]) -> dict[str, Any]:
    """Write the JSON object that ``from_json`` was given, with whatever the message has changed since."""
    return _write(document.message, document.rest)


def _read(message: Message, value: dict[str, Any]) -> dict[Any, Any]:
    fields: Any = message.DESCRIPTOR.fields_by_name
    rest: dict[Any, Any] = {}
    for name, said in value.items():
        field = fields.get(name)
        if field is None or said is None or _is_taken(message, field):
            rest[name] = Kept(said)
        elif field.is_repeated:
            kept = _read_list(message, field, said)
            if kept is not None:
                rest[name] = kept
        elif field.message_type is not None:
            if not isinstance(said, dict) or field.message_type.full_name.startswith("google."):
                rest[name] = Kept(said)
                continue
            child = getattr(message, name)
            child.SetInParent()
            if kept := _read(child, said):
                rest[name] = kept
        else:
            scalar = _scalar(field, said)
            if scalar is not None:
                setattr(message, name, scalar)
            if scalar is None or not _is_same(_json(field, scalar), said):
                rest[name] = Kept(said)
    return rest


def _is_taken(message: Message, field: FieldDescriptor) -> bool:
    """Say whether another field of the same oneof is set: a request with site and app keeps the first."""
    return field.containing_oneof is not None and message.WhichOneof(field.containing_oneof.name) is not None


def _read_list(message: Message, field: FieldDescriptor, said: Any) -> Any:
    if not isinstance(said, list) or not said or _is_map(field):
        return Kept(said)
    target = getattr(message, field.name)
    if field.message_type is not None:
        if not all(isinstance(item, dict) for item in said):
            return Kept(said)
        found = {i: kept for i, item in enumerate(said) if (kept := _read(target.add(), item))}
        return found or None
    scalars = [_scalar(field, item) for item in said]
    if any(scalar is None for scalar in scalars):
        return Kept(said)
    target.extend(scalars)
    if all(_is_same(_json(field, scalar), item) for scalar, item in zip(scalars, said, strict=True)):
        return None
    return Kept(said)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _scalar(field: FieldDescriptor, said: Any) -> Any:
    """Return what a field can hold of a JSON value, None for nothing."""
    if field.type == FieldDescriptor.TYPE_STRING:
        # A lone surrogate is valid JSON and no text.
        return said if isinstance(said, str) and said.isascii() or isinstance(said, str) and _is_utf8(said) else None
    if field.type == FieldDescriptor.TYPE_BOOL:
        return bool(said) if isinstance(said, bool | int | float) and said in (0, 1) else None
    if isinstance(said, bool) or not isinstance(said, int | float):
        return None
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return float(said) if abs(said) < 2**1000 else None
    low, high = _INTEGERS.get(field.type, (0, 0))
    return int(said) if low <= said < high and int(said) == said else None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _json(field: FieldDescriptor, scalar: Any) -> Any:
    """Write a value as OpenRTB JSON has it: flags are 0 and 1, whole prices have no point."""
    if field.type == FieldDescriptor.TYPE_BOOL:
        return int(scalar)
    if field.type == FieldDescriptor.TYPE_DOUBLE and scalar == int(scalar) and abs(scalar) < 2**53:
        return int(scalar)
    return scalar


def _is_same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)


def _write(message: Message, rest: dict[Any, Any]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    field: Any
    for field, held in message.ListFields():
        if field.is_extension:
            continue
        kept = rest.get(field.name)
        if field.message_type is None:
            items = list(held) if field.is_repeated else held
            if isinstance(kept, Kept) and _read_again(field, kept.value) == items:
                continue  # unchanged: as it came
            value[field.name] = [_json(field, item) for item in items] if field.is_repeated else _json(field, items)
        elif isinstance(kept, Kept):
            continue
        elif field.is_repeated:
            places = kept or {}
            value[field.name] = [_write(item, places.get(i, {})) for i, item in enumerate(held)]
        else:
            value[field.name] = _write(held, kept or {})
    for name, kept in rest.items():
        if isinstance(kept, Kept) and name not in value:
            value[name] = kept.value
    return value


def _read_again(field: FieldDescriptor, said: Any) -> Any:
    if field.is_repeated:
        return [_scalar(field, item) for item in said] if isinstance(said, list) else None
    return _scalar(field, said)
