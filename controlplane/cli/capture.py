"""``interlock capture``: what gateways recorded of live traffic, what they did not, and taking it elsewhere."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli.connection import CONTROL, ControlOption, observe_at
from controlplane.cli.output import WRONG_USE, JsonFlag, Problem, as_dict, check_place, command, say, say_json, table
from protos import capture_pb2, observe_pb2
from protos.contract.segment import SealedSegment, SegmentInvalid, read_segment

app = typer.Typer(help="Recorded traffic.", no_args_is_help=True)
POLL_S = 0.5
KeyOption = Annotated[Path | None, typer.Option(help="What opens sealed segments: a private key, or a capture_vault.")]


@app.command("tail")
@command
def tail(
    folder: Annotated[Path, typer.Argument(help="Where a gateway writes its segments.")],
    lines: Annotated[int, typer.Option("--lines", "-n", help="Newest records to begin with.", min=0)] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written.")] = False,
    key: KeyOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the newest records of segments that nobody has read away yet."""
    if not folder.is_dir():
        raise Problem(
            f"folder is {str(folder)!r}, expected where a gateway writes its segments", "INVALID_ARGUMENT", WRONG_USE
        )
    offsets: dict[Path, int] = {}
    newest = list(_news(folder, offsets, key))[-lines:] if lines else list(_news(folder, offsets, key))[:0]
    if as_json and not follow:
        say_json([as_dict(record) for record in newest])
        return
    if lines and not newest:
        say(f"{folder} holds no record: none came, or all were read away; `interlock capture stats` counts those")
    for record in newest:
        _say_record(record, as_json)
    while follow:
        time.sleep(POLL_S)
        for record in _news(folder, offsets, key):
            _say_record(record, as_json)


@app.command("stats")
@command
def stats(
    specialist: Annotated[str, typer.Argument(help="Of this specialist.")],
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Show sketches of what was recorded, window by window, and why records were not kept."""
    with observe_at(control) as server:
        found = server.GetObservation(observe_pb2.GetObservationRequest(specialist=specialist))
    if as_json:
        say_json(as_dict(found))
        return
    say(f"{found.samples:,} samples and {found.outcomes:,} outcomes of {specialist} are kept")
    rows = []
    for window in found.windows:
        score = next((q for q in window.quantiles if q.name == "score"), observe_pb2.Quantiles())
        decisions = next((dict(s.share) for s in window.shares if s.name == "decision"), {})
        told = ", ".join(f"{name} {share:.1%}" for name, share in sorted(decisions.items(), key=lambda d: -d[1]))
        quantiles = f"{score.p05:.3f} {score.p50:.3f} {score.p95:.3f}"
        size = f"{window.bytes / 1024:.1f} kB"
        rows.append(
            (window.start[:19], window.arm, f"{window.rows:,}", f"{window.callers:,.0f}", quantiles, told, size)
        )
    columns = ("window", "arm", "requests", "callers, about", "score p5 p50 p95", "decisions", "sketch")
    say(table("", columns, rows))
    if found.not_kept:
        lost = [(k.reason, f"{k.records:,}", k.last[:19]) for k in found.not_kept]
        say(table("not kept, all specialists", ("why", "records", "last"), lost))
    held = [b for b in found.label_batches if b.state == "flagged"]
    if held:
        batches = [(b.source, b.day, f"{b.labels:,}", f"{b.unlearnable:.1%}", f"{b.expected:.1%}") for b in held]
        say(table("labels held back", ("source", "day", "labels", "not learnable", "usually"), batches))


@app.command("export")
@command
def export(
    specialist: Annotated[str, typer.Argument(help="Of this specialist.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    config: Annotated[Path, typer.Option(help="TOML file of the control plane.")] = Path("interlock.toml"),
    as_json: JsonFlag = False,
) -> None:
    """Write samples with their outcomes as Parquet, each with the probability that such a request was recorded."""
    from controlplane.cli.ledger import check_database
    from controlplane.errors import ControlError, UnknownSpecialist
    from controlplane.packs.registry import name_of
    from controlplane.settings import ControlSettings
    from controlplane.store.export import export_samples, has_samples
    from controlplane.store.store import Store
    from controlplane.store.vault import Vault

    check_place(out)
    settings = ControlSettings.read(config)
    known = sorted(name_of(one.pack) for one in settings.specialists)
    check_database(settings.database)
    store = Store(settings.database, Vault(settings.capture_vault))
    try:
        if specialist not in known and not has_samples(store, specialist):
            raise UnknownSpecialist(specialist, known)
        rows = export_samples(store, specialist, out)
    except ControlError as error:
        raise Problem(str(error), "NOT_FOUND") from error
    finally:
        store.close()
    if as_json:
        say_json({"rows": rows, "file": str(out)})
        return
    say(f"wrote {rows:,} samples to {out}")


@app.command("release")
@command
def release(
    specialist: Annotated[str, typer.Argument(help="Of this specialist.")],
    source: Annotated[str, typer.Option(help="Who reported the labels.")],
    day: Annotated[str, typer.Option(help="When, as 2026-11-24.")],
    person: Annotated[str, typer.Option("--as", help="Your name, for the ledger.")],
    reason: Annotated[str, typer.Option(help="Why they are right after all.")],
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Let labels be trained on that were held back because their texts do not speak for them."""
    request = observe_pb2.ReleaseLabelsRequest(
        specialist=specialist, source=source, day=day, requested_by=person, reason=reason
    )
    with observe_at(control) as server:
        server.ReleaseLabels(request)
    if as_json:
        say_json({"released": True, "specialist": specialist, "source": source, "day": day})
        return
    say(f"labels of {source} on {day} may be trained on")


@app.command("erase")
@command
def erase(
    specialist: Annotated[str, typer.Argument(help="Of this specialist.")],
    person: Annotated[str, typer.Option("--as", help="Your name, for the ledger.")],
    reason: Annotated[str, typer.Option(help="Why, for the ledger; do not name the caller.")],
    caller: Annotated[str, typer.Option(help="The routing key its requests carried.")] = "",
    decision: Annotated[str, typer.Option(help="Id of a decision: everything of whoever asked for it.")] = "",
    everything: Annotated[bool, typer.Option("--everything", help="Of every caller.")] = False,
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Make captured inputs unreadable, in every backup too, by destroying their keys; there is no way back."""
    request = observe_pb2.EraseCapturedRequest(
        specialist=specialist,
        caller=caller,
        decision_id=decision,
        everything=everything,
        requested_by=person,
        reason=reason,
    )
    with observe_at(control) as server:
        found = server.EraseCaptured(request)
    if as_json:
        say_json(as_dict(found))
        return
    sets = f", and {found.data_sets} training sets that held their inputs" if found.data_sets else ""
    say(f"{found.keys} keys destroyed{sets}. Models that were trained on them are as they were.")


@app.command("retention")
@command
def retention(
    specialist: Annotated[str, typer.Argument(help="Of this specialist.")],
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Show how long captured inputs can be read, and what can be read now."""
    with observe_at(control) as server:
        found = server.GetRetention(observe_pb2.GetRetentionRequest(specialist=specialist))
    if as_json:
        say_json(as_dict(found))
        return
    now = f"{found.keys:,} keys, the oldest of {found.oldest}" if found.keys else "nothing"
    say(f"inputs of {specialist} can be read for {found.days} days (keep_inputs_days); now {now}")


def _news(folder: Path, offsets: dict[Path, int], key: Path | None) -> Iterator[capture_pb2.CaptureRecord]:
    opener = _opener(key)
    for path in sorted(folder.glob("*.seg")):
        try:
            for record, end in read_segment(path, offsets.get(path, 0), opener):
                offsets[path] = end
                yield record
        except FileNotFoundError:
            continue  # read and removed by the control plane meanwhile
        except SealedSegment as error:
            raise Problem(
                f"{error}; open it with --key: a private key, or the control plane's capture_vault (capture.keys)",
                "FAILED_PRECONDITION",
            ) from error
        except SegmentInvalid as error:
            raise Problem(str(error), "DATA_LOSS") from error


def _opener(key: Path | None) -> Any:
    from protos.contract.seal import read_opener

    if key is None:
        return None
    if not key.is_file() or not _is_database(key):
        return read_opener(key)
    from controlplane.store.seals import opener_of
    from controlplane.store.vault import Vault, is_vault

    if not is_vault(key):
        expected = "expected a private key, or the control plane's capture_vault (capture.keys)"
        raise Problem(f"{key} is a database without such keys, {expected}", "INVALID_ARGUMENT", WRONG_USE)
    return opener_of(Vault(key))


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"


def _say_record(record: capture_pb2.CaptureRecord, as_json: bool) -> None:
    if as_json:
        say_json(as_dict(record))
        return
    kind = record.WhichOneof("body") or "unknown"
    body = getattr(record, kind, None)
    if kind == "sample" and body is not None:
        answer = body.answer
        told = (
            f"{answer.label or 'fallback'} -> {answer.decision}, score {answer.score:.3f}, drawn for {body.drawn_for}"
        )
    elif kind == "shadow_pair" and body is not None:
        told = f"primary {body.primary_decision}, candidate {body.candidate_decision or 'no answer'}"
    elif kind == "outcome" and body is not None:
        told = f"was {body.label}, says {body.source}"
    else:
        told = ", ".join(f"{cause} {n}" for cause, n in sorted(body.by_cause.items())) if body is not None else ""
    say(f"{kind:11} {getattr(body, 'specialist', '')} {getattr(body, 'decision_id', '')} {told}")
