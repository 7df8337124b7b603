"""``interlock label``: cases for people to label, and what they said."""

import csv
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli.connection import CONTROL, ControlOption, learning_at
from controlplane.cli.output import REFUSED, JsonFlag, as_dict, command, cut, listing, say, say_json, table
from protos import learning_pb2 as pb

app = typer.Typer(help="The label queue.", no_args_is_help=True)
Specialist = Annotated[str, typer.Argument(help="The specialist.")]
COLUMNS = ("decision_id", "person", "label")


@app.command("next")
@command
def following(
    specialist: Specialist,
    person: Annotated[str, typer.Option("--as", help="Who is going to label; their own cases are left out.")],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many cases.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Write a CSV to fill in and import.")] = None,
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Show the cases whose labels would teach most: disagreements, fallbacks, close calls, then the rest."""
    with learning_at(control) as server:
        found = server.NextCases(pb.NextCasesRequest(specialist=specialist, person=person, limit=limit)).cases
    if out is not None and found:
        with out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow((*COLUMNS, "text", "why"))
            writer.writerows((case.decision_id, person, "", case.text, case.why) for case in found)
    if as_json:
        say_json([as_dict(case) for case in found])
        return
    rows = [(c.decision_id, c.why, c.decision, f"{c.score:.3f}", c.labels, cut(c.text, 120)) for c in found]
    columns = ("decision", "why", "callers got", "score", "labels so far", "text")
    say(listing(columns, rows, f"nothing left for {person} to label"))
    if out is not None and found:
        say(f"wrote {out}; next, once its labels are filled in: interlock label import {specialist} {out}")


@app.command("import")
@command
def imported(
    specialist: Specialist,
    data: Annotated[Path, typer.Argument(help="CSV, TSV, JSON Lines or Parquet with decision_id, person, label.")],
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Give labels; what most people say of a case becomes its outcome. Rows without a label are skipped."""
    from controlplane.datasets.rows import DataInvalid, read_rows

    rows: list[tuple[int, pb.GivenLabel]] = []
    number = 0
    for number, row in read_rows(data):
        if missing := [name for name in COLUMNS if name not in row]:
            raise DataInvalid(f"{data} has no column {missing[0]!r}, expected {', '.join(COLUMNS)}")
        given = {name: str(row[name] or "").strip() for name in COLUMNS}
        if given["label"]:
            rows.append((number, pb.GivenLabel(**given)))
    if not rows:
        raise DataInvalid(f"{data} has a label in none of its {number} rows, expected one at least")
    with learning_at(control) as server:
        found = server.ImportLabels(pb.ImportLabelsRequest(specialist=specialist, labels=[one for _, one in rows]))
    refused = [{"row": rows[one.row - 1][0], "problem": one.problem} for one in found.refused]
    if as_json:
        say_json({"kept": found.kept, "refused": refused, "without_label": number - len(rows)})
    else:
        say(f"{found.kept} labels kept, {len(refused)} refused, {number - len(rows)} rows without a label")
        if refused:
            say(table("", ("row", "problem"), [(one["row"], one["problem"]) for one in refused]))
    if refused:
        raise typer.Exit(REFUSED)


@app.command("export")
@command
def export(
    specialist: Specialist,
    out: Annotated[Path | None, typer.Option(help="CSV to write; without it, to the terminal.")] = None,
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Write labelled cases with the label of most people, and say how far people agree."""
    with learning_at(control) as server:
        found = server.GetLabels(pb.GetLabelsRequest(specialist=specialist))
    if as_json:
        value: dict[str, Any] = as_dict(found)
        value["alpha"] = found.alpha if found.has_alpha else None
        say_json(value)
        return
    rows = [(c.decision_id, c.label, len(c.given), c.text) for c in found.cases]
    if out is None:
        columns = ("decision", "label", "people", "text")
        say(listing(columns, [(*r[:3], cut(r[3], 120)) for r in rows], "nobody has labelled anything yet"))
    else:
        with out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("decision_id", "label", "people", "text"))
            writer.writerows(rows)
    alpha = f"Krippendorff's alpha {found.alpha:.3f}" if found.has_alpha else "too few cases with two labels for alpha"
    say(f"{len(rows)} cases, {sum(1 for r in rows if not r[1])} without a majority; {alpha}")
    if found.pairs:
        shown = [(p.first, p.second, p.cases, f"{p.kappa:.3f}") for p in found.pairs]
        say(table("", ("person", "person", "cases in common", "Cohen's kappa"), shown))
    sys.stdout.flush()
