"""Files of a rollout's evidence, as pages and comparisons read them."""

from pathlib import Path
from typing import Any

from protos.contract.digest import parse_json_object


def read_json(path: Path) -> dict[str, Any]:
    """Return what a file says; raises OSError or JsonMalformed."""
    return parse_json_object(path.read_bytes())
