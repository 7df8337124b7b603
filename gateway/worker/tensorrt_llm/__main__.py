"""Compare an installed TensorRT-LLM with the facts: ``python -m gateway.worker.tensorrt_llm --check``.

Exit codes: 0 as recorded, 1 it differs, 2 wrong use, 3 not installed.
"""

import argparse
import json
import sys
from collections.abc import Mapping

from gateway.worker.tensorrt_llm.facts import Facts, bands, differences

NOT_INSTALLED = 3


def main(arguments: list[str] | None = None) -> int:
    """Run the check; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m gateway.worker.tensorrt_llm", description=__doc__)
    parser.add_argument("--check", action="store_true", required=True, help="compare and print the differences")
    parser.add_argument("--band", choices=[facts.band for facts in bands()], help="in place of the version's own")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args(arguments)
    try:
        import tensorrt_llm
    except ModuleNotFoundError as error:
        if error.name != "tensorrt_llm":
            raise
        _print(chosen.json, {"installed": None}, ["tensorrt_llm is not installed here"])
        return NOT_INSTALLED
    version = str(tensorrt_llm.__version__)
    facts = Facts.read(chosen.band) if chosen.band else next((f for f in bands() if f.covers(version)), None)
    if facts is None:
        known = ", ".join(f"{f.first} to before {f.before}" for f in bands())
        _print(chosen.json, {"installed": version}, [f"version {version} is of no recorded band, expected {known}"])
        return 1
    found = differences(facts)
    head = {"installed": version, "band": facts.band, "differences": found}
    _print(chosen.json, head, found or [f"tensorrt_llm {version} is as recorded for {facts.band}"])
    return 1 if found else 0


def _print(as_json: bool, value: Mapping[str, object], lines: list[str]) -> None:
    print(json.dumps({**value, "messages": lines}) if as_json else "\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
