"""What files of a form have to look like before anybody loads them: JSON, and the headers of safetensors."""

import json
from math import prod
from typing import Any, BinaryIO

from protos.contract.fields import FieldInvalid

MAX_HEADER = 100_000_000  # bytes, as the safetensors library has it
# Bits a number, by the names the format gives them.
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E5M2FNUZ", "F8_E4M3FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
}


def check_form(name: str, file: BinaryIO, size: int) -> None:
    """Refuse JSON and safetensors that are none; of safetensors only the header is read. Raises FieldInvalid."""
    if name.endswith(".json"):
        try:
            json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise FieldInvalid(f"{name} is not JSON: {error}") from error
    elif name.endswith(".safetensors"):
        _check_safetensors(name, file, size)


def _check_safetensors(name: str, file: BinaryIO, size: int) -> None:
    """Check the header against the length: every byte behind it is one tensor's, and every tensor has its bytes."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER):
        raise FieldInvalid(f"{name} is no safetensors: its header of {length} bytes is longer than the file")
    try:
        header = json.loads(file.read(length))
        found = sorted((*_span(tensor), key) for key, tensor in header.items() if key != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FieldInvalid(f"{name} is no safetensors: {type(error).__name__}: {error}") from error
    end = 0
    for begin, stop, key in found:
        if begin != end:
            raise FieldInvalid(f"{name}: {key} begins at byte {begin} of the tensors, expected {end}")
        end = stop
    if end != size - 8 - length:
        raise FieldInvalid(f"{name} has {size - 8 - length} bytes of tensors, expected {end}")


def _span(tensor: dict[str, Any]) -> tuple[int, int]:
    """Return where a tensor's bytes begin and end; raises ValueError, KeyError, TypeError."""
    begin, end = tensor["data_offsets"]
    shape, dtype = tensor["shape"], tensor["dtype"]
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (begin, end, *shape)):
        raise ValueError(f"data_offsets {tensor['data_offsets']!r} and shape {shape!r}, expected whole numbers")
    if dtype not in BITS:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(BITS)}")
    if 8 * (end - begin) != prod(shape) * BITS[dtype]:
        raise ValueError(f"{end - begin} bytes of {dtype}, expected those of shape {shape}")
    return begin, end
