"""Packs: everything needed to bring one specialist up, by name."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from controlplane.evals.suite import Suite, load_suite
from controlplane.packs.example import Example
from protos.contract.task import TaskSpec


class PackUnknown(ValueError):
    """No pack has that name, or the pack was asked for in a way it does not support."""


class Pack(Protocol):
    """A specialist's task, its locked suite and sources of labelled text."""

    task: TaskSpec  # what the specialist reads and answers
    suite: Suite  # what a candidate must show before it may be rolled out

    def training_set(self, n: int, seed: int) -> list[Example]:
        """Draw ``n`` examples of steady traffic to train on."""
        ...

    def held_out(self, n: int, seed: int) -> list[Example]:
        """Draw ``n`` steady examples that ``training_set`` and ``stream`` never give."""
        ...

    def shifted(self, n: int, seed: int) -> list[Example]:
        """Draw ``n`` fresh examples of the new wave, to train on."""
        ...

    def held_out_shifted(self, n: int, seed: int) -> list[Example]:
        """Draw ``n`` examples of the new wave that ``shifted`` and ``stream`` never give."""
        ...

    def stream(self, seed: int, shift: float) -> Iterator[Example]:
        """Give live traffic for ever; ``shift`` in 0..1 is the share of the new wave."""
        ...


PACKS = ("brand-safety", "labelled-file")
METRIC_MODULES: tuple[str, ...] = ()  # modules that call ``controlplane.evals.registry.register`` when imported


def load_pack(name: str, data: Path | None = None, suite: Path | None = None) -> Pack:
    """Build a pack; ``data`` is the labelled file of ``labelled-file``, ``suite`` replaces the pack's own.

    Raises:
        PackUnknown: No such pack, or ``data`` is missing or not wanted.
        LabelledFileInvalid: The labelled file cannot be used.
        SuiteInvalid: The suite cannot be read.
    """
    pack = _pack(name, data)
    if suite is not None:
        pack.suite = load_suite(suite)
    return pack


def load_metrics() -> None:
    """Have every pack that brings metrics of its own register them; doing so twice is harmless."""
    for module in METRIC_MODULES:
        importlib.import_module(module)


def _pack(name: str, data: Path | None) -> Pack:
    # Imported late: a process that serves one pack should not pay for the others' libraries.
    if name == "brand-safety":
        if data is not None:
            raise PackUnknown(f"pack {name!r} makes its own texts, expected no data file, given {data}")
        from controlplane.packs.brand_safety.pack import BrandSafetyPack

        return BrandSafetyPack()
    if name == "labelled-file":
        if data is None:
            raise PackUnknown(f"pack {name!r} needs a data file, given none")
        from controlplane.packs.labelled_file import LabelledFilePack

        return LabelledFilePack(data)
    raise PackUnknown(f"pack is {name!r}, expected one of {', '.join(PACKS)}")
