"""How commands speak: one JSON document with ``--json``, tables and sentences without."""

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
REFUSED, WRONG_USE = 1, 2
UNBROKEN = 1000  # columns


class Problem(Exception):
    """What a person is told instead of a traceback; ``code`` is the exit code, ``status`` a word for scripts."""

    def __init__(self, message: str, status: str = "FAILED", code: int = REFUSED) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def pairs(given: Sequence[str] | None, option: str, expected: str = "NAME=VALUE") -> dict[str, str]:
    """Read options of two parts; raises Problem."""
    found: dict[str, str] = {}
    for one in given or ():
        name, _, value = one.partition("=")
        if not (name and value) or name in found:
            raise Problem(f"{option} is {one!r}, expected {expected}, each name once", "INVALID_ARGUMENT", WRONG_USE)
        found[name] = value
    return found


def check_folder(folder: Path, what: str) -> None:
    """Refuse what is no folder; raises Problem."""
    if not folder.is_dir():
        raise Problem(f"{folder} is no folder, expected that of {what}", "INVALID_ARGUMENT", WRONG_USE)


def check_place(out: Path) -> None:
    """Refuse a place where no file can be written, before any work is done for it; raises Problem."""
    if out.is_dir():
        raise Problem(f"{out} is a folder, expected a file to write", "INVALID_ARGUMENT", WRONG_USE)
    check_folder(out.absolute().parent, out.name)


def console() -> Console:
    """Return a console on stdout; made late, so that it follows a redirected stdout.

    What is no terminal has no edge to break lines at: a row that is piped on stays one line.
    """
    drawn = Console(soft_wrap=True, highlight=False, markup=False)
    if not drawn.is_terminal and "COLUMNS" not in os.environ:
        drawn.width = UNBROKEN
    return drawn


def visible(text: str) -> str:
    """Write out characters that would move the cursor, change colours or reorder the line."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def marked(text: object, style: str) -> Text:
    """Give words a colour; the words themselves are never read as markup."""
    return Text(visible(str(text)), style)


def say(*parts: RenderableType) -> None:
    """Print sentences and tables for a person, one below the other."""
    shown = console()
    for part in parts:
        shown.print(visible(part) if isinstance(part, str) else part)


def say_json(value: Any) -> None:
    """Print a JSON document."""
    print(json.dumps(value, indent=2, default=str))


def as_dict(message: Message) -> dict[str, Any]:
    """Turn a protobuf message into JSON values under its field names.

    64-bit numbers stay numbers; what is no number, or infinite, is null.
    """
    found: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        # protobuf's JSON writes 64-bit integers as text, for JavaScript's sake.
        if field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64) and isinstance(value, int):
            found[field.name] = value
        elif isinstance(value, float) and not math.isfinite(value):
            found[field.name] = None  # protobuf's JSON writes text, which scripts compare as greater than any number
        elif field.message_type is not None:
            if field.message_type.GetOptions().map_entry:
                if field.message_type.fields_by_name["value"].message_type is None:
                    found[field.name] = dict(value)
            elif isinstance(value, Message):
                if message.HasField(field.name):
                    found[field.name] = as_dict(value)
            else:
                found[field.name] = [as_dict(item) for item in value]
    return found


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, whole: int = 0) -> Table:
    """Draw rows; a cell that is not text yet becomes text.

    The first ``whole`` columns are never broken into lines: ids, which people copy.
    """
    drawn = Table(title=marked(title, ""), title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        drawn.add_column(column, overflow="fold", no_wrap=number < whole)
    for row in rows:
        drawn.add_row(*(cell if isinstance(cell, Text) else marked(cell, "") for cell in row))
    return drawn


def listing(
    columns: Sequence[str], rows: Sequence[Sequence[object]], nothing: str, *, whole: int = 1
) -> RenderableType:
    """Draw rows, or say what it means that there are none."""
    return table("", columns, rows, whole=whole) if rows else marked(nothing, "dim")


def short(digest: str) -> str:
    """Shorten a digest for a table."""
    return digest.removeprefix("sha256:")[:12]


def cut(text: str, most: int) -> str:
    """Shorten a text for a table, and say so."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def minute(at: str) -> str:
    """Shorten a time in ISO 8601, UTC, to the minute."""
    return f"{at[:10]} {at[11:16]} UTC" if at else ""


def percent(basis_points: int) -> str:
    """Write basis points as a percentage."""
    return f"{basis_points / 100:g} %"


@contextmanager
def bar(as_json: bool, what: str = "starting") -> Iterator[Callable[[float, str], None]]:
    """Draw a bar while long work goes on; gives what to call with the share done, 0 to 1, and what is being done."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
    )
    drawn = console()
    with Progress(*columns, console=drawn, disable=as_json or not drawn.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda share, said: progress.update(task, completed=share, description=visible(said))


def tell(problem: Problem, as_json: bool) -> None:
    """Say what went wrong on stderr, and with ``as_json`` as a document on stdout too."""
    if as_json:
        say_json({"error": {"status": problem.status, "message": str(problem)}})
    print(f"error: {visible(str(problem))} ({problem.status})", file=sys.stderr)


def command(work: Callable[..., None]) -> Callable[..., None]:
    """End a command with its exit code and a sentence when it fails, whatever it raised that a user can mend."""

    @wraps(work)
    def run(*args: Any, **given: Any) -> None:
        from controlplane.cli.connection import as_problem

        try:
            work(*args, **given)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            problem = as_problem(error)
            if problem is None:
                raise
            tell(problem, bool(given.get("as_json")))
            raise typer.Exit(problem.code) from error

    return run
