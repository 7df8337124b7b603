"""Accuracy as estimated without labels, one row a window."""

import math
from typing import Any

from sqlalchemy import insert, select

from controlplane.store.store import Unit
from controlplane.store.tables import performance_estimate


def add(unit: Unit, specialist: str, bundle: str, last_sample: int, found: dict[str, Any]) -> None:
    """Keep one window's estimate; ``found`` has the fields of ``PerformanceEstimate``."""
    values = {**found, "realised": None if math.isnan(found["realised"]) else found["realised"]}
    unit.connection.execute(
        insert(performance_estimate).values(
            specialist=specialist, bundle=bundle, last_sample=last_sample, at_ms=unit.now_ms, **values
        )
    )


def newest(unit: Unit, specialist: str, limit: int = 50) -> list[Any]:
    """Return the newest estimates, oldest of them first."""
    query = (
        select(performance_estimate)
        .where(performance_estimate.c.specialist == specialist)
        .order_by(performance_estimate.c.at_ms.desc(), performance_estimate.c.last_sample.desc())
        .limit(limit)
    )
    return list(reversed(unit.connection.execute(query).all()))
