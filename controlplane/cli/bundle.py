"""``interlock bundle``: make, look at, check, copy and clear away what engines serve."""

import contextlib
import json
import re
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli.output import REFUSED, JsonFlag, Problem, command, marked, say, say_json, short, table
from controlplane.cli.processes import CONFIG, ConfigOption
from controlplane.domain.retention import Found
from protos import traffic_pb2
from protos.contract.base import FOLDER, BaseInvalid, BaseStore
from protos.contract.bundle import SUFFIXES, BundleInvalid, BundleStore, Manifest
from protos.contract.digest import parse_json_object
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.plan import TrafficPlan
from protos.contract.probe import PROBES, Probe, probes_json, read_probes
from protos.contract.task import TaskSpec
from protos.contract.url_store import UrlStore, bases_of, open_store

app = typer.Typer(help="What engines serve: immutable, named by its content.", no_args_is_help=True)

StoreOption = Annotated[
    str, typer.Option("--store", envvar="INTERLOCK_BUNDLES", help="Bundle store: a directory or any fsspec URL.")
]
Digest = Annotated[str, typer.Argument(help="A bundle, sha256:… or enough of its first digits.")]
STORE = "bundles"
DEFINITION = "bundle.toml"
DAY_S = 86_400
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def _store(where: str, *, must_exist: bool = True) -> BundleStore:
    store = open_store(where)
    if must_exist and not isinstance(store, UrlStore) and not store.root.is_dir():
        raise Problem(f"no bundle store at {where}", "NOT_FOUND")
    return store


def _find(store: BundleStore, wanted: str) -> str:
    """Return the one bundle whose digest begins so."""
    start = "sha256:" + wanted.removeprefix("sha256:").lower()
    found = [digest for digest in store.digests() if digest.startswith(start)]
    if len(found) != 1:
        what = "no bundle" if not found else f"{len(found)} bundles"
        raise Problem(f"{what} in the store begin with {wanted!r}", "NOT_FOUND")
    return found[0]


def _manifest(store: BundleStore, digest: str) -> Manifest:
    try:
        return store.manifest(digest)
    except BundleInvalid as error:
        raise Problem(str(error), "DATA_LOSS") from error


@app.command("build")
@command
def build(
    folder: Annotated[Path, typer.Argument(help=f"Data files and {DEFINITION}: tables task, engine, lineage.")],
    author: Annotated[str, typer.Option(help="Whose bundle it is; that person may not approve it.")],
    store: StoreOption = STORE,
    base: Annotated[Path | None, typer.Option(help="Base model's directory, kept once beside the bundles.")] = None,
    base_name: Annotated[str, typer.Option(help="What the base model is called.")] = "",
    probe: Annotated[
        list[str] | None, typer.Option(help="Text whose answer is recorded and asked again before the bundle serves.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a bundle of a folder; with --probe its engine answers here first."""
    there = _store(store, must_exist=False)
    task, engine, named, lineage = _definition(folder)
    if base is not None:
        digest = _add_base(there, base_name or base.resolve().name, base)
        named = {"name": base_name or base.resolve().name, "digest": digest}
    contents = _contents(folder)
    _check_contents(task, contents)
    made: dict[str, Any] = {"task": task, "engine": engine, "base": named, "lineage": {**lineage, "author": author}}
    if probe:
        contents[PROBES] = _record(there, probe, contents, made)
    manifest = there.add(contents=contents, **made)
    if as_json:
        say_json({"digest": manifest.digest, "files": dict(manifest.files), "base": dict(manifest.base)})
        return
    say(f"{manifest.digest}\n{manifest.task.name} on {manifest.backend}, {len(manifest.files)} files, by {author}")


def _add_base(store: BundleStore, name: str, folder: Path) -> str:
    bases = bases_of(store)
    try:
        if not isinstance(store, UrlStore):
            return bases.add(name, folder)
        with tempfile.TemporaryDirectory(prefix="interlock-build-") as scratch:
            digest = BaseStore(Path(scratch)).add(name, folder)
            bases.take(BaseStore(Path(scratch)), digest)
            return digest
    except BaseInvalid as error:
        raise FieldInvalid(str(error)) from error


def _definition(folder: Path) -> tuple[TaskSpec, dict[str, Any], dict[str, Any], dict[str, Any]]:
    path = folder / DEFINITION
    try:
        read = Reader(tomllib.loads(path.read_text()), DEFINITION)
    except tomllib.TOMLDecodeError as error:
        raise FieldInvalid(f"{path}: {error}") from error
    found = (
        TaskSpec.from_json(read.object("task"), f"{DEFINITION}: task"),
        read.object("engine"),
        read.object("base", {}),
        read.object("lineage", {}),
    )
    read.done()
    return found


def _contents(folder: Path) -> dict[str, bytes]:
    contents = {}
    for path in sorted(p for p in folder.rglob("*") if not p.is_dir()):
        name = str(path.relative_to(folder))
        if name == DEFINITION:
            continue
        if path.is_symlink() or not name.endswith(SUFFIXES):
            raise FieldInvalid(f"{path} is no plain file ending in {', '.join(SUFFIXES)}: code and pickles never are")
        contents[name] = path.read_bytes()
    return contents


def _check_contents(task: TaskSpec, contents: dict[str, bytes]) -> None:
    """Refuse files that could not be loaded; raises FieldInvalid naming the file."""
    from protos.contract.head import HEAD, Head  # numpy, which no other command needs

    if HEAD in contents:
        Head.from_bytes(contents[HEAD], task)
    read_probes(contents, task)
    for name, data in contents.items():
        if name.endswith(".safetensors"):
            _check_safetensors(name, data)
        elif name.endswith(".json"):
            try:
                json.loads(data)
            except ValueError as error:
                raise FieldInvalid(f"{name} is not JSON: {error}") from error


def _check_safetensors(name: str, data: bytes) -> None:
    """Check the header against the length, as a loader does before it believes any offset."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise FieldInvalid(f"{name} is no safetensors: its header of {size} bytes is longer than the file")
    try:
        header = json.loads(data[8 : 8 + size])
        ends = [tensor["data_offsets"][1] for key, tensor in header.items() if key != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise FieldInvalid(f"{name} is no safetensors: {error}") from error
    if max(ends, default=0) != len(data) - 8 - size:
        raise FieldInvalid(f"{name} has {len(data) - 8 - size} bytes of tensors, expected {max(ends, default=0)}")


def _record(store: BundleStore, texts: list[str], contents: dict[str, bytes], made: dict[str, Any]) -> bytes:
    """Serve the bundle without probes for a moment and keep what it answers."""
    from controlplane.evals.engine import WORKER, Engine, EngineFailed
    from protos.decide_pb2 import Input

    task: TaskSpec = made["task"]
    if len(task.fields) != 1 or task.fields[0].kind != "text":
        raise FieldInvalid("--probe is given, expected a task of one text field")
    with tempfile.TemporaryDirectory(prefix="interlock-build-") as scratch:
        trial = BundleStore(Path(scratch))
        digest = trial.add(contents=contents, **made).digest
        command = list(WORKER)
        if isinstance(store, UrlStore):
            command += ["--bundles-url", store.url]
        else:
            command += ["--bases", str((store.root / FOLDER).resolve())]
        try:
            with Engine(Path(scratch), command) as engine:
                engine.load(digest)
                scores = engine.score(digest, [Input(text=text) for text in texts])
        except EngineFailed as error:
            raise Problem(str(error), "FAILED_PRECONDITION") from error
    rendered = [task.template.format_map({task.fields[0].name: text}) for text in texts]
    rows = [tuple(map(float, row)) for row in scores.probabilities]
    return probes_json([Probe(text, row) for text, row in zip(rendered, rows, strict=True)])


@app.command("inspect")
@command
def inspect(digest: Digest, store: StoreOption = STORE, as_json: JsonFlag = False) -> None:
    """Show what a bundle is made of."""
    there = _store(store)
    found = _find(there, digest)
    manifest = _manifest(there, found)
    size = there.size(found)
    if as_json:
        say_json({"digest": found, "bytes": size, **manifest.to_json()})
        return
    rows = [
        ("specialist", manifest.task.name),
        ("labels", ", ".join(manifest.task.labels)),
        ("accepts", f"{manifest.task.label_logprobs} label probabilities"),
        ("engine", json.dumps(dict(manifest.engine), sort_keys=True)),
        ("base", f"{manifest.base['name']} {short(manifest.base['digest'])}" if manifest.base else "none"),
        ("author", manifest.author or "unknown"),
        ("bytes", f"{size:,}"),
    ]
    files = [(name, short(digest)) for name, digest in sorted(manifest.files.items())]
    say(found, table("", ("", ""), rows), table("files", ("file", "sha256"), files))


@app.command("verify")
@command
def verify(
    digests: Annotated[list[str] | None, typer.Argument(help="Bundles; all of the store when none is named.")] = None,
    store: StoreOption = STORE,
    as_json: JsonFlag = False,
) -> None:
    """Hash every byte of bundles, and of the bases they refer to, and read every file that has a form."""
    there = _store(store)
    wanted = [_find(there, digest) for digest in digests] if digests else there.digests()
    checks = [(digest, _problem(there, digest)) for digest in wanted]
    bad = [digest for digest, problem in checks if problem]
    if as_json:
        say_json({"verified": not bad, "bundles": [{"digest": d, "ok": not p, "problem": p} for d, p in checks]})
    else:
        rows = [(short(d), marked("FAILED", "red") if p else marked("ok", "green"), p) for d, p in checks]
        say(table(store, ("bundle", "", "found"), rows))
    if bad:
        raise typer.Exit(REFUSED)


def _problem(store: BundleStore, digest: str) -> str:
    try:
        bundle = store.load(digest)
        _check_contents(bundle.manifest.task, dict(bundle.contents))
        base = str(bundle.manifest.base.get("digest", ""))
        bases = bases_of(store)
        if base and base in bases.digests():
            listing = bases.listing(base)
            for name in listing.files:
                bases.read(base, listing, name)
    except (BundleInvalid, BaseInvalid, FieldInvalid) as error:
        return str(error)
    return ""


@app.command("diff")
@command
def diff(first: Digest, second: Digest, store: StoreOption = STORE, as_json: JsonFlag = False) -> None:
    """Show in what two bundles differ: task, engine, files, base, lineage."""
    there = _store(store)
    names = _find(there, first), _find(there, second)
    left, right = (_flat(_manifest(there, name).to_json()) for name in names)
    changes = [
        {"field": field, "first": left.get(field), "second": right.get(field)}
        for field in sorted(left.keys() | right.keys())
        if left.get(field) != right.get(field)
    ]
    if as_json:
        say_json({"first": names[0], "second": names[1], "changes": changes})
        return
    rows = [(c["field"], _shown(c["first"]), _shown(c["second"])) for c in changes]
    say(table("", ("field", short(names[0]), short(names[1])), rows) if rows else "the same")


def _flat(value: Any, where: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{where}.{key}" if where else key).items()}
    return {where: value}


def _shown(value: Any) -> str:
    text = "-" if value is None else value if isinstance(value, str) else json.dumps(value)
    return short(text) if text.startswith("sha256:") else text


@app.command("export")
@command
def export(
    digest: Digest,
    to: Annotated[str, typer.Option(help="Store to copy to: a directory or any fsspec URL.")],
    store: StoreOption = STORE,
    as_json: JsonFlag = False,
) -> None:
    """Copy a bundle, and the base it refers to, to another store; every byte is verified on the way."""
    there, other = _store(store), _store(to, must_exist=False)
    found = _find(there, digest)
    try:
        bundle = there.load(found)
        other.write(bundle.manifest, bundle.contents)
        other.load(found)
        base = str(bundle.manifest.base.get("digest", ""))
        if base in bases_of(there).digests():
            bases_of(other).take(bases_of(there), base)
    except (BundleInvalid, BaseInvalid) as error:
        raise Problem(str(error), "DATA_LOSS") from error
    if as_json:
        say_json({"digest": found, "to": to, "bytes": other.size(found)})
        return
    say(f"{found} is in {to}")


@app.command("gc")
@command
def gc(
    config: ConfigOption = CONFIG,
    store: Annotated[
        str, typer.Option("--store", help="A directory or fsspec URL; the control plane's own without.")
    ] = "",
    keep_days: Annotated[float, typer.Option(min=0, help="Younger ones stay whatever needs them.")] = 7.0,
    delete: Annotated[bool, typer.Option("--delete/--dry-run", help="Remove them, or only say what would go.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Find bundles that no plan, rollout, job or way back needs, and bases that no bundle refers to; remove them."""
    from controlplane.domain.retention import removable, removable_bases
    from controlplane.settings import ControlSettings
    from controlplane.store.retention import bundles_needed
    from controlplane.store.store import Store

    settings = ControlSettings.read(config)
    bundles = _store(store) if store else BundleStore(settings.bundles_dir)
    bases = bases_of(bundles)
    memory = Store(settings.database)
    try:
        # As a writer, so that no plan or rollout begins between the look and the removal.
        with memory.writing(int(time.time() * 1000)) as unit:
            now, keep_s = time.time(), keep_days * DAY_S
            needed = bundles_needed(unit) | _at_gateway(config)
            found = _found(bundles)
            manifests = _manifests(bundles, [bundle.digest for bundle in found])
            parents = {d: str(m.lineage["parent"]) for d, m in manifests.items() if m.lineage.get("parent")}
            gone, reasons = removable(found, needed, parents, now, keep_s)
            staying = {bundle.digest for bundle in found} - {bundle.digest for bundle in gone}
            # What a manifest that cannot be read refers to is not known: then every base stays.
            references = {d: str(manifests[d].base.get("digest", "")) if d in manifests else None for d in staying}
            gone_bases, base_reasons = removable_bases(_found(bases), references, now, keep_s)
            if delete:
                for bundle in gone:
                    bundles.remove(bundle.digest)
                for base in gone_bases:
                    bases.remove(base.digest)
                if gone or gone_bases:
                    names = {"bundles": [b.digest for b in gone], "bases": [b.digest for b in gone_bases]}
                    where = bundles.url if isinstance(bundles, UrlStore) else str(bundles.root)
                    unit.record("operator", "bundles_removed", {"store": where, **names})
    finally:
        memory.close()
    missing = {digest: needed[digest] for digest in sorted(set(needed) - {bundle.digest for bundle in found})}
    _show_gc(delete, (gone, reasons), (gone_bases, base_reasons), missing, as_json=as_json)


def _found(store: BundleStore | BaseStore) -> list[Found]:
    return [Found(digest, store.made(digest), store.size(digest)) for digest in store.digests()]


def _manifests(store: BundleStore, digests: list[str]) -> dict[str, Manifest]:
    read = {}
    for digest in digests:
        with contextlib.suppress(BundleInvalid):
            read[digest] = store.manifest(digest)
    return read


def _show_gc(
    deleted: bool,
    bundles: tuple[list[Found], dict[str, str]],
    bases: tuple[list[Found], dict[str, str]],
    missing: dict[str, str],
    *,
    as_json: bool,
) -> None:
    if as_json:
        told: dict[str, Any] = {"deleted": deleted, "missing": sorted(missing)}
        for prefix, (gone, reasons) in (("", bundles), ("bases_", bases)):
            told[f"{prefix}removable"] = [{"digest": b.digest, "bytes": b.size} for b in gone]
            kept = {digest: reason for digest, reason in reasons.items() if digest not in missing}
            told[f"{prefix}kept"] = [{"digest": digest, "reason": kept[digest]} for digest in sorted(kept)]
        say_json(told)
        return
    word = marked("removed" if deleted else "would go", "red")
    rows: list[tuple[object, ...]] = []
    for what, (gone, reasons) in (("bundle", bundles), ("base", bases)):
        rows += [(what, short(b.digest), word, f"{b.size:,} bytes: nothing needs it") for b in gone]
        staying = sorted((reason, digest) for digest, reason in reasons.items() if digest not in missing)
        rows += [(what, short(d), marked("stays", "green"), _DIGEST.sub(lambda m: short(m[0]), r)) for r, d in staying]
    total = sum(b.size for b in (*bundles[0], *bases[0]))
    sum_up = f"{total:,} bytes removed" if deleted else f"{total:,} bytes would go; --delete removes them"
    say(table("", ("", "digest", "", "why"), rows), sum_up)
    for digest, reason in missing.items():
        say(f"{digest} is needed ({reason}) and not in the store")


def _at_gateway(config: Path) -> dict[str, str]:
    """Read what the gateway of the same file needs: its preloads, and its last good plan where that is here."""
    from controlplane.domain.retention import needed_by_plan

    gateway = tomllib.loads(config.read_text()).get("gateway", {})
    needed = {str(digest): "preloaded by the gateway" for digest in gateway.get("preload", [])}
    state = gateway.get("state_dir")
    path = config.parent / str(state) / "plan.pb"
    if state is None or not path.is_file():
        return needed
    offer = traffic_pb2.PlanOffer.FromString(path.read_bytes())
    plan = TrafficPlan.from_json(parse_json_object(offer.plan.payload))
    return needed | needed_by_plan(plan, "the gateway's last good plan")
