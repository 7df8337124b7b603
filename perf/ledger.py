"""How long a ledger of a million entries takes to write and to verify: ``python -m perf.ledger [--entries N]``.

Times are of the processor, so that what runs beside does not count.
"""

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.store import ledger, ledger_audit
from controlplane.store.database import open_database, reading
from perf.results import FOLDER, commit, machine
from protos.contract.digest import canonical_json
from protos.contract.merkle import Trail, leaf_hash

ORIGIN = "interlock/bench"


def fill(path: Path, entries: int, key: Ed25519PrivateKey) -> None:
    """Write a ledger as ``append`` would, in one go, and sign its head."""
    engine = open_database(f"sqlite:///{path}")
    ledger.ledger_metadata.create_all(engine)
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    trail = Trail()
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA synchronous=OFF")
    for start in range(0, entries, 10_000):
        rows, nodes = [], []
        for seq in range(start, min(start + 10_000, entries)):
            at = (begun + timedelta(seconds=seq)).isoformat(timespec="microseconds").replace("+00:00", "Z")
            detail = {
                "generation": seq,
                "digest": f"sha256:{seq:064x}",
                "rollout": "brand-safety-20260101",
                "approvals": [],
            }
            said = {"v": 1, "seq": seq, "at": at, "actor": "interlock-loop", "action": "plan.offered", "detail": detail}
            body = canonical_json(said)
            rows.append((seq, at, "interlock-loop", "plan.offered", body))
            nodes += trail.add(leaf_hash(body))
        raw.executemany("INSERT INTO ledger_entry VALUES (?, ?, ?, ?, ?)", rows)
        raw.executemany("INSERT INTO ledger_node VALUES (?, ?, ?)", nodes)
        raw.commit()
    raw.close()
    with engine.begin() as connection:
        ledger.checkpoint(connection, key, ORIGIN)
    engine.dispose()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("python -m perf.ledger", description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=FOLDER / "ledger.json")
    chosen = parser.parse_args()
    key = Ed25519PrivateKey.generate()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        fill(path, chosen.entries, key)
        engine = open_database(f"sqlite:///{path}")
        with reading(engine).connect() as connection:
            began, wall = time.process_time(), time.perf_counter()
            report = ledger_audit.verify(connection, key.public_key(), ORIGIN)
            spent, wall = time.process_time() - began, time.perf_counter() - wall
        engine.dispose()
        size = path.stat().st_size
    if not report.is_intact or report.size != chosen.entries:
        sys.exit(f"not verified: {report.problem}")
    found = {
        "commit": commit(),
        "machine": machine(),
        "entries": report.size,
        "verify_cpu_s": round(spent, 2),
        "verify_s": round(wall, 2),
        "bytes": size,
    }
    chosen.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
