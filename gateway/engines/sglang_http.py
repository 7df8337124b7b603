"""What an SGLang server tells of itself over HTTP, and what that means for a bundle.

Its ``/v1/models`` says the model's context, of which the scheduler keeps a few tokens for itself; it answers under any
model's name; and started with ``--enable-mis`` it puts a delimiter between a question and its items, so that
``/v1/score`` no longer answers for the text it was asked about.
"""

from collections.abc import Mapping
from typing import Any

from gateway.engines.openai_answers import reading
from gateway.engines.openai_settings import Settings
from gateway.engines.ports import Identity
from gateway.engines.serving import with_adapter
from gateway.serving.ports import BundleRefused
from protos.contract.task import TaskSpec

SERVER = "/server_info"
MODEL = "/model_info"


def check_serves(settings: Settings, task: TaskSpec, server: Mapping[str, Any]) -> None:
    """Refuse a bundle that this server would answer otherwise, or not at all."""
    with reading(SERVER):
        longest = int(server["max_req_input_len"]) - 1  # the limit itself is refused
        joins_items = bool(server.get("enable_mis"))
    if settings.method != "classify" and longest < task.max_tokens:
        raise BundleRefused(f"the server reads {longest} tokens, expected {task.max_tokens}")
    if settings.method == "score" and joins_items:
        raise BundleRefused("the server joins the items of a question, expected it to run without --enable-mis")


def identity_of(settings: Settings, server: Mapping[str, Any], model: Mapping[str, Any]) -> Identity:
    """Say which weights and which server these are."""
    with reading(f"{MODEL} or {SERVER}"):
        version = str(model.get("weight_version") or "")
        name = with_adapter(str(model["model_path"]), settings.adapter, settings.adapter_path)
        return Identity(name, version, "sglang", str(server["version"]))
