"""What an SGLang server is asked for in its own way over HTTP, and what it tells of itself.

Its ``/v1/models`` says the model's context, of which the scheduler keeps a few tokens for itself, and it answers under
any model's name. ``/generate`` is not of the OpenAI-like interface: there alone label tokens are asked for by their ids
and an adapter may be named. A batch in which a prompt has no token ends the whole server.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.engines.openai_answers import reading
from gateway.engines.openai_settings import Settings
from gateway.engines.ports import Identity, ScoreJob
from gateway.engines.serving import with_adapter
from gateway.serving.ports import BundleRefused
from protos.contract.task import TaskSpec

GENERATE = "/generate"
SERVER = "/server_info"
MODEL = "/model_info"


def check_serves(settings: Settings, task: TaskSpec, server: Mapping[str, Any]) -> None:
    """Refuse a bundle that this server would answer otherwise, or not at all."""
    with reading(SERVER):
        longest = int(server["max_req_input_len"]) - 1  # the limit itself is refused
    if settings.method != "classify" and longest < task.max_tokens:
        raise BundleRefused(f"the server reads {longest} tokens, expected {task.max_tokens}")


def may_share(settings: Settings, job: ScoreJob) -> bool:
    """Say whether a text may be asked about among others: its classifier takes one text of tokens."""
    return settings.method != "classify" and len(job.token_ids) > 0


def asking(jobs: Sequence[ScoreJob], adapter: str) -> dict[str, Any]:
    """Ask for the label tokens' log-probabilities behind each prompt, with an adapter unless its name is empty."""
    body = {
        "input_ids": [list(job.token_ids) for job in jobs] if len(jobs) > 1 else list(jobs[0].token_ids),
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
        "return_logprob": True,
        "token_ids_logprob": list(jobs[0].served.answer_ids),
    }
    return body | {"lora_path": adapter} if adapter else body


def identity_of(settings: Settings, server: Mapping[str, Any], model: Mapping[str, Any]) -> Identity:
    """Say which weights and which server these are."""
    with reading(f"{MODEL} or {SERVER}"):
        version = str(model.get("weight_version") or "")
        name = with_adapter(str(model["model_path"]), settings.adapter, settings.adapter_path)
        return Identity(name, version, "sglang", str(server["version"]))
