"""A pack whose cases are rows of a published file: ``interlock specialist init --from`` writes its folder.

The last fifth of the rows, as the file has them, is the wave; the rest is steady traffic. A quarter of each, by the
hash of their text, is never trained on.
"""

import random
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from controlplane.datasets.rows import Refused, read_cases
from controlplane.errors import Unusable
from controlplane.packs.example import Example
from controlplane.packs.folder import FolderPack, is_held_out
from controlplane.packs.published import Prepare
from controlplane.training.dataset import text_key
from protos.contract.fields import FieldInvalid

CASES = "cases.jsonl.gz"
WAVE_SHARE = 0.2
Part = tuple[bool, bool]  # of the wave, held out


class CasesTooFew(Unusable):
    """A file leaves no case for a part of what a pack has to draw."""


class CasesPack(FolderPack):
    """Draws rows without repeating any, fewer where the file has fewer.

    Where rows weigh, live traffic has each as often as it stands for; a drawn set has it once, with its weight.
    """

    def __init__(self, folder: Path, prepare: Mapping[str, Prepare] = MappingProxyType({})) -> None:
        super().__init__(folder, None, prepare)
        if len(self.sets) != 1:
            raise FieldInvalid(f"pack.toml.sets has {len(self.sets)} tables, expected the one that {CASES} is read as")
        self._file = folder / CASES

    @cached_property
    def _pools(self) -> Mapping[Part, list[Example]]:
        """Read the file, once; raises DataInvalid or CasesTooFew."""
        one = self.sets[0]
        unusable: list[Refused] = []  # rows with a label that the task does not have
        with tempfile.TemporaryDirectory(prefix="interlock-cases-") as scratch:
            file = one.prepared(self._file, Path(scratch))
            found = read_cases(file, one.task, one.columns, one.task.labels, unusable.append)
        rows = list({text_key(case.text): case for case in reversed(found)}.values())[::-1]
        pools: dict[Part, list[Example]] = defaultdict(list)
        for place, case in enumerate(rows):
            is_wave = place >= (1 - WAVE_SHARE) * len(rows)
            example = Example(case.text, case.label, "wave" if is_wave else "steady", case.weight)
            pools[is_wave, is_held_out(case.text)].append(example)
        if len(pools) < 4:
            raise CasesTooFew(f"{self._file} has {len(rows)} cases that differ, expected enough for each part")
        return pools

    def _distinct(self, n: int, seed: str, *, wave: bool, held_out: bool) -> list[Example]:
        pool = self._pools[wave, held_out]
        return random.Random(seed).sample(pool, min(n, len(pool)))  # noqa: S311 - sampling, not secrets

    def _one(self, rng: random.Random, *, wave: bool, held_out: bool) -> Example:
        pool = self._pools[wave, held_out]
        return rng.choices(pool, [example.weight for example in pool])[0]
