"""The suite on a schedule: the primary in force, judged on labels that came in after its last check and are settled."""

from pathlib import Path
from typing import Any

import structlog

from controlplane.loop import triggers
from controlplane.loop.deployment import LOOP, Deployment
from controlplane.loop.evaluate import CORE, write_learned
from controlplane.loop.publish import standing_split
from controlplane.packs.example import Example
from controlplane.store import jobs, samples
from controlplane.store.store import Unit
from controlplane.training.dataset import write_dataset

log = structlog.get_logger()
KIND = "recheck"


def watch(deployment: Deployment) -> None:
    """Queue a check for every specialist whose time has come and that has enough fresh labels."""
    settings = deployment.settings.recheck
    if not settings.every_s:
        return
    for specialist in deployment.packs:
        with deployment.store.writing(deployment.clock()) as unit:
            split = standing_split(unit, specialist)
            past = [job for job in jobs.listed(unit, specialist) if job.kind == KIND]
            last = past[-1] if past else None
            is_early = last is not None and unit.now_ms - last.created_ms < 1000 * settings.every_s
            if split is None or is_early or jobs.unfinished(unit, specialist):
                continue
            after = int(last.request["last_sample"]) if last is not None else 0
            rows = _fresh(unit, deployment, specialist, after, unit.now_ms)
            if len(rows) < settings.least:
                continue
            request = {
                "bundle": split.primary,
                "suite": deployment.pack(specialist).suite.digest,
                "after_sample": after,
                "last_sample": rows[0].id,
                "until_ms": unit.now_ms,
            }
            jobs.queue(unit, KIND, specialist, cause="schedule", request=request, author=LOOP)


def prepare(deployment: Deployment, job: Any, folder: Path) -> dict[str, Any]:
    """Write the fresh cases and return the evaluation's configuration; there is no rival but the control.

    Raises:
        ArtifactMissing: What the primary was trained on is not kept here any more, so there is no control.
    """
    pack = deployment.pack(job.specialist)
    request = job.request
    with deployment.store.reading() as unit:
        found = _fresh(unit, deployment, job.specialist, int(request["after_sample"]), int(request["until_ms"]))
    rows = [row for row in found if row.id <= int(request["last_sample"])]
    write_dataset(folder / f"{CORE}.jsonl", [Example(row.text, row.label, "live") for row in rows])
    lineage = deployment.bundles.manifest(str(request["bundle"])).lineage
    write_learned(deployment, job.specialist, lineage, folder / "train.jsonl")
    return {
        "task": pack.task.to_json(),
        "suite": pack.suite.to_json(),
        "expected_suite_digest": request["suite"],
        "parts": {CORE: str(folder / f"{CORE}.jsonl")},
        "partial": True,
        "train_file": str(folder / "train.jsonl"),
        "candidate": request["bundle"],
        "primary": None,
        "cause": "schedule",
        "bundles_dir": str(deployment.bundles.root),
        "engines": [one.to_json() for one in deployment.settings.engines],
        "out_file": str(folder / "evaluation.json"),
    }


def finished(unit: Unit, deployment: Deployment, job: Any, result: dict[str, Any]) -> None:
    """Record what the suite says of the primary now, and ask for a retraining where it says no."""
    failed = [str(gate["text"]) for gate in result["gates"] if gate["passed"] is False]
    said = {"job": job.id, "specialist": job.specialist, "bundle": job.request["bundle"], "accepted": not failed}
    unit.record(LOOP, "primary.rechecked", {**said, "failed": failed, "evaluation": result["evaluation_digest"]})
    if failed:
        why = f"the suite fails on fresh labels: {'; '.join(failed)}"
        triggers.decide(unit, deployment, job.specialist, "suite", why, ended=job.id)


def _fresh(unit: Unit, deployment: Deployment, specialist: str, after: int, now_ms: int) -> list[Any]:
    settings = deployment.settings.recheck
    known = deployment.pack(specialist).task.labels
    before = now_ms - int(1000 * settings.matured_s)
    rows = samples.labelled_cases(unit, specialist, settings.most)
    return [row for row in rows if row.id > after and row.at_ms <= before and row.label in known]
