"""Label scores out of what OpenAI-like servers answer, one row a text, each in the place its index says."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.engines.label_scores import from_best, from_probabilities
from gateway.engines.ports import Broken, LabelScores, ScoreJob


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Call an answer of another shape than agreed what it is."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise Broken(f"{path} answers something else than agreed: {type(error).__name__} {error}") from error


def rows_of(path: str, answer: Any, name: str, count: int) -> list[dict[str, Any]]:
    """Return an answer's rows in the order of the texts asked for; raises Broken unless each is there once."""
    with reading(path):
        rows = {int(row["index"]): row for row in answer[name]}
        found = len(answer[name])
    if found != count or sorted(rows) != list(range(count)):
        raise Broken(f"{path} answers {found} rows with indices {sorted(rows)[:20]}, expected 0 to {count - 1}")
    return [rows[i] for i in range(count)]


def from_completion(path: str, job: ScoreJob, choice: Mapping[str, Any], names: Mapping[str, int]) -> LabelScores:
    """Find labels among the best few tokens of a completion of one token; ``names`` is what each label is called."""
    with reading(path):
        if choice["finish_reason"] not in ("stop", "length"):
            raise Broken(f"finish_reason is {choice['finish_reason']!r}, expected stop or length")
        logprobs = choice["logprobs"]
        best = dict(logprobs["top_logprobs"][0])
        best[logprobs["tokens"][0]] = logprobs["token_logprobs"][0]
        # Tokens that are no label keep ids below 0: only their log-probabilities matter.
        by_id = {names.get(name, -1 - place): float(value) for place, (name, value) in enumerate(best.items())}
    return from_best(job.served.answer_ids, by_id, len(job.token_ids))


def from_token_scores(path: str, job: ScoreJob, row: Sequence[Any]) -> LabelScores:
    """Take the label tokens' probabilities."""
    with reading(path):
        values = [float(value) for value in row]
    return from_probabilities(values, of_vocabulary=True, prompt_tokens=len(job.token_ids))


def from_classes(path: str, job: ScoreJob, row: Mapping[str, Any]) -> LabelScores:
    """Take the classes' probabilities."""
    with reading(path):
        values = [float(value) for value in row["probs"]]
    return from_probabilities(values, of_vocabulary=False, prompt_tokens=len(job.token_ids))


def from_embedding(path: str, job: ScoreJob, row: Mapping[str, Any]) -> LabelScores:
    """Take a classifier's logits, which come as an embedding."""
    with reading(path):
        values = tuple(float(value) for value in row["embedding"])
    return LabelScores(values, is_logits=True, prompt_tokens=len(job.token_ids))
