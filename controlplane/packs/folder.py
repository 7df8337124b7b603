"""A pack as a folder: task, suite and published sets in TOML, scenarios in Python."""

import random
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from controlplane.evals.suite import Suite, load_suite
from controlplane.packs.example import Example
from controlplane.packs.published import Prepare, PublishedSet
from controlplane.training.dataset import text_key
from protos import decide_pb2
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.statements import check_statements
from protos.contract.task import TaskSpec, check_input, render

TRAINERS = ("encoder", "additive", "trees")
Scalar = str | float | int | bool
_HELD_OUT = "0123"  # first hex digit of a text's key: a quarter of all cases is never trained on


@dataclass(frozen=True, slots=True)
class Scenario:
    """One made-up case: the fields a caller would send, what is true of it, and which part of traffic it is from."""

    fields: Mapping[str, Scalar]
    label: str
    slice: str


# (random source, is it of the new wave) -> one case
Draw = Callable[[random.Random, bool], Scenario]


@dataclass(frozen=True, slots=True)
class PackSettings:
    """A ``pack.toml``: how bundles are made, and the published sets."""

    trainer: str
    analysers: Mapping[str, str] = field(default_factory=dict)
    statements: Mapping[str, str] = field(default_factory=dict)
    sets: tuple[PublishedSet, ...] = ()

    @classmethod
    def read(cls, path: Path, task: TaskSpec) -> "PackSettings":
        """Read the file; raises FieldInvalid."""
        read = Reader(tomllib.loads(path.read_text("utf-8")), path.name)
        settings = cls(
            trainer=read.text("trainer", choices=TRAINERS),
            analysers=read.object("analysers", {}),
            statements=check_statements(read.object("statements", {}), task, f"{path.name}.statements"),
            sets=tuple(
                PublishedSet.from_json(item, task, f"{path.name}.sets[{i}]")
                for i, item in enumerate(read.items("sets", []))
            ),
        )
        read.done()
        return settings


def to_input(task: TaskSpec, fields: Mapping[str, Scalar]) -> decide_pb2.Input:
    """Build what a caller sends; raises InputInvalid or FieldInvalid."""
    given = decide_pb2.Input()
    kinds = {field.name: field.kind for field in task.fields}
    for name, value in fields.items():
        kind = kinds.get(name)
        if kind is None:
            raise FieldInvalid(f"field is {name!r}, expected one of {', '.join(kinds)}")
        setattr(given.fields[name], kind, float(value) if kind == "number" else value)
    check_input(task, given)
    return given


def is_held_out(text: str) -> bool:
    """Say whether a text is never trained on."""
    return text_key(text)[0] in _HELD_OUT


class FolderPack:
    """Draws scenarios, keeps a quarter of them out of training by the hash of their text."""

    def __init__(self, folder: Path, draw: Draw | None, prepare: Mapping[str, Prepare] = MappingProxyType({})) -> None:
        self.task = TaskSpec.from_json(tomllib.loads((folder / "task.toml").read_text("utf-8")))
        self.suite: Suite = load_suite(folder / "suite.toml")
        settings = PackSettings.read(folder / "pack.toml", self.task)
        self.trainer = settings.trainer
        self.analysers = settings.analysers
        self.statements = settings.statements
        self.sets = tuple(replace(one, prepare=prepare.get(one.name)) for one in settings.sets)
        self._draw = draw

    def training_set(self, n: int, seed: int) -> list[Example]:
        """Draw steady examples to train on."""
        return self._distinct(n, f"train/{seed}", wave=False, held_out=False)

    def held_out(self, n: int, seed: int) -> list[Example]:
        """Draw steady examples that are never trained on."""
        return self._distinct(n, f"held/{seed}", wave=False, held_out=True)

    def shifted(self, n: int, seed: int) -> list[Example]:
        """Draw examples of the wave to train on."""
        return self._distinct(n, f"wave/{seed}", wave=True, held_out=False)

    def held_out_shifted(self, n: int, seed: int) -> list[Example]:
        """Draw examples of the wave that are never trained on."""
        return self._distinct(n, f"held-wave/{seed}", wave=True, held_out=True)

    def stream(self, seed: int, shift: float) -> Iterator[Example]:
        """Give live traffic for ever; repeats happen, as they do in traffic."""
        if not 0 <= shift <= 1:
            raise ValueError(f"shift is {shift}, expected 0 to 1")
        rng = random.Random(f"live/{seed}")  # noqa: S311 - scenarios, not secrets
        while True:
            yield self._one(rng, wave=rng.random() < shift, held_out=False)

    def _distinct(self, n: int, seed: str, *, wave: bool, held_out: bool) -> list[Example]:
        rng = random.Random(seed)  # noqa: S311 - scenarios, not secrets
        seen: set[str] = set()
        examples: list[Example] = []
        while len(examples) < n:
            example = self._one(rng, wave=wave, held_out=held_out)
            key = text_key(example.text)
            if key not in seen:
                seen.add(key)
                examples.append(example)
        return examples

    def _one(self, rng: random.Random, *, wave: bool, held_out: bool) -> Example:
        assert self._draw is not None
        while True:
            drawn = self._draw(rng, wave)
            text = render(self.task, to_input(self.task, drawn.fields))
            if is_held_out(text) == held_out:
                return Example(text, drawn.label, drawn.slice)
