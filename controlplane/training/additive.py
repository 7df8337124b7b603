"""Additive models: boosted steps for numbers, weighted terms for texts. The classical control, fit to be served."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold
from threadpoolctl import threadpool_limits

from controlplane.packs.example import Example
from controlplane.training.classical import Fitted
from protos.contract.features import ANALYSERS, read_fields, read_number
from protos.contract.fields import FieldInvalid
from protos.contract.head import Head
from protos.contract.task import Field, TaskSpec

Floats = NDArray[np.float64]
BINS = 48
SMALL = 2000  # cases: below, the fit is held back more
CASES_PER_BIN = 40
LEAST_OF_CATEGORY = 5
STRENGTHS = (0.05, 0.4, 2.0)
LINE_STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.5)
PARTS, MOST_COMPARED = 3, 8000  # choices are made by that many parts of at most so many cases
LEAST_TOLD = 1e-6  # probability that a log loss is taken of
MOST_TERMS = 60_000
DECIMALS = 6


def fit(
    task: TaskSpec,
    training: Sequence[Example],
    dev: Sequence[Example],
    *,
    seed: int,
    analysers: Mapping[str, str] | None = None,
    weights: Sequence[float] | None = None,
    is_balanced: bool = False,
) -> Fitted:
    """Fit on rendered texts: texts by logistic regression, tables by boosted steps or straight lines.

    Which of the two, three parts of the training cases say: steps find bends and thresholds, lines need fewer cases.

    Args:
        dev: Cases that only the calibration is fitted on; none leaves the model as it is.
        analysers: How a text field is cut into terms; "words" where none is named.
        weights: How many real cases each training case stands for.
        is_balanced: Each label's cases together count the same, however rare it is.
    Raises:
        FieldInvalid: A text field is empty in every case.
    """
    columns = _Columns.of(task, training, analysers or {})
    labels = np.array([task.labels.index(example.label) for example in training])
    weight = even(weights, len(training))
    if is_balanced:
        totals = np.bincount(labels, weight, minlength=len(task.labels))
        weight = weight * (weight.sum() / (np.count_nonzero(totals) * totals[labels]))
    with threadpool_limits(1):  # threads of these libraries wait for each other by spinning, on cores that others use
        made = _linear if columns.texts else _of_tables(task, training, labels, weight, seed, analysers or {})
        fields, intercept = made(task, columns, labels, weight, seed)
    body = {"version": 1, "intercept": _rounded(intercept), "fields": fields}
    return Fitted("additive", body).calibrated(task, dev)


def even(weights: Sequence[float] | None, count: int) -> Floats:
    """Return weights whose mean is 1: what holds a fit back counts against their sum."""
    found: Floats = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    return found / float(found.mean())


@dataclass(frozen=True, slots=True)
class _Columns:
    """Training cases by field: numbers as bin codes, categories as their own, texts as TF-IDF."""

    numbers: dict[str, tuple[list[float], NDArray[np.int64]]]  # edges, codes [cases]
    centres: dict[str, Floats]  # mean of each bin, standardised; 0 where a value is missing
    categories: dict[str, tuple[list[str], NDArray[np.int64]]]  # values, codes [cases]; one more code for any other
    texts: dict[str, tuple[str, TfidfVectorizer, csr_matrix]]  # analyser, vocabulary, rows [cases, terms]

    @classmethod
    def of(cls, task: TaskSpec, training: Sequence[Example], analysers: Mapping[str, str]) -> "_Columns":
        names = [field.name for field in task.fields]
        parsed = [read_fields(example.text, names) for example in training]
        numbers, centres, categories, texts = {}, {}, {}, {}
        for field in task.fields:
            values = [fields.get(field.name, "") for fields in parsed]
            if _is_number(field):
                found = np.array([read_number(value) for value in values])
                edges = _edges(found)
                numbers[field.name] = (edges, _codes(found, edges))
                centres[field.name] = _centres(found, numbers[field.name][1], len(edges) + 2)
                continue
            analyser = analysers.get(field.name, "words")
            if analyser == "whole":
                categories[field.name] = _categories(values, task.max_tokens)
                continue
            cut = ANALYSERS[analyser]
            if not any(cut(value, task.max_tokens) for value in values):
                raise FieldInvalid(f"field {field.name!r} is empty in all {len(values)} cases, expected text in some")
            vectorizer = TfidfVectorizer(
                analyzer=lambda text, cut=cut: cut(text, task.max_tokens),
                sublinear_tf=True,
                max_features=MOST_TERMS,
                min_df=2 if len(values) > 2000 else 1,
            )
            texts[field.name] = (analyser, vectorizer, vectorizer.fit_transform(values))
        return cls(numbers, centres, categories, texts)


_Maker = Callable[[TaskSpec, _Columns, NDArray[np.int64], Floats, int], tuple[list[dict[str, Any]], Floats]]


def _is_number(field: Field) -> bool:
    return field.kind != "text"


def _categories(values: Sequence[str], most: int) -> tuple[list[str], NDArray[np.int64]]:
    """Number the values of a category; rare ones count as any other."""
    cut = ANALYSERS["whole"]
    terms = [next(iter(cut(value, most)), "") for value in values]
    counts = Counter(terms)
    known = sorted(term for term, n in counts.items() if term and n >= LEAST_OF_CATEGORY)
    places = {term: i for i, term in enumerate(known)}
    return known, np.array([places.get(term, len(known)) for term in terms], dtype=np.int64)


def _edges(values: Floats) -> list[float]:
    """Cut a column into about equally full bins; every value of a short list gets its own."""
    present = np.unique(values[~np.isnan(values)])
    bins = max(4, min(BINS, len(values) // CASES_PER_BIN))
    if len(present) > bins:
        present = np.unique(np.quantile(values[~np.isnan(values)], np.linspace(0, 1, bins + 1)[1:-1]))
        return [float(edge) for edge in present]
    return [float(edge) for edge in (present[1:] + present[:-1]) / 2]


def _codes(values: Floats, edges: Sequence[float]) -> NDArray[np.int64]:
    """Return the bin of each value; the one after the last where it is missing."""
    codes = np.searchsorted(np.asarray(edges), values, side="right")
    return np.where(np.isnan(values), len(edges) + 1, codes).astype(np.int64)


def _centres(values: Floats, codes: NDArray[np.int64], count: int) -> Floats:
    """Return what a straight line is drawn through: each bin's mean, in standard deviations from that of all."""
    present = ~np.isnan(values)
    if not present.any():
        return np.zeros(count)
    cases = np.bincount(codes[present], minlength=count)
    means = np.bincount(codes[present], values[present], minlength=count) / np.maximum(cases, 1)
    spread = float(values[present].std()) or 1.0
    return np.where(cases > 0, (means - values[present].mean()) / spread, 0.0)


def _of_tables(
    task: TaskSpec,
    training: Sequence[Example],
    labels: NDArray[np.int64],
    weight: Floats,
    seed: int,
    analysers: Mapping[str, str],
) -> _Maker:
    """Choose between steps and lines by the log loss over three parts, each judged by the rest's model."""
    drawn = np.random.default_rng(seed).permutation(len(labels))[:MOST_COMPARED]
    if np.bincount(labels[drawn])[np.unique(labels[drawn])].min() < PARTS:
        return _boosted
    losses = dict.fromkeys((_boosted, _lines), 0.0)
    for rest, part in StratifiedKFold(PARTS, shuffle=True, random_state=seed).split(drawn, labels[drawn]):
        inside, outside = drawn[rest], drawn[part]
        columns = _Columns.of(task, [training[i] for i in inside], analysers)
        texts = [training[i].text for i in outside]
        for made in losses:
            fields, intercept = made(task, columns, labels[inside], weight[inside], seed)
            body = {"version": 1, "intercept": _rounded(intercept), "fields": fields}
            logits = Fitted("additive", body).model(task).logits(texts)
            told = Head().probabilities(logits)[np.arange(len(part)), labels[outside]]
            losses[made] -= float(weight[outside] @ np.log(np.maximum(told, LEAST_TOLD)))
    return min(losses, key=lambda made: losses[made])


def _boosted(
    task: TaskSpec, columns: _Columns, labels: NDArray[np.int64], weight: Floats, seed: int
) -> tuple[list[dict[str, Any]], Floats]:
    """Fit trees of one split each: their sum is a step function per field, read off by asking the model."""
    coded = {**columns.numbers, **columns.categories}
    names = list(coded)
    matrix = np.stack([coded[name][1] for name in names], axis=1).astype(np.float64)
    sizes = [len(edges) + 2 for edges, _ in columns.numbers.values()]
    sizes += [len(known) + 1 for known, _ in columns.categories.values()]
    is_small = len(labels) < SMALL
    model = HistGradientBoostingClassifier(
        max_leaf_nodes=2,
        learning_rate=0.1,
        # As many as cross-validation in the train parts of published tables asked for; a rare label that few cases of
        # great weight stand against leaves too little to stop early by.
        max_iter=(200 if is_small else 400) if len(task.labels) == 2 else (60 if is_small else 200),
        min_samples_leaf=10 if is_small else 20,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )
    present = np.unique(labels)
    model.fit(matrix, labels, sample_weight=weight)
    base = np.zeros((1, len(names)))
    grid = np.concatenate([base] + [_varied(base, j, size) for j, size in enumerate(sizes)])
    logits = _all_labels(np.atleast_2d(model.decision_function(grid).T).T, present, len(task.labels))
    at, fields, intercept = 1, [], logits[0].copy()
    share = weight / weight.sum()
    for name, size in zip(names, sizes, strict=True):
        part, rest = _coded(columns, name, logits[at : at + size] - logits[0], share)
        fields.append(part)
        intercept += rest
        at += size
    return fields, intercept


def _varied(base: Floats, column: int, size: int) -> Floats:
    rows = np.repeat(base, size, axis=0)
    rows[:, column] = np.arange(size)
    return rows


def _all_labels(decision: Floats, present: NDArray[np.int64], count: int) -> Floats:
    """Spread decision values over all labels; one that never occurred is as good as impossible."""
    logits = np.full((len(decision), count), -20.0)
    if decision.shape[1] == 1 and len(present) == 2:
        # Half to each side, so that both labels have a share to explain.
        logits[:, present[0]], logits[:, present[1]] = -decision[:, 0] / 2, decision[:, 0] / 2
    else:
        logits[:, present] = decision
    return logits


def _lines(
    task: TaskSpec, columns: _Columns, labels: NDArray[np.int64], weight: Floats, seed: int
) -> tuple[list[dict[str, Any]], Floats]:
    """Fit a straight line per number, through the means of its bins, and a value per category and missing number."""
    blocks: list[Floats] = []
    for name, (edges, codes) in columns.numbers.items():
        blocks.append(np.column_stack([columns.centres[name], np.arange(len(edges) + 2) == len(edges) + 1])[codes])
    blocks += [np.eye(len(known) + 1)[codes] for known, codes in columns.categories.values()]
    matrix = csr_matrix(np.hstack(blocks))
    strength = _strength(matrix, labels, weight, seed, LINE_STRENGTHS)
    model = LogisticRegression(C=strength, max_iter=300, random_state=seed).fit(matrix, labels, sample_weight=weight)
    present, share = np.unique(labels), weight / weight.sum()
    coefficients = _all_weights(model.coef_, present, len(task.labels))
    intercept = _all_weights(np.atleast_2d(model.intercept_).T, present, len(task.labels), missing=-20.0)[0]
    at, fields = 0, []
    for name, (edges, _) in columns.numbers.items():
        slope, missing = coefficients[at], coefficients[at + 1]
        values = np.outer(columns.centres[name], slope)
        values[len(edges) + 1] = missing
        fields.append(_coded(columns, name, values, share)[0])
        at += 2
    for name, (known, _) in columns.categories.items():
        part, rest = _coded(columns, name, coefficients[at : at + len(known) + 1], share)
        fields.append(part)
        intercept += rest
        at += len(known) + 1
    return fields, intercept


def _linear(
    task: TaskSpec, columns: _Columns, labels: NDArray[np.int64], weight: Floats, seed: int
) -> tuple[list[dict[str, Any]], Floats]:
    blocks: list[Any] = [rows for _, _, rows in columns.texts.values()]
    for edges, codes in columns.numbers.values():
        blocks.append(csr_matrix(np.eye(len(edges) + 2)[codes]))
    for known, codes in columns.categories.values():
        blocks.append(csr_matrix(np.eye(len(known) + 1)[codes]))
    present = np.unique(labels)
    matrix = hstack(blocks).tocsr()
    strength = _strength(matrix, labels, weight, seed) if len(labels) < SMALL else 4.0
    model = LogisticRegression(C=strength, max_iter=300, random_state=seed)
    model.fit(matrix, labels, sample_weight=weight)
    coefficients = _all_weights(model.coef_, present, len(task.labels))
    share = weight / weight.sum()
    at, fields = 0, []
    for name, (analyser, vectorizer, rows) in columns.texts.items():
        width = rows.shape[1]
        block = coefficients[at : at + width]
        at += width
        terms = [str(term) for term in vectorizer.get_feature_names_out()]
        # What is written is rounded; means are taken of what is written.
        fields.append(
            {
                "name": name,
                "kind": "terms",
                "analyser": analyser,
                "terms": terms,
                "rarity": _rounded(vectorizer.idf_),
                "weights": _rounded(block),
                "mean": _rounded(share @ (rows @ block)),
            }
        )
    sizes = {name: len(edges) + 2 for name, (edges, _) in columns.numbers.items()}
    sizes |= {name: len(known) + 1 for name, (known, _) in columns.categories.items()}
    intercept = _all_weights(np.atleast_2d(model.intercept_).T, present, len(task.labels), missing=-20.0)[0]
    for name, size in sizes.items():
        part, rest = _coded(columns, name, coefficients[at : at + size], share)
        fields.append(part)
        intercept += rest
        at += size
    return fields, intercept


def _strength(
    matrix: Any, labels: NDArray[np.int64], weight: Floats, seed: int, strengths: Sequence[float] = STRENGTHS
) -> float:
    """Choose how freely to fit few cases: the least log loss over three parts, each judged by the rest's model."""
    losses = []
    for strength in strengths:
        total = 0.0
        for rest, part in KFold(PARTS, shuffle=True, random_state=seed).split(labels):
            model = LogisticRegression(C=strength, max_iter=100, tol=1e-3, random_state=seed)
            model.fit(matrix[rest], labels[rest], sample_weight=weight[rest])
            # A label that only the part has is as good as impossible to the rest's model.
            told = np.zeros((len(part), labels.max() + 1))
            told[:, model.classes_] = model.predict_proba(matrix[part])
            total -= float(weight[part] @ np.log(np.maximum(told[np.arange(len(part)), labels[part]], LEAST_TOLD)))
        losses.append(total)
    return strengths[int(np.argmin(losses))]


def _all_weights(weights: Floats, present: NDArray[np.int64], count: int, missing: float = 0.0) -> Floats:
    """Return weights as [features, labels] over all labels."""
    found = np.full((weights.shape[1], count), missing)
    if len(weights) == 1 and len(present) == 2:
        found[:, present[0]], found[:, present[1]] = -weights[0] / 2, weights[0] / 2
    else:
        found[:, present] = weights.T
    return found


def _coded(columns: _Columns, name: str, values: Floats, share: Floats) -> tuple[dict[str, Any], Floats]:
    """Write what a number's bins or a category's values add, [codes, labels], and return what is left for all cases."""
    if name in columns.numbers:
        edges, codes = columns.numbers[name]
        return {
            "name": name,
            "kind": "steps",
            "edges": [float(edge) for edge in edges],
            "values": _rounded(values),
            "mean": _rounded(share @ values[codes]),
        }, np.zeros(values.shape[1])
    known, codes = columns.categories[name]
    # A term that is not there adds nothing, so what any other value adds goes to all cases.
    return {
        "name": name,
        "kind": "terms",
        "analyser": "whole",
        "terms": known,
        "rarity": [1.0] * len(known),
        "weights": _rounded(values[:-1] - values[-1]),
        "mean": _rounded(share @ (values[codes] - values[-1])),
    }, values[-1]


def _rounded(values: Any) -> Any:
    return np.round(np.asarray(values, dtype=np.float64), DECIMALS).tolist()
