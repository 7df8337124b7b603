"""The taxonomy behind the labels: levels of risk, categories, and their ids in the IAB's Content Taxonomy."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from protos.contract.fields import FieldInvalid, Reader

LEVELS = ("none", "low", "medium", "high", "floor")
FILE = Path(__file__).with_name("taxonomy.toml")
_IAB = re.compile(r"[0-9]{1,4}|[A-Za-z0-9]{6}")


@dataclass(frozen=True, slots=True)
class Category:
    """One category; ``iab`` are its ids in the Content Taxonomy, none where that has no such node."""

    name: str
    title: str
    iab: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """A version of the taxonomy; ``cattax`` is OpenRTB's number for the taxonomy of the ids."""

    version: int
    cattax: int
    levels: dict[str, str]
    categories: tuple[Category, ...]

    @classmethod
    def from_json(cls, value: Any, where: str = "taxonomy") -> Self:
        """Read and check; raises FieldInvalid."""
        read = Reader(value, where)
        said = read.object("levels")
        found = cls(
            version=read.integer("version", 1, 10_000),
            cattax=read.integer("cattax", 1, 1000),
            levels={name: Reader(said, f"{where}.levels").text(name) for name in said},
            categories=tuple(
                _category(item, f"{where}.categories[{i}]") for i, item in enumerate(read.items("categories"))
            ),
        )
        read.done()
        if tuple(found.levels) != LEVELS:
            raise FieldInvalid(f"{where}.levels is {list(found.levels)}, expected {', '.join(LEVELS)}, in that order")
        names = [category.name for category in found.categories]
        ids = [one for category in found.categories for one in category.iab]
        for what, values in (("name", names), ("iab", ids)):
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise FieldInvalid(f"{where}.categories.{what} has {twice!r} twice, expected each once")
        return found

    def iab_of(self, category: str) -> tuple[str, ...]:
        """Return a category's ids; raises KeyError for an unknown one."""
        return {one.name: one.iab for one in self.categories}[category]


def load_taxonomy(path: Path = FILE) -> Taxonomy:
    """Read a ``taxonomy.toml``; raises FieldInvalid."""
    return Taxonomy.from_json(tomllib.loads(path.read_text("utf-8")), path.name)


def bears(tolerance: str, decision: str) -> bool:
    """Say whether a brand that tolerates a level may appear on a page with this decision.

    Raises:
        ValueError: No brand tolerates the floor, or there is no such level.
    """
    if tolerance not in LEVELS[:-1]:
        raise ValueError(f"tolerance is {tolerance!r}, expected one of {', '.join(LEVELS[:-1])}")
    order = ("all", "low", "medium", "high", "nobody")
    return order.index(decision) <= LEVELS.index(tolerance)


def _category(value: Any, where: str) -> Category:
    read = Reader(value, where)
    category = Category(read.text("name"), read.text("title"), read.texts("iab"))
    read.done()
    for one in category.iab:
        if not _IAB.fullmatch(one):
            raise FieldInvalid(f"{where}.iab has {one!r}, expected an id of the IAB Content Taxonomy")
    return category
