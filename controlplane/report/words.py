"""How pages write numbers, times and digests."""

import html
from datetime import UTC, datetime
from typing import Any

_NAMED = ("model", "model_version"), ("server", "server_version")


def number(value: float | None) -> str:
    """Write a figure with four digits; nothing where there is none."""
    return "" if value is None else f"{value:.4g}"


def between(low: float | None, high: float | None) -> str:
    """Write an interval."""
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"


def share(value: float) -> str:
    """Write a share as a percentage."""
    return f"{100 * value:.1f} %"


def moment(seconds: float) -> str:
    """Write Unix seconds as a time."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def clock(at: str) -> str:
    """Write a time to the second."""
    return at[:19].replace("T", " ")


def seconds(at: str) -> float:
    """Read a time as Unix seconds."""
    return datetime.fromisoformat(at).timestamp()


def short(digest: str | None) -> str:
    """Write a digest's beginning as markup."""
    return "no primary" if digest is None else html.escape(digest.removeprefix("sha256:")[:12])


def compact(value: Any) -> str:
    """Write any value in a cell: digests cut, long texts too."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {compact(one)}" for name, one in value.items())
    text = str(value)
    return text[:19] if text.startswith("sha256:") else text[:200]


def answered(model: str, about: dict[str, Any]) -> str:
    """Say which servers elsewhere answered for a model in its evaluation, and whose its weights are."""
    protocol = f"{about['backend']}, {about['preset']}" if "preset" in about else about["backend"]
    servers = []
    for one in about["servers"]:
        parts = (" ".join(one[n] for n in names if n in one) for names in _NAMED)
        servers.append(f"{one['engine']} ({protocol}): {' on '.join(filter(None, parts)) or 'it told no name'}")
    return f"The {model} was answered for by {'; '.join(servers)}. {about['weights']}"


def nan_for_none(value: float | None) -> float:
    """Return a value that pictures leave out."""
    return float("nan") if value is None else value
