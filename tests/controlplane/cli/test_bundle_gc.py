"""``interlock bundle gc``, and what a gateway keeps of what it fetched: what is needed is never removed."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from controlplane.cli.app import app
from controlplane.domain.rollout import Phase, Rollout, Verdict
from controlplane.store import jobs, plans, rollouts
from controlplane.store.rollouts import RolloutRow
from controlplane.store.store import Store
from protos import traffic_pb2
from protos.contract.base import BaseStore
from protos.contract.bundle import BundleStore
from protos.contract.cached_store import cached, cached_bases
from protos.contract.digest import canonical_json
from protos.contract.plan import Split, TrafficPlan
from protos.contract.url_store import bases_of, open_store
from tests.controlplane.cli.bundles import base_folder, definition, run
from tests.controlplane.cli.fake import said
from tests.tasks import TASK


class Deployment:
    """A control plane's memory, a gateway's state and a store, without processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = BundleStore(root / "bundles")
        self.memory = Store(f"sqlite:///{root / 'control.db'}")
        (root / "state").mkdir()
        paths = {"bundles_dir": "bundles", "capture_dir": "c", "operators": "o.json", "plan_key": "k"}
        lines = [f'{name} = "{value}"' for name, value in paths.items()]
        self.config = root / "interlock.toml"
        self.config.write_text(
            '[gateway]\nstate_dir = "state"\n[controlplane]\ndeployment = "test"\n'
            + "\n".join(lines)
            + '\n[[controlplane.specialists]]\npack = "brand-safety"\n'
        )

    def bundle(self, seed: int, parent: str = "") -> str:
        lineage = {"author": "ann"} | ({"parent": parent} if parent else {})
        digest = self.store.add(
            task=replace(TASK, description=f"number {seed}"),
            engine={"backend": "simulator", "seed": seed},
            contents={},
            base={},
            lineage=lineage,
        ).digest
        os.utime(self.store.path(digest) / "manifest.json", (0, 0))
        return digest

    def envelope(self, generation: int, *digests: str | None) -> tuple[traffic_pb2.Envelope, TrafficPlan]:
        primary, candidate, previous = digests
        split = Split("brand", str(primary), candidate, previous, 0, 0, 0, 0, "r")
        made = TrafficPlan("test", generation, 1, (split,), ())
        return traffic_pb2.Envelope(payload=canonical_json(made.to_json())), made

    def gc(self, *words: str) -> Any:
        return run("bundle", "gc", "--config", str(self.config), *words)


def test_garbage_collection_removes_only_what_nothing_needs(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    names = ("old", "primary", "candidate", "previous", "opened", "trained", "local", "parent", "forgotten")
    made = {name: deployment.bundle(i) for i, name in enumerate(names) if name != "primary"}
    made["primary"] = deployment.bundle(99, parent=made["parent"])
    with deployment.memory.writing(1) as unit:
        plans.add(unit, *deployment.envelope(1, made["old"], None, None), None)
        plans.settle(unit, 1, plans.APPLIED)
        plans.add(unit, *deployment.envelope(2, made["primary"], made["candidate"], made["previous"]), None)
        plans.settle(unit, 2, plans.APPLIED)
        state = Rollout("r1", "brand", Phase.SHADOW, False, made["primary"], made["opened"], 0, (100,), 0, Verdict.PASS)
        rollouts.add(unit, RolloutRow(state, "e", "s", "ann", "ops", started_ms=0, stage_ms=0))
        request = {"candidate": made["trained"]}
        jobs.add(unit, {"id": "j", "kind": "evaluate", "specialist": "brand", "cause": "drift", "request": request})
    offer = traffic_pb2.PlanOffer(plan=deployment.envelope(1, made["local"], None, None)[0])
    (tmp_path / "state" / "plan.pb").write_bytes(offer.SerializeToString())

    looked = deployment.gc()
    gone = {made["old"], made["forgotten"]}
    assert {b["digest"] for b in looked["removable"]} == gone
    assert len(deployment.store.digests()) == len(names)  # only looked
    reasons = {b["digest"]: b["reason"] for b in looked["kept"]}
    assert reasons[made["previous"]] == "previous of brand in plan 2"
    assert reasons[made["opened"]] == "candidate of rollout r1"
    assert reasons[made["trained"]] == "job j"
    assert reasons[made["local"]] == "primary of brand in the gateway's last good plan"
    assert reasons[made["parent"]] == f"parent of {made['primary']}"

    assert deployment.gc("--delete")["deleted"]
    assert set(deployment.store.digests()) == set(made.values()) - gone
    assert deployment.gc("--delete")["removable"] == []


@pytest.mark.parametrize("is_url", [False, True])
def test_what_killed_writers_left_is_removed_once_it_is_old(is_url: bool, tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    root = deployment.store.root
    names = ("a" * 64, f"bases/{'b' * 64}") if is_url else (".adding-x", ".removing-x", "bases/.adding-x")
    left = [root / name for name in (*names, names[0].replace("a", "c"))]
    for folder in left:
        (folder / "adapter").mkdir(parents=True)
        for path in (folder / "adapter" / "m.safetensors", folder / "adapter", folder):
            path.is_dir() or path.write_bytes(b"half")
            os.utime(path, (0, 0))
    (left[-1] / "adapter" / "m.safetensors").write_bytes(b"more")  # somebody is at it
    store = ("--store", f"file://{root}" if is_url else str(root), "--keep-days", "0")
    assert len(deployment.gc(*store)["unfinished"]) == len(left) - 1
    assert all(folder.is_dir() for folder in left)
    deployment.gc(*store, "--delete")
    assert [folder for folder in left if (folder / "adapter" / "m.safetensors").exists()] == left[-1:]
    assert deployment.gc(*store)["unfinished"] == []


def test_a_database_that_is_not_there_is_no_reason_to_remove_everything(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    digest = deployment.bundle(1)
    deployment.memory.close()
    (tmp_path / "control.db").unlink()
    code, found = said("bundle", "gc", "--config", str(deployment.config), "--delete")
    assert (code, found["error"]["status"]) == (1, "NOT_FOUND") and "control.db is no file" in found["error"]["message"]
    assert deployment.store.path(digest).is_dir() and not (tmp_path / "control.db").exists()


def test_the_store_that_others_fetch_from_is_cleared_by_the_same_rule(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    url = f"file://{tmp_path}/origin"
    config = deployment.config.read_text()
    deployment.config.write_text(config.replace("[controlplane]\n", f'[controlplane]\nbundles_url = "{url}"\n'))
    served, spare = deployment.bundle(1), deployment.bundle(2)
    with deployment.memory.writing(1) as unit:
        plans.add(unit, *deployment.envelope(1, served, None, None), None)
        plans.settle(unit, 1, plans.APPLIED)
    for digest in (served, spare):
        run("bundle", "export", digest, "--store", str(deployment.store.root), "--to", url)
    deployment.store.remove(spare)
    found = deployment.gc("--delete", "--keep-days", "0")
    assert found["removable"] == []
    (elsewhere,) = found["elsewhere"]
    assert (elsewhere["store"], [b["digest"] for b in elsewhere["removable"]]) == (url, [spare])
    assert open_store(url).digests() == [served]


def test_a_gateway_that_lags_behind_keeps_its_plans_bundles_and_young_ones_stay(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    lagging, current, young = (deployment.bundle(i) for i in range(3))
    os.utime(deployment.store.path(young) / "manifest.json")
    with deployment.memory.writing(1) as unit:
        for generation, digest in ((1, lagging), (2, current)):
            plans.add(unit, *deployment.envelope(generation, digest, None, None), None)
            plans.settle(unit, generation, plans.APPLIED)
        plans.see_gateway(unit, "g", 1)
    assert deployment.gc("--delete")["removable"] == []
    assert len(deployment.store.digests()) == 3
    assert [b["digest"] for b in deployment.gc("--keep-days", "0")["removable"]] == [young]


@pytest.mark.parametrize("kind", ["memory", "directory"])
def test_bases_go_when_no_bundle_that_stays_refers_to_them(kind: str, tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    where = f"memory://interlock-{tmp_path.name}" if kind == "memory" else str(tmp_path / "bundles")
    made = {}
    for name in ("served", "spare"):
        folder = definition(tmp_path / f"bundle-{name}", f'backend = "simulator"\nseed = {len(made)}')
        base = ("--base", str(base_folder(tmp_path, name)))
        built = run("bundle", "build", str(folder), "--author", "ann", "--store", where, *base)
        made[name] = built["digest"], built["base"]["digest"]
    with deployment.memory.writing(1) as unit:
        plans.add(unit, *deployment.envelope(1, made["served"][0], None, None), None)
        plans.settle(unit, 1, plans.APPLIED)
    store = open_store(where)
    bases = bases_of(store)

    def gc(*words: str) -> Any:
        return deployment.gc("--store", where, *words)

    assert gc()["removable"] == gc()["bases_removable"] == []  # too young, both
    looked = gc("--keep-days", "0", "--dry-run")
    assert [b["digest"] for b in looked["removable"]] == [made["spare"][0]]
    assert [b["digest"] for b in looked["bases_removable"]] == [made["spare"][1]]
    assert looked["kept"] == [{"digest": made["served"][0], "reason": "primary of brand in plan 1"}]
    assert looked["bases_kept"] == [{"digest": made["served"][1], "reason": f"base of {made['served'][0]}"}]
    assert set(bases.digests()) == {made["served"][1], made["spare"][1]}
    shown = CliRunner().invoke(app, ["bundle", "gc", "--config", str(deployment.config), "--store", where])
    assert "bytes would go; --delete removes them" in shown.stdout
    gc("--keep-days", "0", "--delete")
    assert (store.digests(), bases.digests()) == ([made["served"][0]], [made["served"][1]])
    assert run("bundle", "verify", "--store", where)["verified"]


def test_no_base_goes_while_a_bundle_that_stays_cannot_be_read(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    needed = deployment.bundle(1)
    with deployment.memory.writing(1) as unit:
        plans.add(unit, *deployment.envelope(1, needed, None, None), None)
        plans.settle(unit, 1, plans.APPLIED)
    (deployment.store.path(needed) / "manifest.json").write_text("{}")
    base = BaseStore(tmp_path / "bundles" / "bases").add("base", base_folder(tmp_path, "base"))
    looked = deployment.gc("--keep-days", "0", "--delete")
    assert looked["bases_kept"] == [{"digest": base, "reason": f"what {needed} is based on cannot be read"}]


def test_what_was_fetched_is_kept_within_a_size_but_never_at_the_cost_of_what_is_needed(tmp_path: Path) -> None:
    origin = BundleStore(tmp_path / "origin")
    made = [
        origin.add(
            task=TASK,
            engine={"backend": "simulator", "seed": i},
            contents={"a.json": b" " * 10_000},
            base={},
            lineage={},
        ).digest
        for i in range(5)
    ]
    size = origin.size(made[0])
    here = cached(tmp_path / "here", f"file://{tmp_path}/origin", 3 * size + 100)
    own = here.add(task=TASK, engine={"backend": "simulator", "seed": 9}, contents={}, base={}, lineage={}).digest
    for at, digest in enumerate(made):
        here.fetch(digest)
        os.utime(tmp_path / "here" / f".fetched-{digest[-64:]}", (at, at))
    here.load(made[1])  # read last
    os.utime(tmp_path / "here" / f".fetched-{made[1][-64:]}", (9, 9))
    assert here.trim({made[0]}) == made[2:4]
    assert set(here.digests()) == {made[0], made[1], made[4], own}
    assert here.trim({made[0]}) == []
    here.fetch(made[2])  # comes again when it is needed again, and stays for a while whoever needs it
    assert here.trim(made[:2] + made[4:]) == []
    assert set(here.trim(made)) == set()  # all of it is needed: too much, and stays
    assert set(here.digests()) == {made[0], made[1], made[2], made[4], own}
    assert len(list((tmp_path / "here").glob(".fetched-*"))) == 4

    unbounded = cached(tmp_path / "unbounded", f"file://{tmp_path}/origin", 0)
    for digest in made:
        unbounded.fetch(digest)
    assert unbounded.trim(()) == []


def test_bases_that_were_fetched_are_kept_within_a_size_too(tmp_path: Path) -> None:
    origin = BaseStore(tmp_path / "origin" / "bases")
    made = [origin.add(name, base_folder(tmp_path, name)) for name in ("one", "two")]
    here = cached_bases(tmp_path / "here", f"file://{tmp_path}/origin", 1)
    for digest in made:
        here.listing(digest)
        os.utime(tmp_path / "here" / f".fetched-{digest[-64:]}", (0, 0))
    assert here.trim({made[1]}) == [made[0]]
    assert here.digests() == [made[1]]
