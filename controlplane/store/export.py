"""Samples with their outcomes as Parquet, a part at a time: memory does not grow with what is exported."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import select

from controlplane.store.outcomes import is_of
from controlplane.store.store import Store
from controlplane.store.tables import outcome, sample

PART = 10_000
SCHEMA = pa.schema(
    [
        ("decision_id", pa.string()),
        ("at", pa.timestamp("ms", tz="UTC")),
        ("arm", pa.int8()),
        ("bundle", pa.string()),
        ("generation", pa.int64()),
        ("text", pa.string()),
        ("fields", pa.string()),  # JSON
        ("label", pa.string()),
        ("decision", pa.string()),
        ("score", pa.float64()),
        ("confidence", pa.float64()),
        ("fallback", pa.bool_()),
        ("drawn_for", pa.string()),
        ("inclusion", pa.float64()),
        ("outcome", pa.string()),
        ("outcome_source", pa.string()),
        ("outcome_observed", pa.timestamp("ms", tz="UTC")),
    ]
)


def export_samples(store: Store, specialist: str, out: Path) -> int:
    """Write every sample kept of a specialist and return how many; the file appears whole or not at all."""
    plain = ("id", "decision_id", "arm", "bundle", "generation", "text", "fields", "label", "decision", "score")
    rest = ("confidence", "fallback", "drawn_for", "inclusion")
    query = (
        select(
            *(sample.c[name] for name in (*plain, *rest)),
            sample.c.at_ms.label("at"),
            outcome.c.label.label("outcome"),
            outcome.c.source.label("outcome_source"),
            outcome.c.observed_ms.label("outcome_observed"),
        )
        .outerjoin(outcome, is_of(sample))
        .where(sample.c.specialist == specialist)
        .order_by(sample.c.id)
        .limit(PART)
    )
    whole = out.with_name(out.name + ".part")
    total = last = 0
    try:
        with pq.ParquetWriter(whole, SCHEMA, compression="zstd") as writer:
            while rows := _part(store, query.where(sample.c.id > last)):
                writer.write_table(pa.Table.from_pylist([_plain(row) for row in rows], schema=SCHEMA))
                total, last = total + len(rows), rows[-1]["id"]
        os.replace(whole, out)
    finally:
        whole.unlink(missing_ok=True)
    return total


def has_samples(store: Store, specialist: str) -> bool:
    """Say whether anything of a specialist was kept, also of one that the settings no longer name."""
    with store.reading() as unit:
        query = select(sample.c.id).where(sample.c.specialist == specialist).limit(1)
        return unit.connection.execute(query).first() is not None


def _part(store: Store, query: Any) -> list[Any]:
    with store.reading() as unit:
        return list(unit.connection.execute(query).mappings())


def _plain(row: Any) -> dict[str, Any]:
    return {name: json.dumps(row[name], sort_keys=True) if name == "fields" else row[name] for name in SCHEMA.names}
