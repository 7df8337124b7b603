"""Ask for a training and prepare it: lock the suite, keep held-out texts out, write the data down."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from controlplane.datasets.build import ROWS, Built, DatasetRefused, Part, build, verify, write
from controlplane.evals.suite import LIVE
from controlplane.loop import evaluate, label_check
from controlplane.loop.deployment import LOOP, Deployment
from controlplane.loop.publish import standing_split
from controlplane.packs.example import Example
from controlplane.store import jobs, rollouts, samples
from controlplane.store import pairs as pair_rows
from controlplane.store.store import Unit
from controlplane.store.vault import key_of
from controlplane.training.dataset import dataset_digest, fence, read_dataset, write_dataset
from protos.contract.digest import canonical_json
from protos.contract.task import TaskSpec

DEV = "dev.jsonl"
LOOKED_AT = 20_000  # newest labelled samples: beyond them nothing is mined for hard cases


def ask(
    unit: Unit,
    deployment: Deployment,
    specialist: str,
    *,
    cause: str,
    reason: str,
    author: str,
    start_rollout: bool,
    seed: int = 0,
    operation_id: str | None = None,
) -> str:
    """Queue a training and return its job's id; a repeated operation returns the first job's."""
    deployment.pack(specialist)
    request = {"reason": reason, "author": author, "start_rollout": start_rollout, "seed": seed}
    return jobs.queue(unit, "train", specialist, cause=cause, request=request, author=author, operation_id=operation_id)


def prepare(deployment: Deployment, job: Any, folder: Path) -> dict[str, Any]:
    """Write a training's data and return its configuration.

    The suite and the held-out parts are locked by digest, in the ledger, before training starts.
    """
    # Labels that came in since the last look are looked at before anything is trained on them.
    label_check.check(deployment, grown=1.0)
    pack, settings = deployment.pack(job.specialist), deployment.settings.training
    judged = evaluate.held_out_parts(deployment, job.specialist)
    closed = [example for part in judged.values() for example in part]
    dev, _ = fence(evaluate.core_and_dev(pack, settings.held_out)[1], closed)
    closed += dev
    with deployment.store.reading() as unit:
        split = standing_split(unit, job.specialist)
        rows = samples.labelled_cases(unit, job.specialist, LOOKED_AT) if split else []
        pairs = pair_rows.disagreements(unit, job.specialist, LOOKED_AT) if split else {}
    if LIVE in pack.suite.parts:
        rows = [row for row in rows if not evaluate.is_held_live(row.text)]
    parts = _parts(deployment, job, rows, pairs, closed)
    built = build(pack.task, parts, closed)
    manifest = write(built, folder)
    write_dataset(folder / DEV, dev)
    digests = {
        "suite": pack.suite.digest,
        "dataset": manifest.rows_digest,
        "manifest": deployment.artifacts.put(canonical_json(manifest.to_json())),
        "artifact": _keep(deployment, built, rows, folder),
    }
    locked = {
        "job": job.id,
        "attempt": job.attempt,
        "specialist": job.specialist,
        "held_out": {name: dataset_digest(part) for name, part in judged.items()},
        "examples": manifest.rows,
        "live_examples": sum(len(part.rows) for part in parts if part.kind in ("captured", "hard")),
        "fenced_out": {"exact": manifest.exact, "near": manifest.near},
        **digests,
    }
    with deployment.store.writing(deployment.clock()) as unit:
        unit.record(LOOP, "suite.locked", locked)
    return _config(deployment, job, folder) | {
        "parent": split.primary if split else None,
        "dataset_digest": digests["artifact"],
        "data_manifest": digests["manifest"],
        "suite_digest": digests["suite"],
    }


def _parts(
    deployment: Deployment,
    job: Any,
    rows: Sequence[Any],
    pairs: Mapping[str, tuple[str, str]],
    closed: Sequence[Example],
) -> list[Part]:
    """Return what a training learns from: live examples on top, so that what the base set teaches is not lost."""
    pack, settings = deployment.pack(job.specialist), deployment.settings.training
    source = deployment.sources[job.specialist]
    parts = _live(rows, pairs, pack.task, settings.live_examples)
    if source.dataset is not None:
        parts.append(_dataset(source.dataset, pack.task, closed))
    drawn = pack.training_set(settings.examples, int(job.request["seed"]))
    return [*parts, Part("pack", source.pack, tuple(drawn))]


def _keep(deployment: Deployment, built: Built, rows: Sequence[Any], folder: Path) -> str:
    """Keep a written training set, sealed with whoever's inputs are in it: where one is erased, so is the set."""
    texts = {example.text for example in built.rows}
    captured = {name for row in rows if row.text in texts and (name := key_of(row.sealed_text)) is not None}
    return deployment.artifacts.put_captured((folder / ROWS).read_bytes(), captured)


def _config(deployment: Deployment, job: Any, folder: Path) -> dict[str, Any]:
    """Return what the training child is told of how to train, and where its files are."""
    pack, settings = deployment.pack(job.specialist), deployment.settings.training
    source = deployment.sources[job.specialist]
    return {
        "specialist": job.specialist,
        "pack": source.pack,
        "data": None if source.data is None else str(source.data),
        "trainer": source.trainer or pack.trainer,
        "analysers": dict(pack.analysers),
        "statements": dict(pack.statements),
        "task": pack.task.to_json(),
        "train_file": str(folder / ROWS),
        "dev_file": str(folder / DEV),
        "bundles_dir": str(deployment.bundles.root),
        "base": settings.base,
        "recipe": settings.recipe.but({"seed": int(job.request["seed"])}).to_json(),
        "search": settings.search.to_json() if settings.search else {},
        "checkpoint_dir": str(folder / "checkpoint"),
        "max_seconds": settings.max_seconds,
        "memory_mb": settings.memory_mb,
        "author": job.request["author"],
    }


def _dataset(folder: Path, task: TaskSpec, held: Sequence[Example]) -> Part:
    """Return the rows of a training set that was built before, once every byte of it is checked.

    Raises:
        DatasetRefused: It was altered, is of another specialist, or holds what is held out.
    """
    manifest = verify(folder, held, near=len(task.fields) == 1)
    if manifest.specialist != task.name:
        raise DatasetRefused(f"{folder} is a training set of {manifest.specialist!r}, expected {task.name!r}")
    licences = sorted({source.licence for source in manifest.sources if source.licence})
    rows = tuple(read_dataset(folder / ROWS, task.labels))
    return Part("dataset", folder.name, rows, licence="; ".join(licences), digest=manifest.digest)


def _live(rows: Sequence[Any], pairs: Mapping[str, tuple[str, str]], task: TaskSpec, limit: int) -> list[Part]:
    """Return captured and labelled traffic, and from longer ago the cases that were hard.

    Args:
        rows: Labelled samples, newest first.
        pairs: What primary and candidate decided where a shadow of them differed, by decision.
    """
    known = [row for row in rows if row.label in task.labels]
    recent, older = known[:limit], known[limit:]
    hard: dict[str, list[Any]] = {"regression": [], "disagreement": [], "wrong": []}
    for row in older:
        kind = _hardness(row, pairs, task)
        if kind:
            hard[kind].append(row)
    parts = [Part("captured", "live", tuple(Example(row.text, row.label, "live") for row in recent))] if recent else []
    left = limit // 2
    for kind, found in hard.items():
        chosen, left = found[:left], left - len(found[:left])
        if chosen:
            parts.append(Part("hard", kind, tuple(Example(row.text, row.label, "hard") for row in chosen)))
    return parts


def _hardness(row: Any, pairs: Mapping[str, tuple[str, str]], task: TaskSpec) -> str:
    """Say what makes a case hard: a candidate lost it, two bundles differed over it, or it was answered wrong."""
    if row.decision_id in pairs:
        costs = dict(zip(task.decisions, task.cost[task.labels.index(row.label)], strict=True))
        primary, candidate = (costs.get(decision, 0.0) for decision in pairs[row.decision_id])
        return "regression" if candidate > primary else "disagreement"
    return "wrong" if row.answered and row.answered != row.label else ""


def finished(unit: Unit, deployment: Deployment, job: Any, result: dict[str, Any]) -> None:
    """Keep the trained bundle and queue its evaluation, in one transaction with the job's end."""
    digest = str(result["bundle_digest"])
    rollouts.add_bundle(unit, digest, job.specialist, job.cause, job.request["author"])
    unit.record(LOOP, "bundle.trained", {"job": job.id, "specialist": job.specialist, "bundle": digest})
    evaluate.ask(
        unit, deployment, job.specialist, digest, cause=job.cause, start_rollout=bool(job.request["start_rollout"])
    )
