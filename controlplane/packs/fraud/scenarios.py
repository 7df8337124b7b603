"""Made-up card payments and the messages around them: who pays, where, how unlike before, and what was written.

Fraud is card testing (many small amounts), account takeover (new device, far away, large) and scams by
message, where the cardholder pays willingly and only the text tells. The wave is a refund scam: small
amounts, known devices, polite words.
"""

import random

from controlplane.packs.folder import Scalar, Scenario

_MERCHANTS = (
    "groceries",
    "fuel",
    "travel",
    "electronics",
    "gift-cards",
    "games",
    "restaurants",
    "pharmacy",
    "transfer",
)
_COUNTRIES = ("GB", "DE", "FR", "PL", "RO", "US", "NG", "SG")
_HOME = ("GB", "DE", "FR", "PL")
_ORDINARY = (
    "table for {n} on {day}",
    "order {code} ready for pick-up",
    "rent {day}, thanks {name}",
    "your share of the dinner, {name}",
    "subscription renewed until {day}",
    "tickets for {n}, row {n}",
    "school trip {day}",
    "",
    "",
    "",
)
_SCAM = (
    "your parcel is held, pay {n}.99 customs now to release {code}",
    "final notice: account {code} closes today unless you verify",
    "hi mum, new phone, please send {n}00 to {name} quickly",
    "invest {n}00 today, doubled by {day}, guaranteed",
    "police matter {code}: settle the fine at once and tell nobody",
)
_REFUND_SCAM = (
    "refund for order {code} approved, confirm the small fee",
    "we overcharged you, {name}; accept the refund of {n}0 here",
    "loyalty refund {code}: verify the card on file to receive it",
)
_REFUND = (
    "refund for order {code}, sorry for the delay {name}",
    "returned item {code}, refund issued on {day}",
)
_NAMES = ("Ines", "Tomasz", "Abeni", "Leo", "Marit", "Dev", "Yuki", "Owen")
_DAYS = ("Monday", "Friday", "the 3rd", "Sunday", "next week")


def _write(rng: random.Random, lines: tuple[str, ...]) -> str:
    return rng.choice(lines).format(
        n=rng.randrange(2, 9),
        day=rng.choice(_DAYS),
        name=rng.choice(_NAMES),
        code="".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ23456789") for _ in range(6)),
    )


def draw(rng: random.Random, wave: bool) -> Scenario:
    """Draw one payment; fraud is more frequent than in life, so that a thousand cases hold enough of it."""
    kind = rng.choices(
        ("refund-scam", "refund") if wave else ("ordinary", "testing", "takeover", "scam", "traveller"),
        (0.45, 0.55) if wave else (0.72, 0.06, 0.08, 0.06, 0.08),
    )[0]
    fields: dict[str, Scalar] = {
        "amount": round(rng.lognormvariate(3.2, 1.0), 2),
        "hour": min(23, max(0, round(rng.gauss(14, 4)))),
        "payments_today": rng.choices((0, 1, 2, 3, 4), (50, 25, 13, 8, 4))[0],
        "days_known": round(rng.expovariate(1 / 500)),
        "distance_km": round(rng.expovariate(1 / 12), 1),
        "new_device": rng.random() < 0.06,
        "merchant": rng.choice(_MERCHANTS),
        "country": rng.choice(_HOME),
        "message": _write(rng, _ORDINARY),
    }
    if kind == "testing":
        fields |= {
            "amount": round(rng.uniform(0.5, 4), 2),
            "payments_today": rng.randrange(4, 25),
            "merchant": rng.choice(("games", "gift-cards", "electronics")),
            "new_device": rng.random() < 0.7,
            "hour": rng.randrange(24),
        }
    elif kind == "takeover":
        fields |= {
            "amount": round(rng.lognormvariate(5.6, 0.7), 2),
            "distance_km": round(rng.expovariate(1 / 2500), 1),
            "new_device": rng.random() < 0.85,
            "merchant": rng.choice(("electronics", "gift-cards", "travel", "transfer")),
            "country": rng.choice(_COUNTRIES),
            "hour": rng.randrange(24),
        }
    elif kind == "scam":
        fields |= {
            "merchant": "transfer",
            "message": _write(rng, _SCAM),
            "amount": round(rng.lognormvariate(5, 0.6), 2),
        }
    elif kind == "traveller":
        fields |= {"distance_km": round(rng.expovariate(1 / 2500), 1), "country": rng.choice(_COUNTRIES)}
    elif kind == "refund-scam":
        fields |= {"message": _write(rng, _REFUND_SCAM), "amount": round(rng.uniform(1, 30), 2), "merchant": "transfer"}
    elif kind == "refund":
        fields |= {"message": _write(rng, _REFUND), "merchant": rng.choice(("electronics", "travel", "transfer"))}
    is_fraud = kind in ("testing", "takeover", "scam", "refund-scam")
    # Chargebacks are not always right: some cardholders dispute what they bought.
    if rng.random() < 0.02:
        is_fraud = not is_fraud
    return Scenario(fields, "fraud" if is_fraud else "legitimate", f"wave-{kind}" if wave else kind)
