"""A bundle's bill of materials: the model with its card, its files, base, data sets and libraries.

Source: CycloneDX 1.6 (ECMA-424), machine-learning profile.
"""

import uuid
from collections.abc import Mapping
from typing import Any

from controlplane.domain.statements import libraries

SPEC_VERSION = "1.6"
_MODEL = "model"
FILE = "file:"
# Metrics are told of the candidate; of which part of the held-out cases, the slice says.
_KINDS = {
    "captured": ["inputs recorded from live callers"],
    "hard": ["inputs recorded from live callers, answered wrong"],
}


def bill_of_materials(
    digest: str,
    bundle: Mapping[str, Any],
    data: Mapping[str, Any] | None,
    evaluation: Mapping[str, Any],
    made_by: Mapping[str, Any],
    finished: str | None,
) -> dict[str, Any]:
    """Describe a bundle as a CycloneDX document; the same bundle and evaluation give the same one.

    Args:
        made_by: What its training said of code and libraries; empty where it was made elsewhere.
        finished: When the training ended, RFC 3339; None leaves the time out.
    """
    base = bundle["base"]
    sets = _data_sets(data, bundle["lineage"])
    packages = [
        {"type": "library", "bom-ref": uri, "name": uri.split("/")[-1].split("@")[0], "purl": uri,
         "version": uri.split("@")[-1].replace("%2B", "+")}
        for uri in libraries(made_by)
    ]  # fmt: skip
    bases = []
    if base:
        bases = [
            {
                "type": "machine-learning-model",
                "bom-ref": "base",
                "name": base["name"],
                "hashes": _hashes(base["digest"]),
            }
        ]
    tool = {"type": "application", "name": "interlock", "version": str(made_by.get("version", "unknown"))}
    metadata: dict[str, Any] = {
        "tools": {"components": [tool]},
        "component": _model(digest, bundle, evaluation, sets),
    }
    if finished:
        metadata["timestamp"] = finished
    others = [*bases, *sets, *packages]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, f"{digest} {evaluation['suite_digest']}").urn,
        "version": 1,
        "metadata": metadata,
        "components": others,
        "dependencies": [{"ref": _MODEL, "dependsOn": [one["bom-ref"] for one in others]}],
    }


def _model(
    digest: str, bundle: Mapping[str, Any], evaluation: Mapping[str, Any], sets: list[dict[str, Any]]
) -> dict[str, Any]:
    files = [
        {"type": "file", "bom-ref": FILE + name, "name": name, "hashes": _hashes(found)}
        for name, found in sorted(bundle["files"].items())
    ]
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": bundle["task"]["name"],
        "version": digest,
        "description": bundle["task"]["description"],
        "hashes": _hashes(digest),
        "components": files,
        "modelCard": _card(bundle, evaluation, sets),
        "properties": [{"name": "interlock:suite", "value": evaluation["suite_digest"]}],
    }
    if (about := evaluation.get("elsewhere", {}).get("candidate")) is not None:  # its weights are no component here
        model["properties"].append({"name": "interlock:weights", "value": about["weights"]})
    if parent := bundle["lineage"].get("parent"):
        ancestor = {"type": "machine-learning-model", "name": bundle["task"]["name"], "version": str(parent)}
        model["pedigree"] = {"ancestors": [ancestor | {"hashes": _hashes(str(parent))}]}
    return model


def _card(bundle: Mapping[str, Any], evaluation: Mapping[str, Any], sets: list[dict[str, Any]]) -> dict[str, Any]:
    task, engine = bundle["task"], bundle["engine"]
    metrics = []
    for part, models in evaluation["values"].items():
        for name, said in models["candidate"].items():
            if said["value"] is None:
                continue
            metric = {"type": name, "value": str(said["value"]), "slice": part}
            interval = said["interval"]
            if interval is not None:
                bounds = {"lowerBound": str(interval["low"]), "upperBound": str(interval["high"])}
                metric["confidenceInterval"] = bounds
            metrics.append(metric)
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "classification",
            "architectureFamily": str(bundle["base"].get("name", "additive") if bundle["base"] else "additive"),
            "modelArchitecture": str(engine.get("backend")),
            "datasets": [{"ref": one["bom-ref"]} for one in sets],
            "inputs": [{"format": f"{field['name']}: {field['kind']}"} for field in task["fields"]],
            "outputs": [
                {"format": f"probabilities of {', '.join(task['labels'])}"},
                {"format": f"one decision of {', '.join(task['decisions'])}"},
            ],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": {
            "useCases": [task["description"]],
            "technicalLimitations": [f"reads at most {task['max_tokens']} tokens of {task['max_input_bytes']} bytes"],
            "performanceTradeoffs": [f"answers {task['fallback_decision']} where it cannot answer in time"],
        },
    }


def _data_sets(data: Mapping[str, Any] | None, lineage: Mapping[str, Any]) -> list[dict[str, Any]]:
    if data is None:
        known = lineage.get("dataset")
        return [_data_set("data-0", "training rows", str(known), "not described", [], "")] if known else []
    found = []
    for i, source in enumerate(data["sources"]):
        told = f"{source['rows']} rows, kind {source['kind']}"
        found.append(
            _data_set(
                f"data-{i}", source["name"], source["digest"], told, _KINDS.get(source["kind"], []), source["licence"]
            )
        )
    return found


def _data_set(ref: str, name: str, digest: str, told: str, sensitive: list[str], licence: str) -> dict[str, Any]:
    one: dict[str, Any] = {"type": "dataset", "name": name, "description": told}
    if sensitive:
        one |= {"classification": "may hold personal data", "sensitiveData": sensitive}
    described: dict[str, Any] = {"type": "data", "bom-ref": ref, "name": name, "hashes": _hashes(digest), "data": [one]}
    if licence:
        described["licenses"] = [{"license": {"name": licence}}]
    return described


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}]
