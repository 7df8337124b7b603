"""Made-up applications for credit. Groups differ in circumstances and are never a field: they are for audits only.

The wave is a downturn: incomes fall, utilisation rises, and the same utilisation means more defaults than
it did.
"""

import math
import random

from controlplane.packs.folder import Scalar, Scenario

GROUPS = ("group-a", "group-b")
_PURPOSES = {"car": 0.0, "furniture": 0.1, "repairs": 0.05, "education": 0.2, "business": 0.45, "consolidation": 0.35}


def draw(rng: random.Random, wave: bool) -> Scenario:
    """Draw one application; the slice is the group, which the model never sees."""
    group = rng.choice(GROUPS)
    stress = 0.35 if wave else 0.0
    # Circumstances differ between the groups: incomes and years at an address, not how people repay.
    income = rng.lognormvariate(7.75 - 0.12 * (group == "group-b") - 0.3 * stress, 0.4)
    utilisation = min(1.4, rng.betavariate(2, 3 - stress) + stress * rng.random())
    delinquencies = rng.choices((0, 1, 2, 3, 5), (70, 16, 8, 4, 2))[0]
    inquiries = rng.choices((0, 1, 2, 4, 7), (40, 30, 16, 9, 5))[0]
    months = round(rng.expovariate(1 / 90))
    requested = rng.lognormvariate(8.6, 0.7)
    burden = requested / 36 / income
    purpose = rng.choice(list(_PURPOSES))
    odds = (
        -3.1
        + 2.2 * utilisation * (1 + stress)
        + 0.55 * delinquencies
        + 0.14 * inquiries
        + 3.2 * min(burden, 0.6)
        - 0.25 * math.log1p(months / 12)
        + _PURPOSES[purpose]
        + 0.5 * stress
    )
    fields: dict[str, Scalar] = {
        "income": round(income),
        "requested": round(requested, -2),
        "burden": round(burden, 3),
        "utilisation": round(utilisation, 3),
        "delinquencies": delinquencies,
        "inquiries": inquiries,
        "months_known": months,
        "purpose": purpose,
    }
    if rng.random() < 0.08:
        del fields["utilisation"]  # no card, so none to use
    label = "default" if rng.random() < 1 / (1 + math.exp(-odds)) else "repaid"
    return Scenario(fields, label, f"wave-{group}" if wave else group)
