"""``interlock shadow``: what the candidate would have done, on the same requests."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

from controlplane.cli.connection import CONTROL, ControlOption, control_at
from controlplane.cli.output import JsonFlag, as_dict, command, marked, percent, say, say_json, short, table, visible
from protos import control_pb2 as pb

app = typer.Typer(help="Shadow: pairs of answers to the same request.", no_args_is_help=True)
COLOURS = {"pass": "green", "fail": "red", "not_yet": "yellow", "error": "magenta"}
BLOCKS = " ▏▎▍▌▋▊▉█"
NO_ANSWER = "no answer"


@app.command("report")
@command
def report(
    specialist: Annotated[str, typer.Argument(help="Its open rollout, else its last one; or a rollout's id.")],
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Compare candidate and primary on the requests that both answered, and list what was not compared."""
    with control_at(control) as server:
        found = server.GetShadowReport(pb.GetShadowReportRequest(rollout=specialist))
    if as_json:
        say_json(as_dict(found))
        return
    if not found.primary_digest and not found.pairs:
        say(f"{found.rollout}: {found.phase}; the first bundle of a specialist has no primary to be compared with")
        return
    when = f"since {found.since[:19]}" if found.since else "over the whole rollout"
    say(
        Text.assemble((found.rollout, "bold"), marked(f": {found.phase}", "")),
        f"candidate {short(found.candidate_digest)} beside primary {short(found.primary_digest) or 'none'}, "
        f"on {percent(found.shadow_bp)} of requests, {when}\n",
        _flow(found),
        "",
    )
    if found.pairs:
        say(_decisions(found), "", *_measures(found))
    say(_shares(found), "", _gates(found))


def _flow(found: Any) -> RenderableType:
    flow = found.flow
    drops = sorted(flow.drops.items(), key=lambda item: -item[1])
    counts = [("offered", flow.offered), ("sent", flow.sent), ("paired", flow.paired), ("recorded", found.pairs)]
    counts += drops + [("on their way, or lost with a gateway", flow.on_their_way)]
    most = max(n for _, n in counts) or 1
    rows = [
        (
            marked(name, "yellow" if name in flow.drops and n else ""),
            _right(f"{n:,}"),
            marked(_bar(n / most, 30), "cyan"),
        )
        for name, n in counts
    ]
    return table("", ("copies", "", ""), rows)


def _decisions(found: Any) -> RenderableType:
    counts = {(d.primary, d.candidate or NO_ANSWER): d.n for d in found.decisions}
    asked = sorted({primary for primary, _ in counts})
    said = sorted(({candidate for _, candidate in counts} | set(asked)) - {NO_ANSWER})
    said += [NO_ANSWER] if any(candidate == NO_ANSWER for _, candidate in counts) else []
    rows: list[Sequence[object]] = []
    for primary in asked:
        cells = [_cell(counts.get((primary, c), 0), found.pairs, is_same=primary == c) for c in said]
        rows.append((primary, *cells))
    differ = sum(n for (primary, candidate), n in counts.items() if primary != candidate)
    title = f"decisions: {differ:,} of {found.pairs:,} pairs differ"
    if found.primary_fallbacks:
        title += f"; in {found.primary_fallbacks:,} the primary's is its fallback"
    if found.failures:
        title += "; no answer: " + ", ".join(f"{name} {n:,}" for name, n in sorted(found.failures.items()))
    return table(title, ("primary \\ candidate", *map(visible, said)), rows)


def _cell(n: int, of: int, *, is_same: bool) -> Text:
    """Draw one cell of the heat map: the count, its share, and a bar of its length."""
    if not n:
        return marked("·", "dim")
    return marked(f"{n:>7,} {n / of:>6.1%} {_bar(n / of, 8)}", "green" if is_same else "red")


def _measures(found: Any) -> list[RenderableType]:
    drawn: list[RenderableType] = []
    measures = (
        ("score", found.score, "{:.3f}", "{:+.3f}", 1.0),
        ("engine ms", found.engine_us, "{:.2f}", "{:+.2f}", 1e3),
    )
    for name, measure, plain, signed, unit in measures:
        if not measure.difference.value:
            continue
        at = measure.difference.at
        rows = [
            (side, *(_right(form.format(value / unit)) for value in quantiles.value))
            for side, quantiles, form in (
                ("primary", measure.primary, plain),
                ("candidate", measure.candidate, plain),
                ("difference, pair by pair", measure.difference, signed),
            )
        ]
        title = f"{name}: quantiles of {found.detailed:,} pairs"
        drawn += [table(title, ("", *(f"p{100 * share:g}" for share in at)), rows), ""]
    return drawn


def _shares(found: Any) -> RenderableType:
    rows = [
        _row("candidate would have met the deadline", found.in_time, "{:.1%}"),
        _row("its engine slower than the primary's", found.slower, "{:.1%}"),
        _row("score, mean difference", found.score_difference, "{:+.3f}"),
        _row("added cost, outcome known", found.known_cost, "{:+.3f}"),
        _row("added cost, as the primary believes", found.expected_by_primary, "{:+.3f}"),
        _row("added cost, as the candidate believes", found.expected_by_candidate, "{:+.3f}"),
    ]
    return table("", ("paired estimate", "value", "interval", "sample"), rows)


def _row(name: str, found: Any, form: str) -> Sequence[object]:
    if not found.sample:
        return name, marked("unknown", "dim"), "", _right("0")
    interval = f"{form.format(found.lower)} … {form.format(found.upper)}"
    return name, _right(form.format(found.value)), interval, _right(f"{found.sample:,}")


def _gates(found: Any) -> RenderableType:
    rows = [
        (
            r.gate.removeprefix("shadow_"),
            marked(r.verdict, COLOURS.get(r.verdict, "")),
            _right(f"{r.value:+.3f}"),
            f"{r.lower:+.3f} … {r.upper:+.3f}",
            _right(f"{r.limit:.3f}"),
            _right(f"{r.sample:,}"),
            _needs(r),
        )
        for r in found.gates
    ]
    return table("", ("gate", "verdict", "value", "interval", "limit", "sample", "still needed, about"), rows)


def _needs(reading: Any) -> str:
    if reading.verdict != "not_yet":
        return ""
    if not reading.sample_missing:
        return "more of the same will not do"
    side = "pass" if reading.value <= reading.limit else "fail"
    return f"{reading.sample_missing:,} to {side}"


def _bar(share: float, width: int) -> str:
    """Draw a share as a bar; anything above nothing shows."""
    eighths = math.ceil(min(share, 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return BLOCKS[8] * full + (BLOCKS[rest] if rest else "")


def _right(text: str) -> Text:
    return Text(text, justify="right")
