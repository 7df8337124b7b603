"""``interlock drift backtest``: what drift detection would have said of a labelled stream, and when."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli.output import JsonFlag, bar, check_place, command, marked, say, say_json, table


@command
def backtest(
    files: Annotated[list[Path], typer.Argument(help="CSV or JSON Lines, gzipped or not; several are one stream.")],
    label: Annotated[str, typer.Option(help="Column with what was true of each row.")],
    time: Annotated[str, typer.Option(help="Column to order by; without it the file's own order.")] = "",
    text: Annotated[str, typer.Option(help="Column to embed; without it the longest that reads like text.")] = "",
    ignore: Annotated[list[str] | None, typer.Option(help="Column to leave out; repeatable.")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(help="Known change: the first value of the time column, or row, after it; repeatable."),
    ] = None,
    train: Annotated[int, typer.Option(help="Rows that a stand-in engine is fitted on.", min=20)] = 1000,
    reference: Annotated[int, typer.Option(help="Rows that windows are compared with.", min=40)] = 1000,
    window: Annotated[int, typer.Option(help="Rows of a window.", min=20)] = 250,
    rate: Annotated[float, typer.Option(help="False alarm rate of one window.", min=0.0005, max=0.5)] = 0.01,
    persistence: Annotated[int, typer.Option(help="Windows in a row before an alarm.", min=1, max=100)] = 2,
    horizon: Annotated[int, typer.Option(help="Rows after a change within which it counts as found.", min=20)] = 5000,
    seeds: Annotated[int, typer.Option(help="A/A replays: shuffles of the whole stream.", min=1)] = 20,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON to this file.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Replay a labelled stream: false alarms on shuffles of it, delays at its known changes, other detectors beside.

    Shuffled, a stream has no drift: every alarm on a shuffle is a false one. At a known change each
    detector gets an engine and a reference from the rows just before it, and is watched from its first row on.
    """
    from controlplane.backtest.run import Change, Plan
    from controlplane.backtest.run import backtest as run
    from controlplane.backtest.stream import read_stream
    from controlplane.loop.embedding import best_embedder

    if out is not None:
        check_place(out)
    stream = read_stream(files, label=label, time=time, text=text, ignore=ignore or [])
    changes = tuple(Change(name, first_row(stream.times, name)) for name in change or ())
    plan = Plan(train, reference, window, rate, persistence, horizon, seeds, changes)
    with bar(as_json) as progress:
        vectors = None
        if stream.texts is not None:
            progress(0.0, f"embedding {len(stream):,} texts")
            embedder = best_embedder()
            try:
                vectors = embedder.embed([str(value) for value in stream.texts])
            finally:
                embedder.close()
        found = run(stream, vectors, plan, progress)
    if out is not None:
        out.write_text(json.dumps(found, indent=1))
    if as_json:
        say_json(found)
        return
    show(found)


def first_row(times: Any, name: str) -> int:
    """Return the first row whose time is ``name`` or later, numbers compared as numbers."""
    try:
        place, column = float(name), [float(value) for value in times]
    except ValueError:
        return sum(str(value) < name for value in times)
    return sum(value < place for value in column)


def show(found: dict[str, Any]) -> None:
    """Print a back-test as a table."""
    names = [change["name"] for change in found["changes"]]
    rows = []
    for entry in found["detectors"]:
        share = entry["silent_share"]
        setting = "" if entry["setting"] is None else f"{entry['parameter']} {entry['setting']:g}"
        silent = "none is silent enough" if share is None else f"{share:.0%} of {entry['replays']}"
        cells = [_delay(said) for said in entry["changes"]]
        rows.append((entry["detector"], f"{entry['kind']} {setting}".strip(), silent, *cells))
    plan = found["plan"]
    say(
        f"{found['rows']:,} rows; engine fitted on {plan['train']:,}, reference {plan['reference']:,}, windows of "
        f"{plan['window']:,}, {plan['rate']:g} a window, {plan['persistence']} in a row",
        table("", ("detector", "setting", "silent A/A replays", *(f"delay: {name}" for name in names)), rows),
        f"replayed in its own order: {len(found['alarms'])} alarms, engine and reference renewed after each",
    )
    alarms = [(a["row"], a["time"], a["by"]) for a in found["alarms"][:20]]
    if alarms:
        say(table("", ("row", "time", "signal"), alarms))
    if found["rivals"] != "all":
        say(found["rivals"])


def _delay(said: dict[str, Any]) -> Any:
    if said["delay"] is None:
        return marked("not found", "red")
    return marked(f"{said['delay']:,} rows ({said['by']})", "")
