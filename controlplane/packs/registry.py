"""Packs: everything needed to bring one specialist up, by name."""

import importlib
import importlib.util
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from controlplane.datasets.rows import DataInvalid, read_rows
from controlplane.errors import Unusable
from controlplane.evals.suite import Suite, load_suite
from controlplane.packs.example import Example
from controlplane.packs.published import PublishedSet
from protos.contract.fields import FieldInvalid
from protos.contract.task import TaskSpec


class PackUnknown(Unusable):
    """No pack has that name, or the pack was asked for in a way it does not support."""


class TrainingPack(Protocol):
    """A specialist's task, its locked suite and sources of labelled text: what the control plane asks of a pack."""

    task: TaskSpec  # what the specialist reads and answers
    suite: Suite  # what a candidate must show before it may be rolled out
    trainer: str  # how its bundles are made: "encoder", "additive" or "trees"
    analysers: Mapping[str, str]  # how the additive trainer cuts text fields, where not into words
    statements: Mapping[str, str]  # what a notice says of a field that is a reason
    sets: tuple[PublishedSet, ...]  # data sets of other people's that can be read as its cases

    def training_set(self, n: int, seed: int) -> list[Example]:
        """Draw ``n`` examples of steady traffic to train on."""
        ...

    def held_out(self, n: int, seed: int) -> list[Example]:
        """Draw ``n`` steady examples that ``training_set`` and live traffic never give."""
        ...

    def shifted(self, n: int, seed: int) -> list[Example]:
        """Draw ``n`` fresh examples of the new wave, to train on."""
        ...

    def held_out_shifted(self, n: int, seed: int) -> list[Example]:
        """Draw ``n`` examples of the new wave that ``shifted`` and live traffic never give."""
        ...


class Pack(TrainingPack, Protocol):
    """A pack that also makes up live traffic."""

    def stream(self, seed: int, shift: float) -> Iterator[Example]:
        """Give live traffic for ever; ``shift`` in 0..1 is the share of the new wave."""
        ...


LABELLED_FILE = "labelled-file"
FOLDERS = ("brand-safety", "brand-suitability", "mfa-filter", "bid-shading", "fraud", "credit-risk", "clinical-note")
PACKS = (*FOLDERS, LABELLED_FILE)
SCENARIOS = "scenarios.py"
# Modules that call ``controlplane.evals.registry.register`` when imported.
METRIC_MODULES = tuple(
    f"controlplane.packs.{name}.metrics" for name in ("bid_shading", "brand_suitability", "credit_risk", "fraud")
)


def load_pack(name: str, data: Path | None = None, suite: Path | None = None) -> Pack:
    """Build a pack; ``data`` is the labelled file of ``labelled-file``, ``suite`` replaces the pack's own.

    Raises:
        PackUnknown: No such pack, or ``data`` is missing or not wanted.
        LabelledFileInvalid: The labelled file cannot be used.
        SuiteInvalid: The suite cannot be read.
    """
    if "/" in name or suite is not None:
        load_metrics()  # anybody's suite may ask for any pack's
    pack = _pack(name, data)
    if suite is not None:
        pack.suite = load_suite(suite)
    return pack


def published_set(specialist: str, data: Path) -> PublishedSet | None:
    """Return the published set that a file is one of, by its columns; None for any other file.

    Raises:
        DataInvalid: The file cannot be read.
    """
    if specialist not in FOLDERS and "/" not in specialist:
        return None
    return _recognised((specialist,), data)[1]


def any_published_set(data: Path) -> tuple[str, PublishedSet]:
    """Return the published set that a file is one of, whichever pack's, after that pack's name.

    Raises:
        DataInvalid: The file cannot be read, or is of no set.
    """
    specialist, found = _recognised(FOLDERS, data)
    if found is None:
        known = (f"{one.name} ({', '.join(one.needs)})" for name in FOLDERS for one in load_pack(name).sets)
        raise DataInvalid(f"{data} has not the columns of any published set, expected one of {'; '.join(known)}")
    return specialist, found


def _recognised(specialists: Sequence[str], data: Path) -> tuple[str, PublishedSet | None]:
    columns = next((row for _, row in read_rows(data)), {})
    sets = ((name, one) for name in specialists for one in load_pack(name).sets)
    return next(((name, one) for name, one in sets if one.recognises(columns)), ("", None))


def name_of(specialist: str) -> str:
    """Return the name of a specialist that is named, or whose folder is; raises PackUnknown."""
    return load_pack(specialist).task.name if "/" in specialist else specialist


def load_metrics() -> None:
    """Have every pack that brings metrics of its own register them; doing so twice is harmless."""
    for module in METRIC_MODULES:
        importlib.import_module(module)


def _pack(name: str, data: Path | None) -> Pack:
    # Imported late: a process that serves one pack should not pay for the others' libraries.
    if name in FOLDERS:
        if data is not None:
            raise PackUnknown(f"pack {name!r} makes its own texts, expected no data file, given {data}")
        module: Any = importlib.import_module(f"controlplane.packs.{name.replace('-', '_')}.pack")
        pack: Pack = module.load()
        return pack
    if name == LABELLED_FILE:
        if data is None:
            raise PackUnknown(f"pack {name!r} needs a data file, given none")
        from controlplane.packs.labelled_file import LabelledFilePack

        return LabelledFilePack(data)
    if "/" in name:
        return _own(Path(name))
    raise PackUnknown(f"pack is {name!r}, expected one of {', '.join(PACKS)}, or a folder's path with a slash")


def _own(folder: Path) -> Pack:
    """Build a pack from anybody's folder; its scenarios, or how it reads its cases, are Python and are run."""
    from controlplane.packs.cases import CASES, CasesPack
    from controlplane.packs.folder import FolderPack

    has_cases = (folder / CASES).is_file()
    wanted = ("task.toml", "suite.toml", "pack.toml", *(() if has_cases else (SCENARIOS,)))
    missing = [f for f in wanted if not (folder / f).is_file()]
    if missing:
        raise PackUnknown(
            f"{folder / missing[0]} does not exist, expected a folder as `interlock specialist init` makes"
        )
    try:
        module: Any = _run(folder) if (folder / SCENARIOS).is_file() else None
        prepare = getattr(module, "PREPARE", {})
        return CasesPack(folder, prepare) if has_cases else FolderPack(folder, module.draw, prepare)
    except FieldInvalid as error:
        raise PackUnknown(f"{folder}: {error}") from error
    except (ImportError, SyntaxError, AttributeError, tomllib.TOMLDecodeError) as error:
        raise PackUnknown(f"{folder} cannot be used: {error}") from error


def _run(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"interlock_pack_{folder.name}", folder / SCENARIOS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
