"""Another engine for the same specialist: a decoder on a base as one OpenVINO graph, or a graph in eight bits.

What is written was compared with what it came from, on held-out texts and through a real worker; the comparison is in
the new bundle.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from controlplane.evals.engine import WORKER, Engine, EngineFailed
from controlplane.packs.example import Example
from controlplane.training.calibration import fit_head
from controlplane.training.dataset import dataset_digest
from controlplane.training.probes import record_probes
from protos.contract.base import FOLDER, TOKENIZER, BaseInvalid, BaseStore
from protos.contract.bundle import Bundle, BundleInvalid, BundleStore
from protos.contract.head import HEAD, LEAST
from protos.contract.probe import PROBES
from protos.contract.prompt import Prompt, PromptInvalid

PRECISIONS = ("auto", "int8")
MAX_DIFFERENCE = 0.05  # of a probability, in single precision: a wrong conversion is far beyond it
MAX_ACCURACY_LOSS = 0.005  # of int8
ADAPTER = "adapter/adapter_config.json"

Progress = Callable[[float, str], None]


class ConversionFailed(Exception):
    """The bundle cannot be converted, or what came out is not as good; nothing was written."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A new bundle and how it compares with what it came from, on ``rows`` held-out texts."""

    digest: str
    rows: int
    accuracy_before: float
    accuracy: float
    most_difference: float  # of a probability


def convert(
    store: BundleStore,
    digest: str,
    dev: Sequence[Example],
    precision: str,
    author: str,
    progress: Progress,
    *,
    writes: bool = False,
) -> Converted:
    """Write a bundle that answers like another through OpenVINO; a decoder's ``writes`` text besides where asked.

    Raises:
        ConversionFailed: Not a bundle this can be done to, another answer than before, or too much accuracy lost.
    """
    try:
        source = store.load(digest)
        engine, contents = _float_graph(store, source, dev, progress, writes)
        if precision == "int8" and engine.get("writes"):
            raise ConversionFailed("the bundle writes text, expected one that only scores: int8 text is not compared")
    except (BundleInvalid, BaseInvalid, PromptInvalid) as error:
        raise ConversionFailed(str(error)) from error
    before, after, engine, contents = _answered(store, source, engine, contents, dev, precision == "int8", progress)
    targets = np.array([source.manifest.task.labels.index(example.label) for example in dev])
    accuracies = [float((found.argmax(1) == targets).mean()) for found in (before, after)]
    data = dataset_digest(dev)
    if precision == "int8":
        if not accuracies[0] - accuracies[1] <= MAX_ACCURACY_LOSS:
            raise ConversionFailed(
                f"int8 answers {100 * accuracies[1]:.2f} % right and the float graph {100 * accuracies[0]:.2f} %, "
                f"expected at most {100 * MAX_ACCURACY_LOSS:g} points less"
            )
        compared = {"float": accuracies[0], "int8": accuracies[1], "rows": len(dev), "data": data}
        engine = {**engine, "accuracy": compared}
    # Probabilities without a head are the softmax of the logits: their logarithms are logits too.
    logits = np.log(np.maximum(after, LEAST))
    head = fit_head(logits, targets, source.manifest.task, data)
    probes = record_probes(_rendered(source, dev), logits, head)
    lineage = {**source.manifest.lineage, "parent": digest, "author": author}
    made = _add(store, source, engine, {**contents, HEAD: head.to_bytes(), PROBES: probes}, lineage)
    progress(1.0, "done")
    return Converted(made, len(dev), accuracies[0], accuracies[1], float(np.abs(after - before).max()))


def _answered(
    store: BundleStore,
    source: Bundle,
    engine: dict[str, Any],
    contents: dict[str, bytes],
    dev: Sequence[Example],
    is_int8: bool,
    progress: Progress,
) -> tuple[Any, Any, dict[str, Any], dict[str, bytes]]:
    """Have a worker answer by the float graph, quantised too where asked, and hold it to the bundle it came from.

    Returns:
        Probabilities of what it is compared with (the bundle it came from; of eight bits, the float graph) and of
        the graph to keep, shape [dev, labels]; the latter's engine and files.
    """
    with tempfile.TemporaryDirectory(prefix="interlock-convert-") as folder:
        scratch = BundleStore(Path(folder))
        command = (*WORKER, "--bases", str((store.root / FOLDER).resolve()))
        try:
            with Engine(scratch.root, command) as worker:
                progress(0.3, "scoring the float graph")
                before = _scores(worker, scratch, source, {**engine, "precision": "f32"}, contents, dev)
                given = before
                if source.manifest.backend != "openvino":  # else it is the same graph
                    progress(0.4, "scoring the bundle it came from")
                    given = _scores(worker, scratch, source, source.manifest.engine, source.contents, dev)
                    _compare(given, before)
                if not is_int8:
                    return given, before, engine, contents
                progress(0.5, "quantising")
                contents = {**contents, **_quantised(source, contents, dev)}
                engine = {**engine, "precision": "int8"}
                # Promised of a bundle that nobody else sees.
                promised = {"float": 1.0, "int8": 1.0, "rows": 1, "data": source.manifest.digest}
                progress(0.8, "scoring the quantised graph")
                after = _scores(worker, scratch, source, {**engine, "accuracy": promised}, contents, dev)
        except EngineFailed as error:
            raise ConversionFailed(str(error)) from error
    return before, after, engine, contents


def _add(
    store: BundleStore,
    source: Bundle,
    engine: Mapping[str, Any],
    contents: Mapping[str, bytes],
    lineage: Mapping[str, Any] | None = None,
) -> str:
    manifest = source.manifest
    kept = manifest.lineage if lineage is None else lineage
    return store.add(task=manifest.task, engine=engine, contents=contents, base=manifest.base, lineage=kept).digest


def _scores(
    worker: Engine,
    scratch: BundleStore,
    source: Bundle,
    engine: Mapping[str, Any],
    contents: Mapping[str, bytes],
    dev: Sequence[Example],
) -> np.ndarray:
    """Ask a worker for what a bundle without its head says, shape [texts, labels]; raises EngineFailed."""
    # Nor its probes: those are answers with the head.
    bare = {name: data for name, data in contents.items() if name not in (HEAD, PROBES)}
    made = _add(scratch, source, engine, bare)
    worker.load(made)
    return worker.score(made, [example.text for example in dev]).probabilities


def _compare(expected: np.ndarray, found: np.ndarray) -> None:
    difference = float(np.abs(expected - found).max())
    if not difference <= MAX_DIFFERENCE:
        raise ConversionFailed(f"a probability differs by {difference:.4f}, expected {MAX_DIFFERENCE} at most")


def _float_graph(
    store: BundleStore, source: Bundle, dev: Sequence[Example], progress: Progress, writes: bool
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the engine settings and files of the float OpenVINO bundle."""
    engine = dict(source.manifest.engine)
    if engine["backend"] == "openvino":
        if engine.get("precision") == "int8":
            raise ConversionFailed("the bundle is in eight bits already, expected the one it came from")
        if writes:
            raise ConversionFailed("manifest.engine is openvino, expected a transformers decoder to write text like")
        return engine, dict(source.contents)
    if engine["backend"] != "transformers" or engine.get("kind", "decoder") != "decoder":
        kind = f"{engine['backend']} {engine.get('kind', '')}".strip()
        raise ConversionFailed(f"manifest.engine is {kind}, expected openvino or a transformers decoder")
    progress(0.05, "converting the decoder")
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from controlplane.training.ir import LabelRows, to_ir

    bases = BaseStore(store.root / FOLDER)
    base = str(source.manifest.base["digest"])
    listing = bases.listing(base)
    for name in listing.files:
        bases.read(base, listing, name)  # verified, then read by the library from where it lies
    tokenizer_file = source.contents.get(TOKENIZER) or bases.read(base, listing, TOKENIZER)
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(bases.path(base)), local_files_only=True, dtype=torch.float32, attn_implementation="sdpa"
    )
    with tempfile.TemporaryDirectory() as folder:
        if ADAPTER in source.contents:
            for name, data in source.contents.items():
                if name.startswith("adapter/"):
                    (Path(folder) / Path(name).name).write_bytes(data)
            model = PeftModel.from_pretrained(model, folder).merge_and_unload()  # type: ignore[no-untyped-call]
    task = source.manifest.task
    tokenizer = _tokenizer(tokenizer_file)
    prompt = Prompt(tokenizer, task, "cut", task.max_tokens)
    tokens = list(prompt.label_tokens(engine.get("verbalizers", {})))
    rendered = task.template.format_map({field.name: dev[0].text for field in task.fields})
    ids = torch.tensor([prompt.encode(rendered)[0]] * 2)
    graph = to_ir(LabelRows(model.eval(), tokens, writes=writes).eval(), ids, torch.ones_like(ids))
    copied = ("verbalizers", "overlong", "generate") if writes else ("verbalizers", "overlong")
    kept = {name: engine[name] for name in copied if name in engine}
    settings: dict[str, Any] = {"backend": "openvino", "kind": "decoder", "precision": "auto", "label_tokens": tokens}
    if writes:
        settings["writes"] = _writes(model.config)
    files = {n: data for n, data in source.contents.items() if n == HEAD or n.startswith("adapter/")}
    if ADAPTER in files:
        settings["merged"] = True
    files |= {"model.xml": graph.xml, "model.bin": graph.weights, TOKENIZER: tokenizer_file}
    return settings | kept, files


def _writes(config: Any) -> dict[str, Any]:
    """Return what a worker has to know of a model to write text."""
    ends = getattr(config, "eos_token_id", None)
    listed = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    return {"end_tokens": listed, "positions": int(getattr(config, "max_position_embeddings", 1 << 20))}


def _quantised(source: Bundle, contents: Mapping[str, bytes], dev: Sequence[Example]) -> dict[str, bytes]:
    from controlplane.training.ir import Graph, quantise

    task = source.manifest.task
    tokenizer = _tokenizer(contents[TOKENIZER])
    rows = [tokenizer.encode(text).ids[: task.max_tokens] for text in _rendered(source, dev)]
    graph = quantise(Graph(contents["model.xml"], contents["model.bin"]), rows)
    return {"model.xml": graph.xml, "model.bin": graph.weights}


def _rendered(source: Bundle, dev: Sequence[Example]) -> list[str]:
    task = source.manifest.task
    return [task.template.format_map({field.name: example.text for field in task.fields}) for example in dev]


def _tokenizer(data: bytes) -> Tokenizer:
    tokenizer = Tokenizer.from_str(data.decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
