"""What ``deploy/`` says is true of the program: its settings, commands, metrics, and what its manifests refer to."""

import asyncio
import json
import re
import tomllib
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from prometheus_client.parser import text_string_to_metric_families

from controlplane import metrics as control_metrics
from controlplane.cli.app import app
from controlplane.cli.processes import worker_command
from controlplane.settings import ControlSettings
from gateway.settings import GatewaySettings
from perf.processes import free_port
from tests.architecture.test_imports import ROOT
from tests.gateway.deployment import Deployment
from tests.gateway.stories import run

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "interlock.yaml").read_text()))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
DASHBOARD = json.loads((DEPLOY / "grafana" / "interlock.json").read_text())
RULES = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())
WORKLOADS = [manifest for manifest in MANIFESTS if manifest["kind"] in ("Deployment", "StatefulSet")]
KINDS = {
    "ConfigMap": "v1",
    "PersistentVolumeClaim": "v1",
    "Service": "v1",
    "StatefulSet": "apps/v1",
    "Deployment": "apps/v1",
    "PodDisruptionBudget": "policy/v1",
}


def settings_files() -> dict[str, str]:
    found = {"compose": (DEPLOY / "compose" / "interlock.toml").read_text()}
    for manifest in MANIFESTS:
        if manifest["kind"] == "ConfigMap":
            found[manifest["metadata"]["name"]] = manifest["data"]["interlock.toml"]
    return found


@pytest.mark.parametrize("name", settings_files())
def test_every_setting_is_one(name: str, tmp_path: Path) -> None:
    text = settings_files()[name]
    tables = tomllib.loads(text)
    assert set(tables) <= {"gateway", "worker", "controlplane"}
    if "gateway" in tables:
        GatewaySettings.from_json(tables["gateway"], tmp_path)
    if "controlplane" in tables:
        ControlSettings.from_json(tables["controlplane"], tmp_path)
    if "worker" in tables:
        (tmp_path / "interlock.toml").write_text(text)
        assert worker_command(tmp_path / "interlock.toml")


@pytest.mark.parametrize("names", [("compose", "compose"), ("interlock-gateway", "interlock-control")], ids=str)
def test_what_gateways_record_is_sealed_for_the_key_that_the_control_plane_publishes(names: tuple[str, str]) -> None:
    gateway, control = (tomllib.loads(settings_files()[name]) for name in names)
    assert gateway["gateway"]["capture_seal_key"] == control["controlplane"]["capture_seal"]
    assert gateway["gateway"]["capture_dir"] == control["controlplane"]["capture_dir"]


def commands() -> Iterator[tuple[str, list[str]]]:
    for name, service in COMPOSE["services"].items():
        if "build" in service or service["image"].startswith("interlock:"):
            yield f"compose {name}", service["command"]
    for manifest in WORKLOADS:
        for container in manifest["spec"]["template"]["spec"]["containers"]:
            yield f"kubernetes {container['name']}", container["args"]
    for line in re.findall(r"^CMD (.+)$", DOCKERFILE, re.M):
        yield "Dockerfile", json.loads(line)


@pytest.mark.parametrize(("name", "words"), list(commands()))
def test_every_command_is_one(name: str, words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    words = list(words)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def expressions() -> list[str]:
    found = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
    found += [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    variables = [variable for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]
    return found + [variable["query"]["query"] for variable in variables]


def exposed(families: Iterable[Any]) -> set[str]:
    """Each name that a scrape may hold."""
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "summary": ["_count", "_sum"]}
    return {family.name + ending for family in families for ending in endings.get(family.type, [""])}


def test_rules_and_dashboard_ask_for_metrics_that_a_scrape_has(tmp_path: Path) -> None:
    names = exposed(control_metrics.registry.collect())

    async def story(deployment: Deployment) -> None:
        port = free_port()
        workers = ["worker.sock", "other.sock"]  # of one engine there is nothing to choose, and nothing to tell
        deployment.settings |= {"metrics_port": port, "worker_sockets": workers, "hedge_share": 0.01}
        await deployment.start_gateway()

        def read() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
                return str(page.read().decode())

        names.update(exposed(text_string_to_metric_families(await asyncio.to_thread(read))))

    run(tmp_path, story)
    asked = {name for expression in expressions() for name in re.findall(r"\binterlock_\w+", expression)}
    assert len(asked) > 15
    assert asked <= names, asked - names
    recorded = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
    used = {name for expression in expressions() for name in re.findall(r"\binterlock:[\w:]+", expression)}
    assert used <= recorded


def test_every_alert_says_how_bad_it_is_and_what_happened() -> None:
    alerts = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) > 5
    for rule in alerts:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        for words in re.findall(r"interlock (\w+) (\w+)", rule["annotations"].get("action", "")):
            command: Any = typer.main.get_command(app)
            assert words[1] in command.commands[words[0]].commands


def test_the_serving_image_installs_the_extra_that_serves_and_no_other() -> None:
    stage = DOCKERFILE.split(" AS serve\n", 1)[1].split("\nFROM ", 1)[0]
    assert re.findall(r"pip install\s+'/src\[([\w,]+)\]'", stage) == ["serve"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["serve"]
    assert not [name for name in wanted if re.match(r"(torch|transformers|nvidia|scikit)", name)]
    for target in re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.M)[1:]:
        assert f"interlock:{target}" in (DEPLOY / "compose" / "compose.yaml").read_text()
    for source in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M):
        assert all((ROOT / name).exists() for name in source.split())


def test_manifests_refer_only_to_what_they_hold_or_say_is_yours_to_make() -> None:
    text = (DEPLOY / "kubernetes" / "interlock.yaml").read_text()
    held = {(m["kind"], m["metadata"]["name"]) for m in MANIFESTS}
    assert len(held) == len(MANIFESTS)
    for manifest in MANIFESTS:
        assert manifest["apiVersion"] == KINDS[manifest["kind"]]
    pods = {}
    for workload in WORKLOADS:
        spec, name = workload["spec"], workload["metadata"]["name"]
        pod = spec["template"]["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        pods[name] = labels, {port["name"] for c in pod["containers"] for port in c.get("ports", [])}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        volumes |= {claim["metadata"]["name"]: claim for claim in spec.get("volumeClaimTemplates", [])}
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in held
            if "secret" in volume:
                assert f"kubectl create secret generic {volume['secret']['secretName']} " in text
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in held
        used: set[str] = set()
        for container in pod["containers"]:
            mounts = container["volumeMounts"]
            used |= {mount["name"] for mount in mounts}
            assert container["image"] in ("interlock:serve", "interlock:control")
            assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            _paths_are_mounted(container, mounts, volumes)
        assert used == set(volumes)
        if "serviceName" in spec:
            assert ("Service", spec["serviceName"]) in held
    for service in (m for m in MANIFESTS if m["kind"] == "Service"):
        labels, ports = pods[service["metadata"]["name"]]
        assert service["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def _paths_are_mounted(container: dict[str, Any], mounts: list[dict[str, Any]], volumes: dict[str, Any]) -> None:
    """Every absolute path of the settings lies in a mount, and the plan key in the control plane's only."""
    config = next(v["configMap"]["name"] for v in volumes.values() if "configMap" in v)
    tables = tomllib.loads(settings_files()[config])
    paths = re.findall(r'"(?:file://|sqlite:///)?(/[^"]+)"', settings_files()[config])
    places = [mount["mountPath"] for mount in mounts]
    assert paths
    for path in paths:
        assert any(path.startswith(place + "/") for place in places), path
    holds_key = any("plan-key" in mount["name"] for mount in mounts)
    assert holds_key == ("controlplane" in tables)


def test_compose_mounts_what_is_there_and_shares_only_named_volumes() -> None:
    for service in COMPOSE["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            known = source in COMPOSE["volumes"] or (DEPLOY / "compose" / source).exists()
            assert known, source
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")  # what is published further has to name who may call
