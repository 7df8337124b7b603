"""A small task that tests share."""

from typing import Any

from protos.contract.task import Field, InputInvalid, TaskSpec, check_input

TASK = TaskSpec(
    name="brand",
    description="Is this page fit for an advertisement?",
    fields=(Field("text", "text", True, True),),
    template="{text}",
    labels=("safe", "unsafe"),
    decisions=("allow", "block"),
    cost=((0.0, 0.2), (1.0, 0.0)),
    score_label="unsafe",
    fallback_decision="block",
    fallback_score=1.0,
    on_refusal="fallback",
    max_tokens=32,
    max_input_bytes=2048,
    deadline_us=200_000,
    reserve_us=2_000,
    capture_bp=10_000,
)


def complaint(task: TaskSpec, given: Any) -> str:
    """Return what the task has against an input, nothing where it takes it."""
    try:
        check_input(task, given)
    except InputInvalid as error:
        return str(error)
    return ""
