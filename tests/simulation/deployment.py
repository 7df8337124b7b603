"""A deployment played from a seed: operators, control plane, gateways, crashes, clocks, backups, a thief.

python -m tests.simulation.deployment --seeds 3000
python -m tests.simulation.deployment --seed 1234        # replays one, and says what happened
"""

import argparse
import atexit
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from controlplane.domain.rollout import OPEN, Phase
from perf.results import commit, machine
from protos.contract.plan import Split
from tests.simulation import gates, harm
from tests.simulation.gates import Gate
from tests.simulation.invariants import check, check_liveness
from tests.simulation.plant import Plant, Refused

EVENTS = 40
ROUNDS = 4
# What a run met, and the words of its log that say so.
MET = {
    "plans applied": "applied ",
    "plans refused": "approval_",
    "ledgers refused": "ledger_",
    "kills": "killed: killed",
    "gateway restarts": "restarted",
    "old databases": "an old database runs",
    "forged plans": " smuggled",
    "forked ledgers": "fork: ",
    "local rollbacks": " left ",
    "rollouts promoted": "primary 0",
    "rollouts rolled back": "rolled_back",
    "erasures": " keys of ",
    "clock jumps": "clock: ",
}
CALLERS = ("site-1", "site-2")
PEOPLE = ("ann", "bob", "eve", "oli", "own")
SHM = Path("/dev/shm")  # noqa: S108 - databases that need not outlive a run


class InvariantBroken(AssertionError):
    """What must never happen did; the message names the seed that shows it."""


class Simulation:
    """One run. ``log`` says what happened, in order."""

    def __init__(self, seed: int, root: Path) -> None:
        self.seed = seed
        self.draw = random.Random(seed)
        self.plant = Plant(root)
        self.log: list[str] = []
        self.backups: list[Path] = []
        self.latest_ms = 0  # what the clock said before somebody turned it back
        # Whoever edits the database can keep gateways from agreeing; without such a person they have to.
        self.is_honest = seed % 2 == 1
        self.events: tuple[Callable[[], str], ...] = (
            *(self.forward,) * 8,
            *(self.deliver,) * 5,
            *(self.tick,) * 3,
            *(self.approve, self.measure) * 2,
            *(self.start, self.judge, self.person, self.clock, self.restart, self.killed),
            *(self.roll_back_locally, self.backup, self.old_database, self.new_gateway),
            *(self.capture, self.capture, self.erase),
            *(() if self.is_honest else (self.smuggle, self.fork)),
        )

    def run(self) -> "Simulation":
        """Play every event; raises InvariantBroken."""
        try:
            self.event(self.bootstrap)
            for _ in range(EVENTS):
                self.event(self.draw.choice(self.events))
            self.event(self.settle)
        finally:
            self.plant.close()
        return self

    def event(self, work: Callable[[], str]) -> None:
        try:
            try:
                said = work()
            except Refused as refused:
                said = f"refused, {refused}"
            self.log.append(f"{work.__name__}: {said}")
            check(self.plant)
        except Exception as broken:
            story = "\n".join(self.log)
            again = f"python -m tests.simulation.deployment --seed {self.seed}"
            raise InvariantBroken(
                f"seed {self.seed}: {work.__name__}: {broken!r}\n{story}\nreplay: {again}"
            ) from broken

    def gate(self) -> Gate:
        return self.draw.choice(self.plant.gates)

    # What people and the control plane do as they should

    def bootstrap(self) -> str:
        plant, first = self.plant, self.plant.bundles[0]
        plant.judge(first, is_accepted=True)
        plant.start(first)
        plant.tick()
        for name in self.draw.sample(("ann", "bob", "eve"), 2):
            plant.approve(name)
        said = [gates.deliver(plant, gate) for gate in plant.gates]
        return "; ".join(said)

    def forward(self) -> str:
        """Everybody does the next right thing."""
        plant, row = self.plant, self.plant.rollout()
        split = plant.split()
        if row is None or row.state.phase not in OPEN:
            if split is None:
                return "no plan"
            bundle = self.draw.choice([b for b in plant.bundles if b != split.primary])
            plant.judge(bundle, is_accepted=True)
            return plant.start(bundle)
        if row.state.held:
            return plant.person("ResumeRollout")
        if row.state.phase is Phase.CANDIDATE:
            return plant.judge(row.state.candidate, is_accepted=True)
        if row.evidence is None:
            plant.measure("good")
            said = plant.tick()
            return f"{said}; {'; '.join(gates.deliver(plant, gate) for gate in plant.gates)}"
        people = ("bob", "eve") if row.state.candidate == plant.bundles[3] else ("ann", "bob", "eve")
        for name in self.draw.sample(people, 2):
            plant.approve(name)
        return f"{plant.tick()}; {'; '.join(gates.deliver(plant, gate) for gate in plant.gates)}"

    def settle(self) -> str:
        """At the end everything works again: within a few rounds gateways are on the plan that stands."""
        plant = self.plant
        harm.mend(plant)
        plant.now_ms = max(plant.now_ms, self.latest_ms)
        for _ in range(ROUNDS):
            plant.now_ms += 5_000
            self.log.append(f"tick: {plant.tick()}")
            said = {gate.name: gates.deliver(plant, gate) for gate in plant.gates}
            self.log += said.values()
        if self.is_honest:
            self.reinstall([g for g in plant.gates if g.is_misled and "approval_" in said[g.name]])
            return check_liveness(plant)
        content = [g for g in plant.gates if said[g.name].endswith("no news") or "applied" in said[g.name]]
        alike = {gate.plan.generation for gate in content if not gate.is_diverted}
        states = [(gate.name, gate.plan.generation, gate.is_diverted) for gate in plant.gates]
        assert len(alike) <= 1, f"2: gateways stay on plans {states}"
        return f"plan {alike}"

    def reinstall(self, misled: list[Gate]) -> None:
        """Set gateways up anew that an old database told that nothing newer stood.

        What people approved had lapsed by then, so that what the newest database had already made of it is refused,
        as it would be if somebody with the plan key dated a plan back.
        """
        for gate in misled:
            self.log.append(gates.renew(self.plant, gate))
            (fresh,) = (g for g in self.plant.gates if g.name == gate.name)
            self.log.append(gates.deliver(self.plant, fresh))

    # What else happens

    def deliver(self) -> str:
        return gates.deliver(self.plant, self.gate(), is_heard=self.draw.random() < 0.8)

    def tick(self) -> str:
        return self.plant.tick()

    def measure(self) -> str:
        return self.plant.measure(self.draw.choice(("good", "good", "bad", "odd")))

    def capture(self) -> str:
        return self.plant.capture(self.draw.choice(CALLERS))

    def erase(self) -> str:
        return self.plant.erase(self.draw.choice(CALLERS))

    def approve(self) -> str:
        """Somebody signs, not always as they should."""
        odd: dict[str, Any] = self.draw.choice(
            ({}, {}, {}, {"audience": "staging"}, {"expires": self.plant.now_ms // 1000}, {"author": "nobody"})
        )
        return self.plant.approve(self.draw.choice(PEOPLE), self.draw.choice((0, 0, 500)), **odd)

    def start(self) -> str:
        bundle = self.draw.choice(self.plant.bundles)
        self.plant.train(bundle)
        return self.plant.start(bundle)

    def judge(self) -> str:
        return self.plant.judge(self.draw.choice(self.plant.bundles), is_accepted=self.draw.random() < 0.7)

    def person(self) -> str:
        calls = ("HoldRollout", "ResumeRollout", "RejectRollout", "RollBack")
        return self.plant.person(self.draw.choice(calls), self.draw.choice(PEOPLE))

    def clock(self) -> str:
        by = self.draw.choice((-7_200, -60, 60, 1_800, 7_200, 90_000))
        self.latest_ms = max(self.latest_ms, self.plant.now_ms)
        self.plant.now_ms += 1_000 * by
        return f"{by:+d} s"

    def restart(self) -> str:
        return gates.start(self.plant, self.gate())

    def new_gateway(self) -> str:
        """Nobody but whoever installs gateways can make one forget; it is told by the newest database only."""
        harm.mend(self.plant)
        gate = self.draw.choice([g for g in self.plant.gates if g.is_diverted] or self.plant.gates)
        return gates.renew(self.plant, gate)

    def killed(self) -> str:
        """The control plane dies inside a step that has something to do, most often."""
        self.plant.measure(self.draw.choice(("good", "bad")))
        return self.plant.killed_tick(self.draw.randrange(4))

    def roll_back_locally(self) -> str:
        return gates.roll_back(self.plant, self.gate(), self.draw.choice((*PEOPLE, "nobody")))

    def wanted(self, now: Split) -> Split:
        pick, bundles = self.draw.choice, self.plant.bundles
        candidate = pick([*bundles, None])
        return Split(
            now.specialist,
            pick([now.primary, *bundles]),
            candidate,
            pick([now.previous, *bundles, None]),
            pick((0, 500, 2_000, 9_999)) if candidate else 0,
            pick((0, 5_000)) if candidate else 0,
            now.capture_bp,
            0,
            pick((now.salt, "stolen")),
        )

    def smuggle(self) -> str:
        """Somebody edits the database, with or without the plan key's ledger entry."""
        now = self.plant.split()
        if now is None:
            return "no plan"
        return harm.smuggle(self.plant, self.wanted(now), is_recorded=self.draw.random() < 0.5)

    def fork(self) -> str:
        """Somebody runs a control plane of their own with the stolen plan key."""
        gate = self.gate()
        now = gates.in_force(self.plant, gate)
        if now is None or self.plant.newest is not None:
            return "not now"
        said = harm.fork(
            self.plant,
            gate,
            self.draw.choice((self.wanted(now), replace(now, candidate=None, canary_bp=0, shadow_bp=0))),
        )
        if gate.is_diverted:
            # What the real one says next does not continue what this gateway was shown.
            self.plant.tick()
            with self.plant.writing() as unit:
                unit.record("oli", "note", {"n": self.plant.numbers})
            again = harm.smuggle(self.plant, now, is_recorded=True) + "; " + gates.deliver(self.plant, gate)
            assert "applied" not in again, f"6: {gate.name} went back to the real ledger: {again}"
            said += f"; {again}"
        return said

    def backup(self) -> str:
        if self.plant.newest is not None:
            return "not of an old database"
        self.backups.append(harm.backup(self.plant))
        return "copied"

    def old_database(self) -> str:
        """The control plane comes back on an old copy of its database, or, if it runs on one, on the newest."""
        if self.plant.newest is not None:
            return harm.mend(self.plant)
        if not self.backups:
            return "no copy"
        return harm.old_backup(self.plant, self.draw.choice(self.backups))


def play(seed: int) -> Simulation:
    """Run one seed in a folder that every seed of this process begins anew."""
    folder = own_folder()
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return Simulation(seed, folder).run()


@cache
def own_folder() -> Path:
    """Return a folder of this process, deleted with it."""
    folder = tempfile.mkdtemp(prefix="interlock-simulation-", dir=SHM if SHM.is_dir() else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def played(seed: int) -> tuple[int, str, bool]:
    """Run one seed: what happened, and whether an invariant broke."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        return seed, "\n".join(play(seed).log), False
    except InvariantBroken as found:
        return seed, str(found), True


def played_until(ends: float, seed: int) -> tuple[int, str, bool] | None:
    """Run one seed, unless it is later than a Unix time."""
    return played(seed) if time.time() < ends else None


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("python -m tests.simulation.deployment")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="replay this one and say what happened")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no seed later than this")
    parser.add_argument("--record", type=Path, help="write what came of it as JSON")
    chosen = parser.parse_args()
    if chosen.seed is not None:
        _, words, is_broken = played(chosen.seed)
        print(words)
        sys.exit(is_broken)
    began, count, broken, met = time.perf_counter(), 0, list[int](), Counter[str]()
    seeds, ends = range(chosen.first, chosen.first + chosen.seeds), time.time() + 60 * chosen.minutes
    with ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn")) as pool, progress_bar() as bar:
        runs = pool.map(partial(played_until, ends), seeds, chunksize=4)
        for seed, words, is_broken in bar.track(filter(None, runs), total=len(seeds)):
            count += 1
            met.update(what for what in MET for _ in range(words.count(MET[what])))
            met["events"] += words.count("\n") + 1
            if is_broken:
                broken.append(seed)
                bar.console.print(words, markup=False)
    took = time.perf_counter() - began
    print(f"{count} seeds in {took:.0f} s ({count / took:.2f} a second), {len(broken)} broken: {dict(met)}")
    if chosen.record is not None:
        said = {
            "commit": commit(), "machine": machine(), "first": chosen.first, "seeds": count, "jobs": chosen.jobs,
            "seconds": round(took), "met": dict(sorted(met.items())), "broken": broken,
        }  # fmt: skip
        chosen.record.write_text(json.dumps(said, indent=1) + "\n")
    sys.exit(1 if broken else 0)


def progress_bar() -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


if __name__ == "__main__":
    main()
