"""Ask for an evaluation and prepare it: the locked suite, candidate beside primary and control."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controlplane.datasets.fence import Fence
from controlplane.errors import StepRefused, UnknownBundle
from controlplane.evals.suite import LIVE, SuiteInvalid
from controlplane.loop import opening
from controlplane.loop.deployment import LOOP, Deployment
from controlplane.loop.publish import standing_split
from controlplane.packs.example import Example
from controlplane.packs.registry import TrainingPack
from controlplane.store import jobs, rollouts, samples
from controlplane.store.store import Unit
from controlplane.training.dataset import read_dataset, text_key, write_dataset
from protos.contract.bundle import BundleInvalid
from protos.contract.digest import canonical_json, digest_json, parse_json_object
from protos.contract.servers import NotDeclared, servers_of

CORE, SHIFTED = "core", "shifted"
MOST_DEV = 200  # held-out cases that a training looks at, and that judge nobody
LEAST_LIVE = 50  # live cases below which the suite's questions about them wait
LOOKED_AT = 20_000  # newest labelled samples: beyond them no live case is found
_HELD_LIVE = "048c"  # third hex digit of a text's key: a quarter of live texts, drawn unlike any pack's own share
HELD_OUT_SEED = 1  # the same held-out cases for every candidate, so that evaluations can be compared


def ask(
    unit: Unit,
    deployment: Deployment,
    specialist: str,
    bundle: str,
    *,
    cause: str,
    start_rollout: bool,
    operation_id: str | None = None,
) -> str:
    """Queue an evaluation and return its job's id.

    Raises:
        UnknownBundle, StepRefused: As ``admit``.
    """
    admit(unit, deployment, specialist, bundle, cause=cause)
    request = {"bundle": bundle, "suite": deployment.pack(specialist).suite.digest, "start_rollout": start_rollout}
    return jobs.queue(
        unit, "evaluate", specialist, cause=cause, request=request, author=LOOP, operation_id=operation_id
    )


def admit(unit: Unit, deployment: Deployment, specialist: str, bundle: str, *, cause: str) -> None:
    """Keep a bundle that may have been made elsewhere as one of the specialist's.

    Raises:
        UnknownBundle: The bundle is missing, altered, or made for another task.
        StepRefused: It belongs on a server elsewhere, and none that is declared holds it.
    """
    task = deployment.pack(specialist).task
    try:
        manifest = deployment.bundles.manifest(bundle)
    except (BundleInvalid, ValueError) as error:
        raise UnknownBundle(str(error)) from error
    if manifest.task != task:
        raise UnknownBundle(f"bundle {bundle} is for another task than {specialist!r} has now")
    try:
        servers_of(manifest, deployment.settings.engines)
    except NotDeclared as error:
        raise StepRefused(str(error)) from error
    rollouts.add_bundle(unit, bundle, specialist, cause, manifest.author)


def prepare(deployment: Deployment, job: Any, folder: Path) -> dict[str, Any]:
    """Write an evaluation's cases and return its configuration.

    Raises:
        ArtifactMissing: The data the candidate was trained on is not kept here any more.
        BundleInvalid: The candidate cannot be read.
        SuiteInvalid: The suite was changed after it was locked for the candidate's training.
    """
    pack = deployment.pack(job.specialist)
    bundle = str(job.request["bundle"])
    lineage = deployment.bundles.manifest(bundle).lineage
    _check_lock(pack.suite.digest, lineage, bundle)
    deployment.artifacts.put(canonical_json(pack.suite.to_json()))  # for evidence, by when another may be in force
    train_file = folder / "train.jsonl"
    write_learned(deployment, job.specialist, lineage, train_file)
    parts = {}
    for name, examples in held_out_parts(deployment, job.specialist).items():
        if name == LIVE:
            # Those that came in since the training passed no fence there.
            learned = Fence((row.text for row in read_dataset(train_file)), near=len(pack.task.fields) == 1)
            examples = list(learned.sift(examples).kept)
            if len(examples) < LEAST_LIVE:
                continue
        parts[name] = str(folder / f"{name}.jsonl")
        write_dataset(folder / f"{name}.jsonl", examples)
    with deployment.store.reading() as unit:
        split = standing_split(unit, job.specialist)
    primary = split.primary if split else None
    return {
        "task": pack.task.to_json(),
        "suite": pack.suite.to_json(),
        "expected_suite_digest": job.request["suite"],
        "parts": parts,
        "train_file": str(train_file),
        "candidate": bundle,
        "primary": None if primary == bundle else primary,
        "cause": job.cause,
        "bundles_dir": str(deployment.bundles.root),
        "engines": [one.to_json() for one in deployment.settings.engines],
        "out_file": str(folder / "evaluation.json"),
    }


def write_learned(deployment: Deployment, specialist: str, lineage: Mapping[str, Any], path: Path) -> None:
    """Write what a bundle was trained on, for its control to learn from.

    A bundle that was made elsewhere does not say; its control learns from what a training here would draw.

    Raises:
        ArtifactMissing: It was trained here, and its data are not kept any more.
    """
    if dataset := lineage.get("dataset"):
        path.write_bytes(deployment.artifacts.get(str(dataset)))
    else:
        write_dataset(path, deployment.pack(specialist).training_set(deployment.settings.training.examples, 0))


def _check_lock(suite: str, lineage: Mapping[str, Any], bundle: str) -> None:
    """Refuse to judge a candidate by a suite that was changed after it was locked for its training.

    Raises:
        SuiteInvalid: Another suite than the locked one is in force now.
    """
    locked = lineage.get("suite")
    if locked is not None and locked != suite:
        raise SuiteInvalid(
            f"the suite of {bundle} was locked as {locked} before its training, expected that one and not {suite}; "
            "train again to be judged by the new suite"
        )


def finished(unit: Unit, deployment: Deployment, job: Any, result: dict[str, Any]) -> None:
    """Keep the evaluation and, when it accepted the candidate and that was asked for, open a rollout."""
    body = parse_json_object(Path(str(result["evaluation_file"])).read_bytes())
    digest = digest_json(body)
    rollouts.add_evaluation(unit, digest, job.specialist, body)
    bundle = str(job.request["bundle"])
    said = {"job": job.id, "specialist": job.specialist, "bundle": bundle, "evaluation": digest}
    unit.record(LOOP, "bundle.evaluated", {**said, "accepted": body["accepted"], "suite": body["suite_digest"]})
    split = standing_split(unit, job.specialist)
    is_news = split is None or split.primary != bundle
    if body["accepted"] and job.request["start_rollout"] and is_news and not rollouts.opened(unit, job.specialist):
        opening.start(unit, deployment, job.specialist, bundle, LOOP, operation_id=f"rollout-of-{job.id}")


def held_out_parts(deployment: Deployment, specialist: str) -> dict[str, list[Example]]:
    """Return the cases every candidate of a specialist is judged on, by part; parts without any are left out.

    Live ones, captured traffic whose outcome is known, are among them where the suite asks for them.
    """
    pack, n = deployment.pack(specialist), deployment.settings.training.held_out
    parts = {CORE: core_and_dev(pack, n)[0], SHIFTED: pack.held_out_shifted(n, HELD_OUT_SEED)}
    if LIVE in pack.suite.parts:
        with deployment.store.reading() as unit:
            rows = samples.labelled_cases(unit, specialist, LOOKED_AT)
        parts[LIVE] = [
            Example(row.text, row.label, "live")
            for row in rows
            if row.label in pack.task.labels and is_held_live(row.text)
        ][:n]
    return {name: examples for name, examples in parts.items() if examples}


def core_and_dev(pack: TrainingPack, n: int) -> tuple[list[Example], list[Example]]:
    """Draw the steady cases that candidates are judged on, ``n`` at most, and those that a training looks at.

    A pack of few cases keeps a third of them for the training.
    """
    drawn = pack.held_out(n + MOST_DEV, HELD_OUT_SEED)
    cut = len(drawn) - min(MOST_DEV, max(len(drawn) - n, len(drawn) // 3))
    return drawn[:cut], drawn[cut:]


def is_held_live(text: str) -> bool:
    """Say whether a live text is only ever judged on, and never trained on, where the suite asks for live cases."""
    return text_key(text)[2] in _HELD_LIVE
