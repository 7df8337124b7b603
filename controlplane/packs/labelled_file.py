"""A pack over anyone's labelled texts: JSON Lines with columns ``text`` and ``label``, in time order.

The first 60 % of rows are the past: training and held-out texts. The rest is live traffic. The
wave is a natural cluster of like texts, chosen as the one a classical model that never saw it
does worst on; its rows are kept out of training and of steady traffic.
"""

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from controlplane.errors import Unusable
from controlplane.evals.control import ControlModel
from controlplane.evals.metrics import macro_f1
from controlplane.evals.suite import Suite
from controlplane.packs.example import Example
from controlplane.packs.published import PublishedSet
from controlplane.training.dataset import text_key
from protos.contract.task import TaskSpec

PAST_SHARE = 0.6
CLUSTERS = 8
LEAST_WAVE_SHARE = 0.08
LEAST_ROWS = 100
_HELD_OUT = "0123"  # last hex digit of a text's key: a quarter of the texts
_SUITE: dict[str, Any] = {
    "version": 1,
    "gates": [
        {"metric": "ece", "part": "core", "max": 0.2},
        {"metric": "p99_ms", "part": "core", "max": 500.0},
        # Macro-F1 of a rare label rests on a dozen cases of a few hundred; weighted F1 can be held tighter.
        {"metric": "weighted_f1", "part": "core", "vs": "primary", "margin": -0.05},
        {"metric": "macro_f1", "part": "core", "vs": "primary", "margin": -0.15},
        {"metric": "weighted_f1", "part": "core", "vs": "control", "margin": -0.05},
        {"metric": "weighted_f1", "part": "shifted", "vs": "primary", "margin": -0.05},
    ],
    "regressions": {"part": "core", "max_share": 0.1},
    # What no label can depend on. Of 200 decisions of additive models on four published files none changes with letters
    # that look alike, case and white space, 0.5 to 14 % with an order to the model, up to 6 % with a text filled up.
    # Anybody's own base model may tell capitals apart.
    "robustness": [
        {"change": name, "part": "core", "max_changed": most}
        for name, most in (
            ("spacing", 0.05),
            ("homoglyphs", 0.05),
            ("upper_case", 0.25),
            ("lower_case", 0.25),
            ("injection", 0.5),
            ("long", 0.5),
        )
    ],
    "contract": {"part": "core", "cases": 5},
    "bootstrap": {"rounds": 1000, "confidence": 0.95, "seed": 20},
}


class LabelledFileInvalid(Unusable):
    """A labelled file cannot be used; the message names the line and column."""


class LabelledFilePack:
    """Labels double as decisions; a wrong one costs 1.

    The rarest label is scored, being what such data is usually collected to find; the commonest is
    the fallback, being the least wrong answer when nothing is known.
    """

    def __init__(self, data: Path) -> None:
        rows = read_labelled(data)
        counts = Counter(row.label for row in rows)
        labels = sorted(counts, key=lambda label: (-counts[label], label))
        cost = [[0.0 if a == b else 1.0 for b in labels] for a in labels]
        self.task = TaskSpec.from_json(
            {
                "name": "labelled-file",
                "description": f"Labels texts as in {data.name}.",
                "fields": [{"name": "text", "kind": "text", "required": True, "capture": True}],
                "labels": labels,
                "decisions": labels,
                "cost": cost,
                "score_label": labels[-1],
                "fallback_decision": labels[0],
                "fallback_score": 0.0,
                "on_refusal": "fallback",
                "max_tokens": 64,
                "max_input_bytes": 8192,
                "deadline_us": 60_000,
                "reserve_us": 3_000,
                "capture_bp": 10_000,
            }
        )
        self.suite = Suite.from_json(_SUITE)
        self.trainer = "encoder"
        self.statements: Mapping[str, str] = {}
        self.analysers: Mapping[str, str] = {}
        self.sets: tuple[PublishedSet, ...] = ()
        wave = _wave(rows, labels)
        past = int(PAST_SHARE * len(rows))
        held = [text_key(row.text)[-1] in _HELD_OUT for row in rows]
        self._pools: dict[str, list[Example]] = {
            "training": [r for i, r in enumerate(rows) if i < past and not wave[i] and not held[i]],
            "held_out": [r for i, r in enumerate(rows) if i < past and not wave[i] and held[i]],
            "steady": [r for i, r in enumerate(rows) if i >= past and not wave[i] and not held[i]],
            # The wave is new whenever it comes, so all of its rows count as live.
            "shifted": [r for i, r in enumerate(rows) if wave[i] and not held[i]],
            "held_out_shifted": [r for i, r in enumerate(rows) if wave[i] and held[i]],
        }
        empty = [name for name, pool in self._pools.items() if not pool]
        if empty:
            raise LabelledFileInvalid(f"{data} leaves no rows for {empty[0]}, expected more or more varied rows")

    def training_set(self, n: int, seed: int) -> list[Example]:
        """Draw past examples; fewer when the file has fewer."""
        return self._sample("training", n, seed)

    def held_out(self, n: int, seed: int) -> list[Example]:
        """Draw past examples that are never trained on; fewer when the file has fewer."""
        return self._sample("held_out", n, seed)

    def shifted(self, n: int, seed: int) -> list[Example]:
        """Draw examples of the wave to train on; fewer when the file has fewer."""
        return self._sample("shifted", n, seed)

    def held_out_shifted(self, n: int, seed: int) -> list[Example]:
        """Draw examples of the wave that are never trained on; fewer when the file has fewer."""
        return self._sample("held_out_shifted", n, seed)

    def stream(self, seed: int, shift: float) -> Iterator[Example]:
        """Give the later rows in random order for ever."""
        if not 0 <= shift <= 1:
            raise ValueError(f"shift is {shift}, expected 0 to 1")
        rng = random.Random(f"live/{seed}")  # noqa: S311 - sampling, not secrets
        while True:
            yield rng.choice(self._pools["shifted" if rng.random() < shift else "steady"])

    def _sample(self, pool: str, n: int, seed: int) -> list[Example]:
        rng = random.Random(f"{pool}/{seed}")  # noqa: S311 - sampling, not secrets
        return rng.sample(self._pools[pool], min(n, len(self._pools[pool])))


def read_labelled(path: Path) -> list[Example]:
    """Read ``.jsonl`` or ``.jsonl.gz``; other columns are ignored, repeated texts dropped.

    Raises:
        LabelledFileInvalid: Wrong name, unreadable, too short, one label only, or a bad line.
    """
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise LabelledFileInvalid(f"{path} is not .jsonl or .jsonl.gz")
    try:
        data = path.read_bytes()
        lines = (gzip.decompress(data) if path.suffix == ".gz" else data).split(b"\n")
    except (OSError, EOFError) as error:
        raise LabelledFileInvalid(f"{path} cannot be read: {error}") from error
    rows: dict[str, Example] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise LabelledFileInvalid(f"{path} line {number}: not JSON: {error}") from error
        if not isinstance(value, dict):
            raise LabelledFileInvalid(f"{path} line {number}: expected an object with columns text and label")
        for column in ("text", "label"):
            found = value.get(column)
            if not isinstance(found, str) or not found.strip():
                raise LabelledFileInvalid(
                    f"{path} line {number} column {column}: {found!r}, expected a non-empty string"
                )
        rows.setdefault(text_key(value["text"]), Example(value["text"], value["label"]))
    labels = {row.label for row in rows.values()}
    if len(rows) < LEAST_ROWS or len(labels) < 2:
        raise LabelledFileInvalid(
            f"{path} has {len(rows)} distinct texts of {len(labels)} labels, expected {LEAST_ROWS} of at least two"
        )
    return list(rows.values())


def _wave(rows: Sequence[Example], labels: Sequence[str]) -> list[bool]:
    texts = [row.text for row in rows]
    grams: Any = TfidfVectorizer(sublinear_tf=True, max_features=20_000).fit_transform(texts)
    space = TruncatedSVD(max(2, min(32, grams.shape[1] - 1)), random_state=0).fit_transform(grams)
    cluster = KMeans(CLUSTERS, n_init=3, random_state=0).fit_predict(space)
    sizes = np.bincount(cluster, minlength=CLUSTERS)
    # The largest is excused: without it little would be left to train on.
    large = [c for c in range(CLUSTERS) if sizes[c] >= LEAST_WAVE_SHARE * len(rows) and c != int(sizes.argmax())]
    worst, lowest = int(sizes.argsort()[-2]), np.inf
    for c in large:
        outside = [row for row, k in zip(rows, cluster, strict=True) if k != c][:4000]
        inside = [row for row, k in zip(rows, cluster, strict=True) if k == c]
        found = ControlModel(outside, labels).probabilities([row.text for row in inside]).argmax(1)
        truth = np.array([labels.index(row.label) for row in inside])
        score = float(macro_f1(truth, found, len(labels))[0])
        if score < lowest:
            worst, lowest = c, score
    return [bool(k == worst) for k in cluster]
