"""What is known of TensorRT-LLM's Python interface, a file per band of versions, and how an installation differs.

Only what the backend relies on is recorded. Defaults that the sources leave open are not compared.
"""

import importlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

OPEN_DEFAULTS = frozenset(
    {
        ("tensorrt_llm.llmapi.EncodeCudaGraphConfig", "max_batch_size"),
        ("tensorrt_llm.llmapi.EncodeCudaGraphConfig", "enable_padding"),
        ("tensorrt_llm.SamplingParams", "temperature"),
    }
)


@dataclass(frozen=True, slots=True)
class Facts:
    """One band's interface.

    Attributes:
        objects: Dotted name to its facts: ``parameters`` as [name] or [name, default], in order unless
            ``keyword_only``; ``arguments`` that its variable keywords accept; ``bases`` of an exception.
        absent: Names that the band does not have.
    """

    band: str
    first: str
    before: str
    objects: Mapping[str, Mapping[str, Any]]
    absent: tuple[str, ...]

    @classmethod
    def read(cls, band: str) -> Self:
        """Read a band's file."""
        value = json.loads(Path(__file__).with_name(f"facts-{band}.json").read_text())
        versions = value["versions"]
        return cls(value["band"], versions["from"], versions["before"], value["objects"], tuple(value["absent"]))

    def covers(self, version: str) -> bool:
        """Say whether a version is of this band; pre-releases count as the release they lead to."""
        return _order(self.first) <= _order(version) < _order(self.before)


def bands() -> list[Facts]:
    """Return every band, oldest first."""
    names = sorted(p.stem.removeprefix("facts-") for p in Path(__file__).parent.glob("facts-*.json"))
    return [Facts.read(name) for name in names]


def _order(version: str) -> tuple[int, int]:
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


def differences(facts: Facts) -> list[str]:
    """Compare the installed ``tensorrt_llm`` with the facts, a sentence each; none when it is as recorded."""
    found = []
    for name, expected in facts.objects.items():
        value = _find(name)
        if value is None:
            found.append(f"{name} is missing")
            continue
        found += _compare(name, value, expected)
    found += [f"{name} exists, expected none before a later band" for name in facts.absent if _find(name) is not None]
    return found


def _find(name: str) -> Any:
    """Import the longest module of a dotted name and take the rest as attributes; None when there is none."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            value = getattr(value, part, None)
        return value
    return None


def _compare(name: str, value: Any, expected: Mapping[str, Any]) -> list[str]:
    if "bases" in expected:
        bases = [base.__name__ for base in inspect.getmro(value)]
        return [f"{name} does not derive from {base}" for base in expected["bases"] if base not in bases]
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError) as error:
        return [f"{name} has no signature: {error}"]
    there = signature.parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in there.values())
    found = []
    for entry in expected["parameters"]:
        parameter = entry[0]
        if parameter not in there:
            if not takes_any:
                found.append(f"{name} takes no {parameter!r}")
            continue
        default = there[parameter].default
        if len(entry) == 1 and default is not inspect.Parameter.empty and parameter != "self":
            found.append(f"{name}: {parameter!r} has the default {default!r}, expected none")
        if len(entry) > 1 and (name, parameter) not in OPEN_DEFAULTS and not _is_default(default, entry[1]):
            found.append(f"{name}: {parameter!r} has the default {_shown(default)}, expected {entry[1]!r}")
    if expected.get("variable_keywords") and not takes_any:
        found.append(f"{name} takes no variable keywords")
    known = [entry[0] for entry in expected["parameters"]]
    required = [
        p.name
        for p in there.values()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name not in (*known, "self")
    ]
    return [*found, *[f"{name} also demands {parameter!r}" for parameter in required]]


def _is_default(found: Any, expected: Any) -> bool:
    if found is inspect.Parameter.empty:
        return False
    value = getattr(found, "value", found)  # an enum's
    # Models of pydantic and dataclasses show a factory in place of an empty list.
    return bool(value == expected) or (expected in ([], {}) and not isinstance(value, int | float | str))


def _shown(value: Any) -> str:
    return "none" if value is inspect.Parameter.empty else repr(value)
