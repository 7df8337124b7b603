"""A specialist's task: what it reads, what it may answer, what mistakes cost, what it says when it cannot."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import mul
from string import Formatter
from typing import Any, Self

from protos.contract.fields import FieldInvalid, Reader

FIELD_KINDS = ("text", "number", "integer", "flag")
SERVICE_CLASSES = ("hard", "soft", "batch")
_CUT = re.compile(r"(\.\d{1,7})?")  # at most so many characters of a field
LABEL_LOGPROBS = ("exact", "topk", "none")  # how exactly engines tell a label's probability, best first


@dataclass(frozen=True, slots=True)
class Field:
    """One named input. ``capture`` declares that its value may be recorded."""

    name: str
    kind: str
    required: bool
    capture: bool

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Read one field's declaration; raises FieldInvalid."""
        read = Reader(value, where)
        field = cls(
            name=read.text("name"),
            kind=read.text("kind", choices=FIELD_KINDS),
            required=read.flag("required", True),
            capture=read.flag("capture", False),
        )
        read.done()
        return field


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """Everything about a specialist that callers and engines must agree on.

    ``cost[label][decision]`` is the business cost of a decision when the label is true, in [0, 1].
    ``score`` in answers is the calibrated probability of ``score_label``.

    Attributes:
        service_class: What happens when there is no room. ``hard``: refused at once, told not to come again
            (auctions, fraud). ``soft``: waits its turn in the gateway while that is short (people wait).
            ``batch``: gets only what others leave.
        cache_ttl_ms: How long an answer may be given again to the same input by the same bundle; 0: never.
        holdback_decision: What units in holdback get, no model asked; None takes ``fallback_decision``.
        label_logprobs: The least exact engine it accepts.
    """

    name: str
    description: str
    fields: tuple[Field, ...]
    template: str
    labels: tuple[str, ...]
    decisions: tuple[str, ...]
    cost: tuple[tuple[float, ...], ...]
    score_label: str
    fallback_decision: str
    fallback_score: float
    on_refusal: str
    max_tokens: int
    max_input_bytes: int
    deadline_us: int
    reserve_us: int
    capture_bp: int
    service_class: str = "hard"
    cache_ttl_ms: int = 0
    holdback_decision: str | None = None
    label_logprobs: str = "exact"

    def decide(self, probabilities: Sequence[float]) -> int:
        """Choose the decision of least expected cost; the earliest listed wins a tie."""
        expected = [sum(map(mul, probabilities, costs)) for costs in zip(*self.cost, strict=True)]
        return expected.index(min(expected))

    @property
    def score_index(self) -> int:
        """Index of ``score_label``."""
        return self.labels.index(self.score_label)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that ``from_json`` reads."""
        value = asdict(self)
        value["fields"] = [asdict(field) for field in self.fields]
        for name in ("labels", "decisions"):
            value[name] = list(value[name])
        value["cost"] = [list(row) for row in self.cost]
        return value

    @classmethod
    def from_json(cls, value: Any, where: str = "task") -> Self:
        """Read and check a task.

        Raises:
            FieldInvalid: A field is missing, unknown, out of range, or contradicts another.
        """
        read = Reader(value, where)
        name = read.text("name")
        description = read.text("description")
        fields = tuple(Field.from_json(item, f"{where}.fields[{i}]") for i, item in enumerate(read.items("fields")))
        labels = read.texts("labels")
        decisions = read.texts("decisions")
        cost = tuple(tuple(row) if isinstance(row, list) else () for row in read.items("cost"))
        task = cls(
            name=name,
            description=description,
            fields=fields,
            template=read.text("template", "{text}"),
            labels=labels,
            decisions=decisions,
            cost=cost,
            score_label=read.text("score_label", choices=labels),
            fallback_decision=read.text("fallback_decision", choices=decisions),
            fallback_score=read.number("fallback_score", 0.0, 1.0),
            on_refusal=read.text("on_refusal", "fallback", choices=("fallback", "error")),
            max_tokens=read.integer("max_tokens", 4, 8192),
            max_input_bytes=read.integer("max_input_bytes", 1, 1 << 22),
            deadline_us=read.integer("deadline_us", 1_000, 60_000_000),
            reserve_us=read.integer("reserve_us", 0, 1_000_000),
            capture_bp=read.integer("capture_bp", 0, 10_000),
            service_class=read.text("service_class", "hard", choices=SERVICE_CLASSES),
            cache_ttl_ms=read.integer("cache_ttl_ms", 0, 86_400_000, 0),
            holdback_decision=read.maybe_text("holdback_decision"),
            label_logprobs=read.text("label_logprobs", "exact", choices=LABEL_LOGPROBS),
        )
        read.done()
        task._check(where)
        return task

    def _check(self, where: str) -> None:
        if not self.fields or len({f.name for f in self.fields}) != len(self.fields):
            raise FieldInvalid(f"{where}.fields must name at least one field, each once")
        if len(self.labels) < 2:
            raise FieldInvalid(f"{where}.labels is {list(self.labels)!r}, expected at least two")
        if self.holdback_decision is not None and self.holdback_decision not in self.decisions:
            raise FieldInvalid(
                f"{where}.holdback_decision is {self.holdback_decision!r}, expected one of {', '.join(self.decisions)}"
            )
        if not self.decisions:
            raise FieldInvalid(f"{where}.decisions is empty, expected at least one")
        shape_is_right = len(self.cost) == len(self.labels) and all(len(r) == len(self.decisions) for r in self.cost)
        if not shape_is_right or any(
            isinstance(c, bool) or not isinstance(c, int | float) or not 0 <= c <= 1 for row in self.cost for c in row
        ):
            raise FieldInvalid(
                f"{where}.cost is not {len(self.labels)} rows (labels) by {len(self.decisions)} decisions, each in 0..1"
            )
        names = {field.name for field in self.fields}
        try:
            asked = [part[1:3] for part in Formatter().parse(self.template) if part[1] is not None]
            # A width would fill memory at every request, and a part of a field is nothing that a caller gave.
            if any(name not in names or not _CUT.fullmatch(spec or "") for name, spec in asked):
                raise ValueError("a placeholder that is no field")
            self.template.format_map(dict.fromkeys(names, ""))
        except ValueError as error:
            raise FieldInvalid(
                f"{where}.template is {self.template!r}, expected placeholders of its fields only"
            ) from error
        if self.reserve_us >= self.deadline_us:
            raise FieldInvalid(
                f"{where}.reserve_us is {self.reserve_us}, expected less than deadline_us {self.deadline_us}"
            )


class InputInvalid(ValueError):
    """A caller's input breaks the task's schema; the message names the field."""


def check_input(task: TaskSpec, given: Any, size: int | None = None) -> None:
    """Refuse an ``interlock.v1.Input`` that the task does not declare; ``size`` is its message's, where it is known.

    A whole number may stand where a number is declared: JSON and command lines do not tell 20 from 20.0.

    Raises:
        InputInvalid: Both forms used, empty, over the size limit, unknown or missing field, wrong type.
    """
    if given.text and given.fields:
        raise InputInvalid("input.text and input.fields are both set, expected one of them")
    size = given.ByteSize() if size is None else size
    if size > task.max_input_bytes + 16:
        raise InputInvalid(f"input is {size} bytes, expected at most {task.max_input_bytes}")
    if not given.fields:
        only_text = len(task.fields) == 1 and task.fields[0].kind == "text"
        if not only_text:
            raise InputInvalid(f"input.fields is empty, expected {', '.join(f.name for f in task.fields)}")
        if not given.text.strip():
            raise InputInvalid("input.text is empty, expected text")
        return
    declared = {field.name: field for field in task.fields}
    for name, value in given.fields.items():
        field = declared.get(name)
        if field is None:
            raise InputInvalid(f"input.fields[{name!r}] is unknown, expected one of {', '.join(declared)}")
        kind = value.WhichOneof("kind")
        if kind != field.kind and (kind, field.kind) != ("integer", "number"):
            raise InputInvalid(f"input.fields[{name!r}] is {kind or 'empty'}, expected {field.kind}")
        if kind == "number" and value.number - value.number != 0:
            raise InputInvalid(f"input.fields[{name!r}] is {value.number}, expected a finite number")
    for field in task.fields:
        if field.required and field.name not in given.fields:
            raise InputInvalid(f"input.fields[{field.name!r}] is missing, expected {field.kind}")


def render(task: TaskSpec, given: Any) -> str:
    """Write a checked input as the text an engine reads."""
    if not given.fields:
        return task.template.format_map({task.fields[0].name: given.text})
    values: dict[str, Any] = {field.name: "" for field in task.fields}
    for name, value in given.fields.items():
        values[name] = getattr(value, value.WhichOneof("kind"))
    for field in task.fields:
        if field.kind == "number" and isinstance(values[field.name], int):
            values[field.name] = float(values[field.name])
    return task.template.format_map(values)
