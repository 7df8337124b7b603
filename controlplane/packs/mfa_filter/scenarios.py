"""Made-up pages and placements for the question whether a site was made for advertising.

Five attributes make the case (ANA, 4A's, WFA, ISBA, 2023): much advertising for the content, fast
refresh, bought traffic, generic content, a template. A site has some of them in degrees; it takes
about three. The wave is a kind that hides two: slower refresh and fewer slots, with written-by-machine
articles on fresh domains.
"""

import random

from controlplane.packs.folder import Scalar, Scenario

_FARM_WORDS = ("daily", "buzz", "viral", "trend", "hub", "zone", "top", "wow", "click", "life", "gossip", "hacks")
_SITE_WORDS = ("herald", "kitchen", "cycling", "library", "observer", "garden", "ledger", "trail", "harbour", "science")
_FARM_TLDS = ("site", "xyz", "info", "online", "club", "com")
_SITE_TLDS = ("com", "org", "co.uk", "de", "net")
_BAIT = (
    "{n} {things} that will {verb} you, number {m} is unreal",
    "you won't believe what {who} looks like now",
    "{n} signs your {thing} is trying to tell you something",
    "she opened the {thing} and could not stop crying",
    "doctors hate this one {thing} trick",
    "only {n} in 100 people know these {things}",
)
_NEWS = (
    "council approves plan for the {place} bridge",
    "how we tested {n} {things} for this guide",
    "{who} wins second stage after late attack near {place}",
    "recipe: {things} with roasted peppers",
    "quarterly results: {place} port handles {n} per cent more",
    "what the new {thing} rules mean for tenants",
)
_MACHINE = (
    "a complete guide to {things} in {place}: everything you should know",
    "{things}: benefits, tips and frequently asked questions",
    "how to choose the best {thing} for your needs in {place}",
    "top {n} reasons why {things} matter today",
)
_PLACES = ("Lindby", "Tornby", "Mirefield", "Santa Brea", "Kestrel Bay")
_THINGS = ("photo", "kitchen gadget", "dog", "fridge", "tattoo", "garden", "mortgage", "mattress")
_WHO = ("the child star", "Marit Olsen", "this twin", "the rider from Oslo", "Dev Rao")


def _headline(rng: random.Random, lines: tuple[str, ...]) -> str:
    thing = rng.choice(_THINGS)
    return rng.choice(lines).format(
        n=rng.randrange(3, 30),
        m=rng.randrange(3, 20),
        thing=thing,
        things=thing + "s",
        verb=rng.choice(("shock", "melt", "surprise", "haunt")),
        who=rng.choice(_WHO),
        place=rng.choice(_PLACES),
    )


def _domain(rng: random.Random, words: tuple[str, ...], tlds: tuple[str, ...]) -> str:
    number = str(rng.randrange(2, 99)) if words is _FARM_WORDS and rng.random() < 0.3 else ""
    name = rng.choice(words) + rng.choice(("", "-")) + rng.choice(words + _PLACES_LOWER) + number
    return f"{name}.{rng.choice(tlds)}"


_PLACES_LOWER = tuple(place.lower().replace(" ", "") for place in _PLACES)


def draw(rng: random.Random, wave: bool) -> Scenario:
    """Draw one placement."""
    # How much of each attribute: ads, refresh, bought traffic, generic content, template.
    if wave:
        is_mfa = rng.random() < 0.5
        shape = (0.35, 0.3, 0.9, 0.95, 0.9) if is_mfa else (0.3, 0.2, 0.15, 0.4, 0.5)
        kind = "wave-hidden" if is_mfa else "wave-honest"
    else:
        kind = rng.choices(("farm", "quality", "small-site", "slideshow"), (0.35, 0.35, 0.2, 0.1))[0]
        is_mfa = kind in ("farm", "slideshow")
        shape = {
            "farm": (0.85, 0.8, 0.8, 0.8, 0.9),
            "quality": (0.25, 0.15, 0.1, 0.1, 0.3),
            # Many advertisements, because there is little money; the visitors come by themselves.
            "small-site": (0.6, 0.3, 0.1, 0.3, 0.9),
            "slideshow": (0.9, 0.9, 0.85, 0.6, 0.5),
        }[kind]
    ads, refresh, bought, generic, template = (min(1.0, max(0.0, level + rng.gauss(0, 0.15))) for level in shape)
    if generic < 0.5:
        headline = _headline(rng, _NEWS)
    else:
        headline = _headline(rng, _MACHINE if wave or rng.random() < 0.4 else _BAIT)
    looks_cheap = is_mfa if rng.random() < 0.85 else not is_mfa
    fields: dict[str, Scalar] = {
        "ad_share": round(0.08 + 0.5 * ads, 3),
        "slots": 1 + round(11 * ads * rng.uniform(0.6, 1.2)),
        "refresh_s": round(90 * (1 - refresh) ** 2 + 8 + rng.uniform(0, 4), 1),
        "bought_share": round(min(1.0, bought * rng.uniform(0.7, 1.1)), 3),
        "requests": round(30 + 160 * ads * rng.uniform(0.6, 1.3)),
        "template_share": round(template, 2),
        "hops": rng.choices((1, 2, 3, 4), (5, 3, 1, 1) if not is_mfa else (2, 3, 3, 2))[0],
        "schain_complete": rng.random() < (0.6 if is_mfa else 0.9),
        "domain": _domain(rng, *((_FARM_WORDS, _FARM_TLDS) if looks_cheap else (_SITE_WORDS, _SITE_TLDS))),
        "headline": headline,
    }
    if rng.random() < 0.15:  # nobody crawled it yet
        for name in ("ad_share", "slots", "refresh_s", "requests", "template_share"):
            del fields[name]
    if rng.random() < 0.03:
        is_mfa = not is_mfa
    return Scenario(fields, "mfa" if is_mfa else "content", kind)
