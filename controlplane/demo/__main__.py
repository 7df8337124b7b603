"""Tell Interlock's story on this machine: ``python -m controlplane.demo [--data FILE] [--short]``."""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from controlplane.demo.deployment import SHORT, WHOLE, DemoFailed, Deployment
from controlplane.demo.screen import Screen
from controlplane.demo.story import Story
from controlplane.evals.suite import SuiteInvalid
from controlplane.packs.labelled_file import LabelledFileInvalid
from controlplane.packs.registry import load_pack
from controlplane.store.files import replace_file


async def run(out: Path, data: Path | None, suite: Path | None, *, is_short: bool, console: Console) -> dict[str, Any]:
    """Run the story in ``out`` and return its summary, written there as ``summary.json``."""
    scale = SHORT if is_short else WHOLE
    pack = load_pack("labelled-file" if data else "brand-safety", data, suite)
    deployment = Deployment(out, data, suite, scale)
    with Screen(console) as screen:
        try:
            await deployment.start()
            summary = await Story(deployment, pack, screen, scale.rate).tell()
        finally:
            deployment.stop()
    replace_file(deployment.root / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    return summary


def show(console: Console, summary: dict[str, Any], out: Path) -> None:
    """Print the figures and where to look next."""
    scores = summary["scores"][0]
    lines = [
        "",
        f"{summary['requests']} requests, {summary['errors']} errors, {summary['fallbacks']} fallbacks; "
        f"client p50 {summary['client_p50_ms']:.1f} ms, p99 {summary['client_p99_ms']:.1f} ms, training beside",
        f"{scores['metric']} on shifted data: old {scores['old']:.3f}, new {scores['new']:.3f}, "
        f"control {scores['control']:.3f}",
        f"{len(summary['plans'])} plans, {len(summary['refusals'])} refused; rollback {summary['rollback_ms']} ms; "
        f"{summary['seconds']:.0f} s in all",
        "",
        "Look next:",
        f"  {out}/summary.json",
        f"  {summary['evidence']}",
        f"  interlock ledger verify --config {out}/interlock.toml",
        f"  interlock up --config {out}/interlock.toml",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def main() -> int:
    """Entry point; a story that went wrong exits with 1, wrong use with 2."""
    parser = argparse.ArgumentParser("python -m controlplane.demo", description=__doc__)
    parser.add_argument("--data", type=Path, help="labelled JSON Lines file (text, label) instead of made-up texts")
    parser.add_argument("--suite", type=Path, help="thresholds instead of the pack's own")
    parser.add_argument("--out", type=Path, default=Path("var/demo"), help="folder to run in; replaced")
    parser.add_argument("--short", action="store_true", help="smaller data and models of the same story, for tests")
    chosen = parser.parse_args()
    console = Console()
    try:
        summary = asyncio.run(run(chosen.out, chosen.data, chosen.suite, is_short=chosen.short, console=console))
    except (LabelledFileInvalid, SuiteInvalid) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except DemoFailed as error:
        print(f"demo: {error}\ndemo: logs are in {chosen.out}", file=sys.stderr)
        return 1
    show(console, summary, chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
