"""What a notice says of a reason: a bundle's ``statements.json``, a sentence a field.

Whoever declines an applicant owes the specific principal reasons in words, not the names of fields (Regulation B,
12 CFR 1002.9(b)(2)). The words travel with the model that they are true of.
"""

from collections.abc import Mapping

from protos.contract.digest import JsonMalformed, canonical_json, parse_json_object
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.task import TaskSpec

STATEMENTS = "statements.json"
MOST_CHARACTERS = 200


def check_statements(given: Mapping[str, str], task: TaskSpec, where: str) -> dict[str, str]:
    """Return statements by field; raises FieldInvalid for a field that the task lacks, or no sentence."""
    read = Reader(dict(given), where)
    found = {name: read.text(name) for name in given}
    names = [field.name for field in task.fields]
    for name, said in found.items():
        if name not in names:
            raise FieldInvalid(f"{where} has {name!r}, expected one of {', '.join(names)}")
        if len(said) > MOST_CHARACTERS:
            raise FieldInvalid(f"{where}.{name} has {len(said)} characters, expected at most {MOST_CHARACTERS}")
    return found


def statements_file(statements: Mapping[str, str]) -> dict[str, bytes]:
    """Return the file for a bundle, none where nothing is said."""
    return {STATEMENTS: canonical_json(dict(statements))} if statements else {}


def read_statements(contents: Mapping[str, bytes], task: TaskSpec) -> dict[str, str]:
    """Read a bundle's file; empty where it has none. Raises FieldInvalid."""
    if STATEMENTS not in contents:
        return {}
    try:
        given = parse_json_object(contents[STATEMENTS])
    except JsonMalformed as error:
        raise FieldInvalid(f"{STATEMENTS}: {error}") from error
    return check_statements(given, task, STATEMENTS)
