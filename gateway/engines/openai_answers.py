"""Label scores out of what OpenAI-like servers answer, one row a text, each in the place its index says."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.engines.label_scores import from_best, from_logprobs, from_probabilities
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


def from_completion(
    path: str, job: ScoreJob, choice: Mapping[str, Any], names: Mapping[str, int], *, by_id: bool = False
) -> LabelScores:
    """Find labels among the tokens told of a completion of one token.

    Args:
        names: What each label is called.
        by_id: The labels themselves were asked for, so every one must be there; else the best few are.
    """
    with reading(path):
        _check_finished(choice["finish_reason"])
        logprobs = choice["logprobs"]
        told = dict(logprobs["top_logprobs"][0])
        told[logprobs["tokens"][0]] = logprobs["token_logprobs"][0]
        # Tokens that are no label keep ids below 0: only their log-probabilities matter.
        found = {names.get(name, -1 - place): float(value) for place, (name, value) in enumerate(told.items())}
    return _from_all(path, job, found) if by_id else from_best(job.served.answer_ids, found, len(job.token_ids))


def from_generated(path: str, job: ScoreJob, row: Mapping[str, Any]) -> LabelScores:
    """Take what SGLang's own interface tells of the label tokens beside the one token that it writes."""
    with reading(path):
        about = row["meta_info"]
        _check_finished(about["finish_reason"]["type"])
        (told,) = about["output_token_ids_logprobs"]
        found = {int(token): float(value) for value, token, *_ in told}
    return _from_all(path, job, found)


def from_classes(path: str, job: ScoreJob, row: Mapping[str, Any]) -> LabelScores:
    """Take the classes' probabilities."""
    with reading(path):
        values = [float(value) for value in row["probs"]]
    return from_probabilities(values, prompt_tokens=len(job.token_ids))


def from_embedding(path: str, job: ScoreJob, row: Mapping[str, Any]) -> LabelScores:
    """Take a classifier's logits, which come as an embedding."""
    with reading(path):
        values = tuple(float(value) for value in row["embedding"])
    return LabelScores(values, is_logits=True, prompt_tokens=len(job.token_ids))


def _check_finished(reason: Any) -> None:
    if reason not in ("stop", "length"):
        raise Broken(f"finish_reason is {reason!r}, expected stop or length")


def _from_all(path: str, job: ScoreJob, found: Mapping[int, float]) -> LabelScores:
    """Take the labels' log-probabilities, each of which was asked for."""
    ids = job.served.answer_ids
    if missing := [i for i in ids if i not in found]:
        raise Broken(f"{path} tells nothing of label tokens {missing[:8]}, expected all {len(ids)}")
    return from_logprobs([found[i] for i in ids], len(job.token_ids))
