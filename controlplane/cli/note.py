"""``interlock note``: the structured note of an encounter, statement by statement as a gateway answers."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer

from controlplane.cli.connection import GATEWAY, gateway_at
from controlplane.cli.decide import GatewayOption
from controlplane.cli.output import WRONG_USE, JsonFlag, Problem, command, marked, say, say_json, visible
from protos import decide_pb2

SPECIALIST = "clinical-note"
_ENGINE_TOKENS = 4096


@command
def note(
    transcript: Annotated[Path, typer.Argument(help="The encounter, a turn a line: `Doctor: ...`.")],
    specialist: Annotated[str, typer.Option(help="Who writes it.")] = SPECIALIST,
    generate: Annotated[bool, typer.Option(help="Have a generative engine write it, held to the schema.")] = False,
    free: Annotated[bool, typer.Option(help="With --generate: in its own words; what nobody said is flagged.")] = False,
    timeout_s: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds the note may take.")] = 60.0,
    gateway: GatewayOption = GATEWAY,
    as_json: JsonFlag = False,
) -> None:
    """Write the note of an encounter; every statement says where in the transcript it is from."""
    from controlplane.packs.clinical_note.note import check_note

    try:
        said = transcript.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise Problem(f"{transcript}: {error}", "INVALID_ARGUMENT", WRONG_USE) from error
    if not said.strip():
        raise Problem(f"{transcript} is empty, expected turns such as 'Doctor: ...'", "INVALID_ARGUMENT", WRONG_USE)
    show = None if as_json else sys.stdout
    with gateway_at(gateway) as stub:
        try:
            if generate:
                found = _generated(stub, specialist, said, timeout_s, show, is_free=free)
            else:
                found = _chosen(stub, specialist, said, timeout_s, show)
        except grpc.RpcError as error:
            raise Problem(f"{specialist}: {error.details()}", error.code().name) from error
    problems = [] if generate else check_note(found, said)
    if problems:
        raise Problem(f"the note is not grounded: {problems[0]}", "INTERNAL")
    if as_json:
        say_json(found)
        return
    told = sum(len(statements) for statements in found["sections"].values())
    left = f"; {found['omitted']} sentences left out" if "omitted" in found else ""
    bad = found.get("ungrounded", 0)
    say(marked(f"{told} statements, {bad} of them not in the transcript{left}", "red" if bad else ""))


def _chosen(stub: Any, specialist: str, said: str, timeout_s: float, show: Any) -> dict[str, Any]:
    """Ask for each sentence, and show what is kept as soon as it is answered."""
    from controlplane.packs.clinical_note.note import Answer, Turn, answer_of, note_of, request_of, statements

    def decide(turns: Sequence[Turn]) -> Sequence[Answer]:
        requests = [request_of(turn) for turn in turns]
        for request in requests:
            request.specialist = specialist
        batch = decide_pb2.DecideBatchRequest(requests=requests)
        return [answer_of(one) for one in stub.DecideBatch(batch, timeout=timeout_s).responses]

    def shown() -> Iterator[tuple[str, dict[str, Any]]]:
        for section, statement in statements(said, decide):
            if section and show is not None:
                start, end = statement["span"]
                say(visible(f"{section:12} {statement['text']}  ({start}-{end})"))
            yield section, statement

    return note_of(shown())


def _generated(stub: Any, specialist: str, said: str, timeout_s: float, show: Any, *, is_free: bool) -> dict[str, Any]:
    """Have it written token by token; the gateway says of every statement whether it was said."""
    from controlplane.packs.clinical_note.factuality import facts_of, unsaid
    from controlplane.packs.clinical_note.generated import NoteMalformed, read_note, schema_of
    from controlplane.packs.clinical_note.note import turns_of

    schema = schema_of(list(turns_of(said)), is_free=is_free)
    request = decide_pb2.GenerateRequest(
        specialist=specialist, max_tokens=_ENGINE_TOKENS, budget_us=min(60_000_000, int(timeout_s * 1e6))
    )
    request.input.text = said
    request.constraint.json_schema = json.dumps(schema)
    request.grounding.SetInParent()
    parts, ungrounded = [], 0
    for chunk in stub.Generate(request, timeout=timeout_s):
        parts.append(chunk.text)
        ungrounded += sum(not statement.grounded for statement in chunk.statements)
        if show is not None:
            show.write(visible(chunk.text))
            show.flush()
            for statement in chunk.statements:
                if not statement.grounded:
                    worst = ", ".join(unsaid(statement.text, facts_of(said)))
                    of_it = f" (nobody said {worst})" if worst else ""
                    say(marked(visible(f"\nnot in the transcript: {statement.text}{of_it}"), "red"))
    if show is not None:
        show.write("\n")
    try:
        found = read_note("".join(parts), said)
    except NoteMalformed as error:
        raise Problem(str(error), "ABORTED") from error
    if found["ungrounded"] != ungrounded:
        raise Problem(f"the gateway flagged {ungrounded} statements, expected {found['ungrounded']}", "INTERNAL")
    return found
