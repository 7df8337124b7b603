"""What a caller of the control plane may be told.

ControlError
├── NotFound             UnknownSpecialist, UnknownRollout, UnknownJob, UnknownBundle
├── RequestInvalid       a field is missing or wrong
├── StepRefused          the state forbids it: an open rollout, an unaccepted candidate, no approval due
├── ApprovalRefused      a statement that does not count; ``reason`` is a closed code
└── DatabaseUnavailable  gone, full, or held by another process
"""


class Unusable(ValueError):
    """Something that a person named cannot be used: a file, a folder, a name. The message says what was expected."""


class DatabaseInvalid(Unusable):
    """A database cannot be used. The message never holds its URL, which may hold a password."""


class ControlError(Exception):
    """Any fact a caller may be told."""


class NotFound(ControlError):
    """Nothing goes by that name."""


class UnknownSpecialist(NotFound):
    """No specialist of that name is configured."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"specialist is {name!r}, expected one of {', '.join(known)}")


class UnknownRollout(NotFound):
    """No rollout has that id, and no specialist of that name has one."""

    def __init__(self, name: str) -> None:
        super().__init__(f"rollout is {name!r}, expected a rollout's id or a specialist that has one")


class UnknownJob(NotFound):
    """No job has that id."""

    def __init__(self, name: str) -> None:
        super().__init__(f"job is {name!r}, expected the id of a job")


class UnknownBundle(NotFound):
    """The bundle is missing, altered, or of another specialist."""


class RequestInvalid(ControlError):
    """A field of a request is missing or wrong."""


class StepRefused(ControlError):
    """The state has to change first."""


class ApprovalRefused(ControlError):
    """A signed statement does not count. ``reason`` is a closed code, as at the gateway."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DatabaseUnavailable(ControlError):
    """The database cannot be used for now; nothing of what was asked was kept."""

    def __init__(self) -> None:
        super().__init__("the database cannot be used for now, nothing was kept")
