"""What a bundle asks of a server with an OpenAI-like HTTP interface, and how it is written for each preset."""

import json
import re
from dataclasses import dataclass
from typing import Any

from gateway.domain.capabilities import Constraint
from gateway.engines.ports import InputRefused, Served
from gateway.engines.trtllm_http import adapter_id
from protos.contract.engines import OPENAI_PRESETS, openai_method
from protos.contract.fields import FieldInvalid, Reader

DEFAULT_TOP = 20  # vLLM's own limit unless its operator raises it
MAX_TOP = 1000


@dataclass(frozen=True, slots=True)
class Listed:
    """What a server says of one of its models, as far as it does.

    Attributes:
        longest: Tokens it reads.
        root: Where it was loaded from.
        parent: The base model of an adapter.
    """

    longest: int | None
    root: str | None
    parent: str | None


class Settings:
    """A bundle's ``engine`` table, checked."""

    def __init__(self, served: Served) -> None:
        read = Reader(served.settings, "manifest.engine")
        read.text("backend")
        self.preset = read.text("preset", choices=OPENAI_PRESETS)
        read.maybe_text("method")
        self.method = openai_method(served.settings)
        self.model = read.text("model")
        labels = len(served.task.labels)
        self.top = read.integer("top_logprobs", labels, MAX_TOP, max(DEFAULT_TOP, labels))
        self.adapter, self.adapter_path, self.adapter_id = _adapter(read.object("adapter", {}))
        read.object("verbalizers", {})
        read.done()
        if self.method in ("completions", "score") and not served.answer_ids:
            raise FieldInvalid("tokenizer.json is missing, expected it: labels are asked for as tokens")
        if self.adapter and not self.takes_adapters:
            raise FieldInvalid(f"manifest.engine.adapter is given, expected none: /v1/{self.method} has no adapters")

    @property
    def asks_for_ids(self) -> bool:
        """Whether a completion is asked for the label tokens' own log-probabilities."""
        return self.preset == "vllm" and self.method == "score"

    @property
    def asks_generate(self) -> bool:
        """Whether SGLang's own interface is asked for them."""
        return self.preset == "sglang" and self.method == "score"

    @property
    def reads_tokens(self) -> bool:
        """Whether labels are found among what is told of the one token that is written."""
        return self.method in ("completions", "score")

    @property
    def takes_adapters(self) -> bool:
        """Whether each request may name an adapter."""
        return self.reads_tokens or (self.method == "classify" and self.preset == "vllm")


def problem_of_adapter(settings: Settings, found: Listed | None) -> str:
    """Say what is wrong with what the server has under an adapter's name: nothing, other weights, another base."""
    if found is None:
        return f"the server has no adapter {settings.adapter!r} any more"
    wanted = {"path": (found.root, settings.adapter_path), "base model": (found.parent, settings.model)}
    for what, (said, expected) in wanted.items():
        if said and expected and said != expected:
            return f"the server's adapter {settings.adapter!r} has {what} {said!r}, expected {expected!r}"
    return ""


def constrained(preset: str, constraint: Constraint | None) -> dict[str, Any]:
    """Write what generated text is held to, as a preset's servers want it; raises InputRefused."""
    if constraint is None:
        return {}
    schema: Any = None
    if constraint.kind == "json_schema":
        try:
            schema = json.loads(constraint.pattern)
        except ValueError as error:
            raise InputRefused(f"constraint.json_schema is not JSON: {error}") from error
    choice = "(" + "|".join(map(re.escape, constraint.choices)) + ")"
    if preset == "vllm":
        key = {"json_schema": "json", "regex": "regex", "choice": "choice"}[constraint.kind]
        value = {"json": schema, "regex": constraint.pattern, "choice": list(constraint.choices)}[key]
        return {"structured_outputs": {key: value}}
    if preset == "sglang":
        if schema is not None:
            return {"json_schema": constraint.pattern}
        return {"regex": constraint.pattern or choice}
    if schema is not None:  # as json_schema, one that has a "schema" of its own would be taken for a wrapper of it
        return {"response_format": {"type": "json", "schema": schema}}
    return {"response_format": {"type": "regex", "regex": constraint.pattern or choice}}


def _adapter(value: dict[str, Any]) -> tuple[str, str, int]:
    if not value:
        return "", "", 0
    read = Reader(value, "manifest.engine.adapter")
    name, path = read.text("name"), read.maybe_text("path") or ""
    number = read.integer("id", 1, 2**31 - 1, adapter_id(name, path))
    read.done()
    return name, path, number
