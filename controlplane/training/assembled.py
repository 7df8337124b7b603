"""A bundle put together from a folder of files that were made elsewhere: checked before it is one."""

import stat
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Self

from controlplane.training.forms import check_form
from protos.contract.base import FOLDER, BaseInvalid, BaseStore
from protos.contract.base import SUFFIXES as BASE_SUFFIXES
from protos.contract.bundle import SUFFIXES, BundleStore, Manifest
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.probe import MAX_PROBES, PROBES, Probe, probes_json, read_probes
from protos.contract.servers import RemoteSettings
from protos.contract.task import TaskSpec
from protos.contract.url_store import UrlStore, bases_of

DEFINITION = "bundle.toml"


@dataclass(frozen=True, slots=True)
class Assembled:
    """What a bundle is going to be made of."""

    task: TaskSpec
    engine: Mapping[str, Any]
    base: Mapping[str, Any]
    lineage: Mapping[str, Any]
    contents: Mapping[str, bytes]

    @classmethod
    def of(cls, folder: Path, author: str) -> Self:
        """Read a folder's definition and its data files; raises FieldInvalid naming the file and what is wrong."""
        if not author.strip():
            raise FieldInvalid(f"author is {author!r}, expected whose bundle it is")
        path = folder / DEFINITION
        try:
            read = Reader(tomllib.loads(_plain(path).decode()), DEFINITION)
        except (ValueError, RecursionError) as error:
            raise FieldInvalid(f"{path} is not TOML in UTF-8: {error}") from error
        found = cls(
            TaskSpec.from_json(read.object("task"), f"{DEFINITION}: task"),
            read.object("engine"),
            read.object("base", {}),
            {**read.object("lineage", {}), "author": author},
            _contents(folder),
        )
        read.done()
        check_contents(found.task, found.contents)
        return found

    def on(self, store: BundleStore, name: str, folder: Path) -> Self:
        """Add a base model's directory to the store, and refer to it; raises FieldInvalid."""
        for path in sorted(folder.iterdir()):
            if path.name.endswith(BASE_SUFFIXES) and path.is_file():
                with path.open("rb") as file:
                    check_form(str(path), file, path.stat().st_size)
        try:
            return replace(self, base={"name": name, "digest": _add_base(store, name, folder)})
        except BaseInvalid as error:
            raise FieldInvalid(str(error)) from error

    def probed(self, store: BundleStore, texts: Sequence[str], declared: Sequence[RemoteSettings] = ()) -> Self:
        """Serve the bundle for a moment and keep what it answers, to be asked again before it serves elsewhere.

        One that belongs on a server elsewhere is served by the ``declared`` ones it belongs to.

        Raises:
            FieldInvalid: The task has other fields than one text.
            EngineFailed: No worker or server answered.
        """
        from controlplane.evals.engine import WORKER
        from controlplane.evals.engines import Engines
        from protos.decide_pb2 import Input

        if len(texts) > MAX_PROBES:
            raise FieldInvalid(f"--probe is given {len(texts)} times, expected at most {MAX_PROBES}")
        if len(self.task.fields) != 1 or self.task.fields[0].kind != "text":
            raise FieldInvalid("--probe is given, expected a task of one text field")
        with tempfile.TemporaryDirectory(prefix="interlock-build-") as scratch:
            digest = self.add_to(BundleStore(Path(scratch))).digest
            bases = ["--bases", str((store.root / FOLDER).resolve())]
            command = [*WORKER, *(["--bundles-url", store.url] if isinstance(store, UrlStore) else bases)]
            with Engines(Path(scratch), declared, command) as engine:
                engine.load(digest)
                scores = engine.score(digest, [Input(text=text) for text in texts])
        rendered = [self.task.template.format_map({self.task.fields[0].name: text}) for text in texts]
        rows = [tuple(map(float, row)) for row in scores.probabilities]
        probes = probes_json([Probe(text, row) for text, row in zip(rendered, rows, strict=True)])
        return replace(self, contents={**self.contents, PROBES: probes})

    def add_to(self, store: BundleStore) -> Manifest:
        """Write the bundle."""
        return store.add(
            task=self.task, engine=self.engine, contents=self.contents, base=self.base, lineage=self.lineage
        )


def _add_base(store: BundleStore, name: str, folder: Path) -> str:
    bases = bases_of(store)
    if not isinstance(store, UrlStore):
        return bases.add(name, folder)
    with tempfile.TemporaryDirectory(prefix="interlock-build-") as scratch:
        digest = BaseStore(Path(scratch)).add(name, folder)
        bases.take(BaseStore(Path(scratch)), digest)
        return digest


def _plain(path: Path) -> bytes:
    """Read a file that is one: a pipe may never end. Raises FieldInvalid."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise FieldInvalid(f"{path} is no plain file, expected no pipes or devices")
    return path.read_bytes()


def _contents(folder: Path) -> dict[str, bytes]:
    contents = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name == DEFINITION or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink() or not name.endswith(SUFFIXES):
            raise FieldInvalid(f"{path} is no plain file ending in {', '.join(SUFFIXES)}: code and pickles never are")
        contents[name] = _plain(path)
    return contents


def check_contents(task: TaskSpec, contents: Mapping[str, bytes]) -> None:
    """Refuse files that could not be loaded; raises FieldInvalid naming the file."""
    from protos.contract.head import HEAD, Head  # numpy takes a while

    if HEAD in contents:
        Head.from_bytes(contents[HEAD], task)
    read_probes(contents, task)
    for name, data in contents.items():
        check_form(name, BytesIO(data), len(data))
