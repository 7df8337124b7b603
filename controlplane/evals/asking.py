"""Ask a model behind an OpenAI-compatible server for its decisions, and record what it said, how long and how dear.

Answers are appended to a file as they come, so that a run that was cut short asks only what is missing, and so that
the comparison (``interlock eval run --answers``) can be repeated without the server.
"""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.datasets.rows import DataInvalid, read_rows
from protos.contract.digest import JsonMalformed, parse_json_object
from protos.contract.task import TaskSpec

ATTEMPTS = 3
PAUSE_S = 0.5  # before the second attempt, doubled before the third
MOST_BYTES = 1 << 20  # of an answer that are read
_HOPELESS = (400, 401, 403, 404, 422)  # the next case would be refused for the same reason


class ModelRefused(Exception):
    """The server refuses the request as such; says its status and words."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask, and what it costs.

    Attributes:
        url: The server's base, such as ``http://127.0.0.1:8000/v1``.
        key: Sent as a bearer token; None: no key.
        price_in, price_out: Per million tokens read and written, in whatever money.
    """

    url: str
    model: str
    key: str | None = None
    timeout_s: float = 60.0
    price_in: float = 0.0
    price_out: float = 0.0


@dataclass(frozen=True, slots=True)
class Question:
    """One case: its name, and its text as an engine reads it."""

    name: str
    text: str


def ask_all(
    endpoint: Endpoint,
    task: TaskSpec,
    questions: Sequence[Question],
    out: Path,
    *,
    concurrency: int = 4,
    pause_s: float = PAUSE_S,
    progress: Callable[[float, str], None] = lambda share, what: None,
) -> dict[str, Any]:
    """Ask every case that ``out`` has no answer to, at most ``concurrency`` at a time.

    Returns:
        How many were asked, how many had an answer before, and which got none, with the reason.
    Raises:
        ModelRefused: The server refuses such requests altogether; what it answered before is kept.
        DataInvalid: ``out`` exists and holds something else.
    """
    known = {str(row.get("id")) for _, row in read_rows(out)} if out.exists() and out.stat().st_size else set()
    missing = [question for question in questions if question.name not in known]
    failed: dict[str, str] = {}
    refused: list[ModelRefused] = []
    writing, done = threading.Lock(), 0
    with out.open("a", encoding="utf-8") as file:

        def one(question: Question) -> None:
            nonlocal done
            if refused:
                return
            try:
                answer = _ask(endpoint, task, question, pause_s)
            except ModelRefused as error:
                refused.append(error)
                return
            except (OSError, ValueError) as error:
                answer = None
                failed[question.name] = f"{type(error).__name__}: {error}"
            with writing:
                if answer is not None:
                    file.write(json.dumps(answer, ensure_ascii=False) + "\n")
                    file.flush()
                done += 1
                progress(done / len(missing), f"asked {done} of {len(missing)}")

        with ThreadPoolExecutor(concurrency) as pool:
            list(pool.map(one, missing))
    if refused:
        raise refused[0]
    return {"asked": len(missing) - len(failed), "known": len(questions) - len(missing), "failed": failed}


def prompt(task: TaskSpec, text: str) -> list[dict[str, str]]:
    """Write what the model is asked: the task, its labels, the text."""
    labels = ", ".join(task.labels)
    system = f"{task.description} Answer with exactly one of these labels and nothing else: {labels}."
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]


def label_in(task: TaskSpec, said: str) -> str:
    """Return the label that an answer is, give or take case and punctuation around it; "" for none of them."""
    word = said.strip().strip(".\"'`*: ").lower()
    return next((label for label in task.labels if label.lower() == word), "")


def _ask(endpoint: Endpoint, task: TaskSpec, question: Question, pause_s: float) -> dict[str, Any]:
    body = {"model": endpoint.model, "messages": prompt(task, question.text), "temperature": 0, "max_tokens": 32}
    for attempt in range(ATTEMPTS):
        began = time.perf_counter()
        try:
            found = _post(endpoint, body)
        except urllib.error.HTTPError as error:
            said = error.read(300).decode("utf-8", "replace")
            if error.code in _HOPELESS:
                raise ModelRefused(f"{endpoint.url} answers {error.code}: {said}") from error
            if attempt + 1 == ATTEMPTS:
                raise OSError(f"status {error.code}: {said}") from error
        except OSError:
            if attempt + 1 == ATTEMPTS:
                raise
        else:
            # Of the attempt that was answered: what a caller waits for a server that is there.
            return _recorded(endpoint, task, question, found, 1000 * (time.perf_counter() - began))
        time.sleep(pause_s * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def _post(endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if endpoint.key is not None:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    url = endpoint.url.rstrip("/") + "/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - checked by the command
    with urllib.request.urlopen(request, timeout=endpoint.timeout_s) as answer:  # noqa: S310
        try:
            return parse_json_object(answer.read(MOST_BYTES))
        except JsonMalformed as error:
            raise ValueError(f"the server's answer is no JSON: {error}") from error


def _recorded(
    endpoint: Endpoint, task: TaskSpec, question: Question, found: dict[str, Any], latency_ms: float
) -> dict[str, Any]:
    try:
        said = str(found["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("the server's answer has no choices[0].message.content") from error
    used = found.get("usage")
    used = used if isinstance(used, dict) else {}
    tokens = [used.get(name) for name in ("prompt_tokens", "completion_tokens")]
    answer: dict[str, Any] = {
        "id": question.name,
        "label": label_in(task, said),
        "said": said[:200],
        "latency_ms": round(latency_ms, 3),
        "model": str(found.get("model") or endpoint.model),
    }
    if all(isinstance(n, int) and n >= 0 for n in tokens):
        answer["cost"] = (tokens[0] * endpoint.price_in + tokens[1] * endpoint.price_out) / 1e6  # type: ignore[operator]
    return answer


def read_key(path: Path) -> str:
    """Read a key from the first line of a file; raises DataInvalid. It is printed nowhere."""
    try:
        key = path.read_text("utf-8").strip().split("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataInvalid(f"{path}: cannot be read: {type(error).__name__}") from error
    if not key or not key.isascii() or not key.isprintable():
        raise DataInvalid(f"{path} holds no key, expected one line of printable characters")
    return key
