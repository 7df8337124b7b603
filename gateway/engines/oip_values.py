"""Output tensors of an OIP answer as plain numbers and bytes, whichever of the two forms the server chose."""

import math
import struct
from typing import Any, NamedTuple

from gateway.engines.ports import Broken
from protos import oip_pb2

_RAW = {
    "BOOL": ("?", 1),
    "UINT8": ("B", 1),
    "UINT16": ("H", 2),
    "UINT32": ("I", 4),
    "UINT64": ("Q", 8),
    "INT8": ("b", 1),
    "INT16": ("h", 2),
    "INT32": ("i", 4),
    "INT64": ("q", 8),
    "FP16": ("e", 2),
    "FP32": ("f", 4),
    "FP64": ("d", 8),
}
_TYPED = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class Tensor(NamedTuple):
    """A tensor's declaration; -1 is any size."""

    datatype: str
    shape: tuple[int, ...]


def read_rows(answer: oip_pb2.ModelInferResponse, name: str, count: int) -> list[tuple[float, ...]]:
    """Read an output of as many rows as there were texts; raises Broken where it has another number of them."""
    values = numbers(read_outputs(answer), name)
    if count == 1:
        return [values]
    (shape,) = [list(output.shape) for output in answer.outputs if output.name == name]
    if len(shape) < 2 or shape[0] != count:
        raise Broken(f"output {name!r} has shape {shape}, expected {count} rows of label scores")
    width = len(values) // count
    return [values[at : at + width] for at in range(0, len(values), width)]


def numbers(outputs: dict[str, list[Any]], name: str) -> tuple[float, ...]:
    """Return an output's elements; raises Broken unless it is there and floating point."""
    values = outputs.get(name)
    if values is None:
        raise Broken(f"the answer has outputs {sorted(outputs)}, expected {name!r}")
    if not all(isinstance(value, float) for value in values):
        raise Broken(f"output {name!r} is not floating point")
    return tuple(values)


def read_outputs(answer: oip_pb2.ModelInferResponse) -> dict[str, list[Any]]:
    """Read every output's elements, row-major.

    Raises:
        Broken: Fewer or more elements than the shape says, or bytes that are no such tensor.
    """
    raws = answer.raw_output_contents
    if raws and len(raws) != len(answer.outputs):
        raise Broken(f"raw_output_contents has {len(raws)} entries, expected {len(answer.outputs)}")
    found = {}
    for i, output in enumerate(answer.outputs):
        name, datatype = output.name, output.datatype
        if raws:
            values = _unpack(name, datatype, raws[i])
        else:
            kept = _TYPED.get(datatype)
            if kept is None:
                raise Broken(f"output {name!r}: {datatype} comes raw only")
            values = list(getattr(output.contents, kept))
        expected = math.prod(output.shape)
        if len(values) != expected:
            raise Broken(f"output {name!r} has {len(values)} elements, expected {expected} as its shape says")
        found[name] = values
    return found


def _unpack(name: str, datatype: str, raw: bytes) -> list[Any]:
    if datatype == "BYTES":
        return _split(name, raw)
    if datatype == "BF16":
        # The upper half of a single-precision number.
        halves = struct.unpack(f"<{len(raw) // 2}H", raw[: len(raw) // 2 * 2])
        return [struct.unpack("<f", struct.pack("<I", half << 16))[0] for half in halves]
    if datatype not in _RAW:
        raise Broken(f"output {name!r} has the datatype {datatype!r}, which there is not")
    code, width = _RAW[datatype]
    if len(raw) % width:
        raise Broken(f"output {name!r} has {len(raw)} bytes, expected a multiple of {width}")
    return list(struct.unpack(f"<{len(raw) // width}{code}", raw))


def _split(name: str, raw: bytes) -> list[Any]:
    elements, at = [], 0
    while at < len(raw):
        length = int.from_bytes(raw[at : at + 4], "little")
        at += 4
        if at + length > len(raw):
            raise Broken(f"output {name!r} ends inside an element")
        elements.append(raw[at : at + length])
        at += length
    return elements
