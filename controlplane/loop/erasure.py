"""Make captured inputs unreadable by destroying their keys: because somebody asks, or because their time is over."""

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from controlplane.errors import RequestInvalid, StepRefused
from controlplane.loop.deployment import LOOP, Deployment
from controlplane.loop.observe import ASIDE
from controlplane.store import jobs, rollouts, samples, seals, segments
from controlplane.store.store import Unit
from controlplane.store.vault import day_of
from protos import capture_pb2
from protos.contract.draws import pseudonym

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Erased:
    """What was destroyed: keys of inputs, and training sets that held one of them."""

    keys: int
    data_sets: int


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a specialist's inputs can be read, and what can be read now."""

    days: int
    keys: int
    oldest: str  # day; empty where nothing can be read


def erase(
    unit: Unit,
    deployment: Deployment,
    specialist: str,
    *,
    caller: str = "",
    decision: str = "",
    everything: bool = False,
    person: str,
    reason: str,
) -> Erased:
    """Erase what was captured of one caller, of the caller of one decision, or all of it.

    The ledger says that it was done, by whom and why; it never names the caller.

    Args:
        caller: The routing key that the caller's requests carried.
    Raises:
        UnknownSpecialist, RequestInvalid: Not exactly one of the three is given, or the reason names the caller.
        StepRefused: Nothing is kept of that decision or caller, or the decision named no caller.
    """
    deployment.pack(specialist)
    if sum((bool(caller), bool(decision), everything)) != 1:
        raise RequestInvalid("caller, decision_id and everything: expected exactly one of them")
    if caller and re.search(rf"(?<!\w){re.escape(caller)}(?!\w)", reason):
        raise RequestInvalid("reason names the caller, and the ledger keeps it for ever; expected why, and not who")
    subjects = None if everything else _subjects(unit, specialist, caller, decision)
    keys, sets = unit.vault.destroy(specialist, subjects=subjects)
    aside = _set_aside(unit, specialist, caller, subjects)
    if not keys and not aside and not everything:
        raise StepRefused("nothing of it can be read: it was never captured, or is erased already")
    samples.forget_subjects(unit, specialist, subjects)
    keys += _empty_quarantine(unit, aside)
    what = "everything" if everything else "caller" if caller else "caller of a decision"
    said = {"specialist": specialist, "what": what, "keys": keys, "data_sets": sets, "reason": reason}
    unit.record(person, "capture.erased", said)
    _forget_work(unit, deployment, specialist)
    if deployment.settings.capture_seal is not None:
        # What is on its way is sealed for the last key; it goes once gateways have begun new segments.
        seals.publish(unit.vault, deployment.settings.capture_seal, unit.now_ms)
    return Erased(keys, sets)


def expire(deployment: Deployment) -> None:
    """Destroy the keys of inputs that are older than their specialist keeps them, and delete what nobody read."""
    now = deployment.clock()
    longest = max(source.keep_inputs_days for source in deployment.sources.values())
    kept = {name: source.keep_inputs_days for name, source in deployment.sources.items()}
    for specialist, days in (*kept.items(), (segments.QUARANTINE, longest)):
        before = day_of(now - days * DAY_MS)
        keys, oldest = deployment.store.vault.kept(specialist)
        if not keys or oldest >= before:
            continue
        with deployment.store.writing(now) as unit:
            keys, sets = unit.vault.destroy(specialist, before=before)
            said = {"specialist": specialist, "before": before, "keys": keys, "data_sets": sets}
            unit.record(LOOP, "capture.expired", said)
            _forget_work(unit, deployment, specialist)
    seal = deployment.settings.capture_seal
    if seal is not None:
        seals.renew(deployment.store.vault, seal, deployment.settings.capture_dir, now, now - longest * DAY_MS)
    old = [path for path in _segments(deployment) if path.stat().st_mtime * 1000 < now - longest * DAY_MS]
    if old:
        # Damaged ones, and those that no key was ever there for.
        with deployment.store.writing(now) as unit:
            for path in old:
                path.unlink()
            unit.record(LOOP, "capture.expired", {"segments": len(old), "before": day_of(now - longest * DAY_MS)})


def retention(deployment: Deployment, specialist: str) -> Retention:
    """Say how long a specialist's inputs are kept; raises UnknownSpecialist."""
    deployment.pack(specialist)
    keys, oldest = deployment.store.vault.kept(specialist)
    return Retention(deployment.sources[specialist].keep_inputs_days, keys, oldest)


def _subjects(unit: Unit, specialist: str, caller: str, decision: str) -> set[str]:
    """Return the pseudonyms a caller went by: one for every salt there was."""
    if decision:
        found = samples.decision(unit, decision, specialist)
        if found is None or not found[0].subject:
            raise StepRefused(f"decision {decision!r} was not captured, is erased already, or named no caller")
        return {str(found[0].subject)}
    salts = samples.salts(unit, specialist) | {row.state.id for row in rollouts.listed(unit, specialist)}
    return {pseudonym(salt, caller) for salt in salts}


def _set_aside(unit: Unit, specialist: str, caller: str, subjects: set[str] | None) -> set[str]:
    """Return under whose keys quarantine holds something of a caller, whatever specialist it names, or of a specialist.

    What is there may be of rollouts that are not known here: their salts are in the records themselves.
    """
    found = set()
    for _, name, body in segments.quarantined_bodies(unit):
        record = capture_pb2.CaptureRecord.FromString(body)
        kind = record.WhichOneof("body")
        said = getattr(record, kind) if kind else None
        if subjects is None:
            is_wanted = said is not None and said.specialist == specialist
        else:
            is_callers = kind == "sample" and bool(caller) and name.subject == pseudonym(record.sample.salt, caller)
            is_wanted = is_callers or name.subject in subjects
        if is_wanted:
            found.add(name.subject)
    return found


def _empty_quarantine(unit: Unit, subjects: set[str]) -> int:
    """Destroy quarantine's keys of these subjects, and of what may be anybody's; return how many."""
    gone = subjects | {segments.UNREADABLE}
    rows = [row for row, name, _ in segments.quarantined_bodies(unit) if name.subject in gone]
    segments.forget_quarantined(unit, rows)
    return unit.vault.destroy(segments.QUARANTINE, subjects=gone)[0]


def _forget_work(unit: Unit, deployment: Deployment, specialist: str) -> None:
    """Delete the cases that ended jobs left in their folders; one that is tried again prepares them again."""
    names = [job.id for job in jobs.listed(unit, specialist) if job.state not in jobs.UNFINISHED]
    for name in names:
        folder = deployment.settings.work_dir / name
        for path in (*folder.glob("*.jsonl"), folder / "config.json"):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def _segments(deployment: Deployment) -> Iterable[Path]:
    folder = deployment.settings.capture_dir
    return [*folder.glob("*.seg"), *(folder / ASIDE).glob("*.seg")]
