"""In-toto statements about a bundle: how it was trained, and what it was asked and answered in its evaluation.

Sources: in-toto Statement v1; SLSA provenance v1; the in-toto predicate test-result v0.1.
"""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from protos.contract.attestation import STATEMENT

PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
TRAINED, MADE_ELSEWHERE = "urn:interlock:training:v1", "urn:interlock:import:v1"
BUNDLE = "bundle"
DEPENDENCIES = {"base": "base-model", "dataset": "training-rows", "data_manifest": "data-manifest", "suite": "suite"}
# What a training's result says of how it went; curves are in the file that the byproduct names.
_TOLD = ("examples", "steps", "best_step", "ended_early", "resumed_at", "training_seconds", "seconds", "final_loss",
         "dev_macro_f1", "dev_accuracy")  # fmt: skip


def subjects(digest: str, bundle: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name a bundle's manifest and every file it lists, as a statement's subjects."""
    return [named(BUNDLE, digest), *(named(name, found) for name, found in sorted(bundle["files"].items()))]


def named(name: str, digest: str, **more: Any) -> dict[str, Any]:
    """Describe a resource by name and SHA-256."""
    return {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}, **more}


def statement(about: list[dict[str, Any]], kind: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """Put a predicate about subjects into a statement."""
    return {"_type": STATEMENT, "subject": about, "predicateType": kind, "predicate": dict(predicate)}


def provenance(
    digest: str,
    bundle: Mapping[str, Any],
    data: Mapping[str, Any] | None,
    job: Mapping[str, Any] | None,
    training: tuple[str, Mapping[str, Any]] | None,
    deployment: str,
) -> dict[str, Any]:
    """State how a bundle came about.

    Args:
        data: Its data manifest, where it is kept.
        job: The training: ``id``, ``cause``, ``request`` and ``finished`` (RFC 3339); None for a bundle made elsewhere,
            of which only what its own manifest claims is stated.
        training: Digest and body of the training's result.
    """
    lineage = bundle["lineage"]
    materials = (
        [named("base-model", bundle["base"]["digest"], uri=_base_uri(bundle["base"]["name"]))] if bundle["base"] else []
    )
    for key, name in DEPENDENCIES.items():
        if key != "base" and lineage.get(key):
            materials.append(named(name, str(lineage[key])))
    if lineage.get("parent"):
        materials.append(named("parent-bundle", str(lineage["parent"])))
    for source in data["sources"] if data is not None else ():
        about = {"kind": source["kind"], "rows": source["rows"], "licence": source["licence"] or "not stated"}
        materials.append(named(f"rows of {source['name']} ({source['kind']})", source["digest"], annotations=about))
    recipe = lineage.get("recipe", {})
    external = {
        "specialist": bundle["task"]["name"],
        "recipe": {name: value for name, value in recipe.items() if name != "search"},
        "search": recipe.get("search"),
        "configuration": lineage.get("configuration"),
    }
    builder: dict[str, Any] = {"id": f"urn:interlock:deployment:{quote(deployment, safe='')}:controlplane"}
    run: dict[str, Any] = {"builder": builder, "metadata": {"invocationId": digest}}
    internal: dict[str, Any] = {"author": lineage.get("author")}
    if job is not None and training is not None:
        made_by = training[1].get("provenance", {})
        if made_by.get("code"):
            materials.append(named("code", made_by["code"], uri=_package("interlock", made_by["version"])))
        materials += [{"uri": uri} for uri in libraries(made_by)]
        builder["version"] = {"interlock": str(made_by.get("version")), "python": str(made_by.get("python"))}
        external |= {"cause": job["cause"], "seed": job["request"].get("seed"), "reason": job["request"].get("reason")}
        internal |= {
            "machine": {name: made_by.get(name) for name in ("platform", "processor", "cores", "memory_mb")},
            "checkpointKey": made_by.get("key"),
        }
        run["metadata"] = {"invocationId": job["id"], "finishedOn": job["finished"]}
        told = {name: training[1][name] for name in _TOLD if name in training[1]}
        run["byproducts"] = [named("training.json", training[0], annotations=told)]
    definition = {
        "buildType": TRAINED if job is not None else MADE_ELSEWHERE,
        "externalParameters": external,
        "internalParameters": internal,
        "resolvedDependencies": materials,
    }
    return statement(subjects(digest, bundle), PROVENANCE, {"buildDefinition": definition, "runDetails": run})


def test_result(
    digest: str,
    bundle: Mapping[str, Any],
    evaluation_digest: str,
    evaluation: Mapping[str, Any],
    held_out: Mapping[str, str],
) -> dict[str, Any]:
    """State what the locked suite demanded of a bundle, and what held; ``held_out`` are its parts' digests by name."""
    configuration = [named("suite", evaluation["suite_digest"]), named("evaluation", evaluation_digest)]
    for part, found in sorted(held_out.items()):
        configuration.append(named(f"held-out part {part}", found))
    by_outcome: dict[bool | None, list[str]] = {True: [], False: [], None: []}
    for gate in evaluation["gates"]:
        by_outcome[gate["passed"]].append(gate["text"])
    predicate = {
        "result": "PASSED" if evaluation["accepted"] else "FAILED",
        "configuration": configuration,
        "passedTests": by_outcome[True],
        "warnedTests": by_outcome[None],  # not asked: there was nothing to compare with
        "failedTests": by_outcome[False],
    }
    return statement(subjects(digest, bundle), TEST_RESULT, predicate)


def libraries(made_by: Mapping[str, Any]) -> list[str]:
    """Return package URLs of the libraries a training used."""
    found: Mapping[str, str] = made_by.get("libraries", {})
    return [_package(name, version) for name, version in sorted(found.items()) if version != "absent"]


def digests_of(resources: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return named resources' digests as ``sha256:…``, by name."""
    return {r["name"]: "sha256:" + r["digest"]["sha256"] for r in resources if "name" in r and "digest" in r}


def _package(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{quote(version, safe='.-_')}"


def _base_uri(name: str) -> str:
    owner, slash, model = name.partition("/")
    return f"pkg:huggingface/{owner}/{model}" if slash else f"urn:interlock:base:{quote(name, safe='')}"
