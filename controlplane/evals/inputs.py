"""Rendered texts back as what a caller sends: what was captured or drawn as text can be asked again."""

from collections.abc import Sequence

from protos import decide_pb2
from protos.contract.features import read_fields, read_number
from protos.contract.task import TaskSpec


def input_of(task: TaskSpec, text: str) -> decide_pb2.Input:
    """Return the input that renders to ``text``; fields with an empty value are left out."""
    if len(task.fields) == 1 and task.fields[0].kind == "text":
        return decide_pb2.Input(text=text)
    given = decide_pb2.Input()
    values = read_fields(text, [field.name for field in task.fields])
    for field in task.fields:
        value = values.get(field.name, "")
        if field.kind == "text":
            if value:
                given.fields[field.name].text = value
            continue
        number = read_number(value)
        if number != number:
            continue
        match field.kind:
            case "number":
                given.fields[field.name].number = number
            case "integer":
                given.fields[field.name].integer = int(number)
            case _:
                given.fields[field.name].flag = bool(number)
    return given


def columns_of(task: TaskSpec, texts: Sequence[str]) -> dict[str, list[float]]:
    """Return what rendered texts say in each field of a number, by field, shape [texts]; NaN where it is missing."""
    names = [field.name for field in task.fields]
    numbers = [field.name for field in task.fields if field.kind in ("number", "integer")]
    if not numbers:
        return {}
    parsed = [read_fields(text, names) for text in texts]
    return {name: [read_number(values.get(name, "")) for values in parsed] for name in numbers}
