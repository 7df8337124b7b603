"""From a bundle to what a remote adapter needs, and from its scores to calibrated probabilities."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gateway.engines.ports import Broken, LabelScores, Served
from gateway.serving.ports import BundleRefused
from protos.contract.bundle import Bundle
from protos.contract.digest import JsonMalformed
from protos.contract.engines import check_adapter_is_read, needs_label_tokens
from protos.contract.fields import FieldInvalid
from protos.contract.head import HEAD, Head
from protos.contract.probe import read_probes
from protos.contract.task import TaskSpec

TOKENIZER = "tokenizer.json"
TOLERANCE = 1e-3  # of a log-probability above 0, or a mass above 1: single precision, summed
VERBALIZERS = "verbalizers"
UNKNOWN_POSITIONS = 1 << 20  # how long a prompt the server reads is asked of the server


class Calibrated(NamedTuple):
    """One row: probabilities that sum to 1, and the log-probabilities they came from, both in label order."""

    probabilities: list[float]
    logprobs: list[float]


def calibrate(scores: LabelScores, labels: int, head: Head) -> Calibrated:
    """Check what an engine said and turn it into probabilities.

    Raises:
        Broken: A value is missing, not finite, or no log-probability at all.
    """
    values = scores.values
    if len(values) != labels:
        raise Broken(f"{len(values)} label scores, expected {labels}")
    if not all(map(math.isfinite, values)):
        raise Broken("a label score is not finite")
    if not scores.is_logits and max(values) > TOLERANCE:
        raise Broken(f"a label's log-probability is {max(values):g}, expected at most 0")
    mass = scores.vocabulary_mass
    if mass is not None and not 0 <= mass <= 1 + TOLERANCE:
        raise Broken(f"the labels hold {mass:g} of the probability, expected 0 to 1")
    logprobs = list(values)
    if scores.is_logits:
        highest = max(values)
        shift = highest + math.log(math.fsum(math.exp(value - highest) for value in values))
        logprobs = [value - shift for value in values]
    row: list[float] = head.probabilities(np.array([values]))[0].tolist()
    return Calibrated(row, logprobs)


def with_adapter(model: str, name: str, path: str) -> str:
    """Name what answers: a base alone, or with an adapter, so that two adapters on one base are told apart."""
    return model if not name else f"{model} with adapter {name!r}" + (f" from {path}" if path else "")


def prepare(bundle: Bundle) -> tuple[Served, Head]:
    """Read what serving a verified bundle remotely takes, with its head.

    Raises:
        BundleRefused: A tokenizer, head, probe or answer in it is wrong.
    """
    try:
        task = bundle.manifest.task
        data = bundle.contents.get(HEAD)
        head = Head.from_bytes(data, task) if data is not None else Head()
        settings = bundle.manifest.engine
        check_adapter_is_read(settings, bundle.manifest.files)
        answers = _answers(settings, task)
        tokenizer = _tokenizer(bundle)
        encode: Callable[[str], Sequence[int]] | None = None
        decode: Callable[[Sequence[int]], str] | None = None
        if tokenizer is not None:
            encode, decode = _plain(tokenizer)
        ids: tuple[int, ...] = ()
        if tokenizer is not None and needs_label_tokens(settings):
            # The worker's own rule: single tokens behind any text, and no special token from a caller.
            from protos.contract.prompt import Prompt  # imports tokenizers, an extra

            prompt = Prompt(tokenizer, task, "refuse", UNKNOWN_POSITIONS)
            ids = prompt.label_tokens(settings.get(VERBALIZERS, {}))
            encode = lambda text: prompt.encode(text)[0]  # noqa: E731
        probes = read_probes(bundle.contents, task)
    except (FieldInvalid, JsonMalformed, ValueError) as error:
        raise BundleRefused(f"bundle {bundle.digest}: {error}") from error
    vocabulary = 0 if tokenizer is None else tokenizer.get_vocab_size()
    return Served(bundle.digest, task, settings, answers, ids, encode, decode, probes, vocabulary), head


def _answers(settings: Mapping[str, Any], task: TaskSpec) -> tuple[str, ...]:
    """Return what the model writes for each label: a space and the label, unless the bundle says otherwise."""
    found = settings.get(VERBALIZERS, {})
    if not isinstance(found, Mapping) or not all(isinstance(text, str) and text for text in found.values()):
        raise FieldInvalid(f"manifest.engine.verbalizers is {found!r}, expected what the model writes for each label")
    unknown = sorted(set(found) - set(task.labels))
    if unknown:
        raise FieldInvalid(f"manifest.engine.verbalizers names {unknown[0]!r}, expected labels of the task")
    return tuple(found.get(label, " " + label) for label in task.labels)


def _tokenizer(bundle: Bundle) -> Any:
    """Read the bundle's tokenizer; None where the engine reads text."""
    data = bundle.contents.get(TOKENIZER)
    if data is None:
        return None
    from tokenizers import Tokenizer  # an extra: engines that read text need none

    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises plain Exception
        raise FieldInvalid(f"{TOKENIZER}: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _plain(tokenizer: Any) -> tuple[Callable[[str], Sequence[int]], Callable[[Sequence[int]], str]]:
    return (lambda text: tokenizer.encode(text).ids), (lambda ids: str(tokenizer.decode(list(ids))))
