"""``interlock bundle gc``: bundles that nothing needs."""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controlplane.cli.bundle_store import open_bundles
from controlplane.cli.output import JsonFlag, command, marked, say, say_json, short, table
from controlplane.cli.processes import CONFIG, ConfigOption
from controlplane.domain.retention import needed_by_plan
from protos import traffic_pb2
from protos.contract.bundle import BundleStore
from protos.contract.digest import parse_json_object
from protos.contract.plan import TrafficPlan
from protos.contract.settings_file import read_tables

if TYPE_CHECKING:
    from controlplane.store.retention import Collected

DAY_S = 86_400
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@command
def gc(
    config: ConfigOption = CONFIG,
    store: Annotated[
        str,
        typer.Option(
            "--store", help="A directory or fsspec URL; without, the control plane's own and its bundles_url."
        ),
    ] = "",
    keep_days: Annotated[float, typer.Option(min=0, help="Younger ones stay whatever needs them.")] = 7.0,
    delete: Annotated[bool, typer.Option("--delete/--dry-run", help="Remove them, or only say what would go.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Find bundles that no plan, rollout, job or way back needs, bases that no bundle refers to, and what killed
    writers left; remove them.
    """
    from controlplane.cli.ledger import check_database
    from controlplane.settings import ControlSettings
    from controlplane.store.retention import collect
    from controlplane.store.store import Store

    settings = ControlSettings.read(config)
    stores = {"": open_bundles(store) if store else BundleStore(settings.bundles_dir)}
    if not store and settings.bundles_url:
        stores[settings.bundles_url] = open_bundles(settings.bundles_url)
    check_database(settings.database)  # an empty one would need no bundle at all
    memory = Store(settings.database)
    found = {}
    try:
        for where, bundles in stores.items():
            # As a writer, so that no plan or rollout begins between the look and the removal.
            with memory.writing(int(time.time() * 1000)) as unit:
                also = _at_gateway(config)
                found[where] = collect(unit, bundles, also, time.time(), keep_days * DAY_S, delete=delete)
    finally:
        memory.close()
    if as_json:
        told = _listed(found.pop(""), delete)
        elsewhere = [{"store": where, **_listed(part, delete)} for where, part in found.items()]
        say_json({**told, "elsewhere": elsewhere} if elsewhere else told)
        return
    for where, part in found.items():
        _show(part, delete, where)


def _listed(found: "Collected", deleted: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"deleted": deleted, "missing": sorted(found.missing)}
    told["unfinished"] = [{"place": place, "bytes": size} for place, size in found.unfinished.items()]
    for prefix, part in (("", found.bundles), ("bases_", found.bases)):
        told[f"{prefix}removable"] = [{"digest": b.digest, "bytes": b.size} for b in part.gone]
        told[f"{prefix}kept"] = [{"digest": digest, "reason": part.kept[digest]} for digest in sorted(part.kept)]
    return told


def _show(found: "Collected", deleted: bool, where: str) -> None:
    word = marked("removed" if deleted else "would go", "red")
    rows: list[tuple[object, ...]] = []
    for what, part in (("bundle", found.bundles), ("base", found.bases)):
        rows += [(what, short(b.digest), word, f"{b.size:,} bytes: nothing needs it") for b in part.gone]
        staying = sorted((reason, digest) for digest, reason in part.kept.items())
        rows += [(what, short(d), marked("stays", "green"), _DIGEST.sub(lambda m: short(m[0]), r)) for r, d in staying]
    for place, size in found.unfinished.items():
        rows.append(("unfinished", short(place.rpartition("/")[2]), word, f"{size:,} bytes: its writer was killed"))
    total = sum(b.size for b in (*found.bundles.gone, *found.bases.gone)) + sum(found.unfinished.values())
    sum_up = f"{total:,} bytes removed" if deleted else f"{total:,} bytes would go; --delete removes them"
    say(table(where, ("", "digest", "", "why"), rows), sum_up)
    for digest, reason in found.missing.items():
        say(f"{digest} is needed ({reason}) and not in the store")


def _at_gateway(config: Path) -> dict[str, str]:
    """Read what the gateway of the same file needs: its preloads, and its last good plan where that is here."""
    gateway = read_tables(config).get("gateway", {})
    needed = {str(digest): "preloaded by the gateway" for digest in gateway.get("preload", [])}
    state = gateway.get("state_dir")
    path = config.parent / str(state) / "plan.pb"
    if state is None or not path.is_file():
        return needed
    offer = traffic_pb2.PlanOffer.FromString(path.read_bytes())
    plan = TrafficPlan.from_json(parse_json_object(offer.plan.payload))
    return needed | needed_by_plan(plan, "the gateway's last good plan")
