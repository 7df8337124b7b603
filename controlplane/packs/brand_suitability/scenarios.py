"""Made-up pages at every level of risk, and the pages that filters get wrong: identity, negation, news, quotation.

A subject alone says nothing: every category's subjects occur at every level, groups of people occur in ordinary life
and in attacks on them, and words of violence occur in sport and games. The address and the publisher's own categories
help where they are there. The wave: satire that quotes the floor, and floor content in coded spelling on clean domains.
"""

import random
import re
from collections.abc import Mapping, Sequence

from controlplane.packs.brand_suitability.taxonomy import load_taxonomy
from controlplane.packs.folder import Scalar, Scenario

TAXONOMY = load_taxonomy()
IDENTITY, NEGATION, NEWS, QUOTED, PLAIN = "identity", "negation", "news", "quoted", "plain"
_SUBJECTS: Mapping[str, Sequence[str]] = {
    "adult": ("explicit videos", "nude photos", "an escort service", "sex tapes"),
    "arms": ("rifles", "handguns", "ammunition", "a machine gun", "explosives"),
    "crime": ("a murder", "a kidnapping", "stolen cards", "an assault", "people smuggling"),
    "conflict": ("the shelling", "an air strike", "a fatal crash", "the massacre", "frontline killings"),
    "piracy": ("cracked films", "leaked episodes", "keygens", "stolen streams"),
    "drugs": ("cocaine", "opioid pills", "meth", "vape juice", "bootleg liquor"),
    "terrorism": ("a bombing", "suicide attacks", "an extremist cell", "hostage taking"),
    "misinformation": ("miracle cures", "a rigged count", "vaccine microchips", "crisis actors"),
}
_GROUPS = ("gay", "lesbian", "trans", "Muslim", "Jewish", "Black", "Latino", "Roma", "immigrant", "disabled", "Sikh")
_LIFE = (
    "the {group} choir of {place} sings on {day}",
    "{name}, a proud {group} parent, on {n} quick school lunches",
    "{group} owned bakery wins best bread in {place}",
    "a {group} love story: {name} and {name2} after {n} years",
    "{group} history month in {place}: {n} exhibitions to see",
    "why this {group} engineer returned to {place}",
    "{group} film festival opens on {day} with {n} premieres",
)
_HATE = (
    "{group} people are vermin and should be driven out of {place}",
    "never trust a {group}, they all steal, says {name}",
    "time to hunt down every {group} in {place} on {day}",
    "{group} filth is ruining {place}, burn them out",
)
_FORMS: Mapping[str, Sequence[str]] = {
    "low": (
        "what science says about {subject}: {n} findings explained",
        "how teachers in {place} talk about {subject} with pupils",
        "helpline and advice for families affected by {subject}",
        "new law on {subject}: what changes on {day}",
        "history lesson: {subject} in museums of {place}",
    ),
    "medium": (
        "{place}: police investigate {subject}, {n} witnesses heard on {day}",
        "breaking: {subject} reported in {place}, officials confirm",
        "court hears evidence on {subject}, {name} denies charges",
        "ministers debate {subject} after events in {place} on {day}",
        "new drama about {subject} opens in {place} to strong reviews",
    ),
    "high": (
        "the most shocking footage of {subject}, watch uncut",
        "why {subject} look so cool: {n} legendary moments",
        "{n} gory details of {subject} you cannot unsee",
        "{name} brags about {subject}, fans love the thrill",
        "rated: the wildest {subject} ever caught on camera",
    ),
    "floor": (
        "get {subject} here, no papers, no questions, message {name}",
        "{subject} for everyone, join {name} in {place} and do it on {day}",
        "download or order {subject} now, {n} ready, pay in crypto",
        "step by step guide to {subject} at home, {n} steps that work",
        "we celebrate {subject}, more of it, {name} shows you how",
    ),
}
_HARMLESS = (
    "{name} shot the winning goal for {place} on {day}",
    "killer pasta in {n} minutes, {name}'s favourite",
    "how to attack weeds in the garden before {day}",
    "{place} bombed at the box office, says {name}",
    "the best drill, rated on {n} walls in {place}",
    "{n} quiet walks near {place} for {day}",
    "{name} compares {n} electric cars",
    "house prices in {place}: {n} charts",
    "crack the code: {n} puzzles for {day}",
    "shots of {place} at dawn, taken by {name}",
)
_NEGATED = (
    "no {subject} at {place}: {name} laughs off the rumour, it was a film set",
    "there is no {subject} here, says {place}, just {n} cooking classes",
    "{name} never touched {subject}; a story of {n} marathons",
    "free of {subject}: {place} is the calmest town for families",
)
_QUOTED = (
    "fact check: a post claiming '{floor}' was removed by moderators",
    "court reads the message aloud: '{floor}'. {name} was convicted on {day}",
)
_SATIRE = (
    "satire: local gnome announces '{floor}', neighbours order tea",
    "sketch of the week, in which a teapot says '{floor}' and is grounded",
)
_PATHS = {
    "none": ("life", "sport", "food", "home"),
    "low": ("health", "education", "science"),
    "medium": ("news", "world", "courts"),
    "high": ("viral", "uncut", "extreme"),
    "floor": ("buy", "forum", "board", "dl"),
}
_DOMAINS = {
    "clean": ("{word}herald.example", "the{word}post.example", "{word}today.example", "{word}magazine.example"),
    "loud": ("viral{word}.example", "shock{word}.example", "{word}uncensored.example"),
    "shady": ("{word}-crackz.example", "xxx{word}.example", "{word}darkboard.example", "free{word}dl.example"),
}
_WORDS = ("harbour", "lindby", "meadow", "north", "quarry", "river", "summit", "valley")
_NAMES = ("Ines", "Tomasz", "Abeni", "Leo", "Marit", "Dev", "Yuki", "Carla", "Owen", "Farah")
_PLACES = ("Harrowgate", "Lindby", "Port Asel", "Mirefield", "Santa Brea", "Kestrel Bay", "Tornby")
_DAYS = ("Monday", "Friday", "Saturday", "this weekend", "the 3rd")
_LOOKALIKES = str.maketrans({"a": "4", "e": "3", "i": "1", "o": "0", "s": "5"})
_WORD = re.compile(r"[a-z]{5,}")
_KINDS = (PLAIN, IDENTITY, NEGATION, NEWS, QUOTED)
_SHARES = (0.6, 0.14, 0.08, 0.1, 0.08)


def draw(rng: random.Random, wave: bool) -> Scenario:
    """Draw one page; the slice is the kind of page, the wave's begin with ``wave-``."""
    if wave:
        kind, (level, category, text) = "wave-satire", _satire(rng)
        if rng.random() < 0.5:
            kind, (level, category, text) = "wave-coded", _coded(rng)
    else:
        kind = rng.choices(_KINDS, _SHARES)[0]
        level, category, text = _page(rng, kind)
    if not wave and rng.random() < 0.03:  # annotators do not agree on every page
        level = rng.choice(list(TAXONOMY.levels))
    fields: dict[str, Scalar] = {"text": text}
    domain = _domain(rng, level, is_wave=wave)
    if rng.random() < 0.85:
        fields["domain"] = domain
    if rng.random() < 0.6:
        fields["url"] = f"https://{domain}/{rng.choice(_PATHS[level])}/{rng.randrange(1000, 99999)}"
    ids = TAXONOMY.iab_of(category) if category else ("483",)  # sports
    if ids and rng.random() < 0.4:
        fields["iab"] = ids[0]
    return Scenario(fields, level, kind)


def _page(rng: random.Random, kind: str) -> tuple[str, str, str]:
    """Return level, category ("" for none) and text."""
    category = rng.choice(list(_SUBJECTS))
    if kind == IDENTITY:
        if rng.random() < 0.35:
            return "floor", "hate", _write(rng, rng.choice(_HATE))
        return "none", "", _write(rng, rng.choice(_LIFE))
    if kind == NEGATION:
        return "none", "", _write(rng, rng.choice(_NEGATED), category)
    if kind == NEWS:
        return "medium", category, _write(rng, rng.choice(_FORMS["medium"]), category)
    if kind == QUOTED:
        return "medium", category, _write(rng, rng.choice(_QUOTED), category)
    level = rng.choices(list(TAXONOMY.levels), (0.4, 0.15, 0.1, 0.15, 0.2))[0]
    if level == "none":
        return level, "", _write(rng, rng.choice(_HARMLESS))
    return level, category, _write(rng, rng.choice(_FORMS[level]), category)


def _satire(rng: random.Random) -> tuple[str, str, str]:
    return "low", "", _write(rng, rng.choice(_SATIRE), rng.choice(list(_SUBJECTS)))


def _coded(rng: random.Random) -> tuple[str, str, str]:
    category = rng.choice(list(_SUBJECTS))
    text = _write(rng, rng.choice(_FORMS["floor"]), category)
    return "floor", category, _WORD.sub(lambda match: match[0].translate(_LOOKALIKES), text)


def _write(rng: random.Random, form: str, category: str = "") -> str:
    subject = rng.choice(_SUBJECTS[category]) if category else ""
    slots = {
        "subject": subject,
        "group": rng.choice(_GROUPS),
        "name": rng.choice(_NAMES),
        "name2": rng.choice(_NAMES),
        "place": rng.choice(_PLACES),
        "day": rng.choice(_DAYS),
        "n": str(rng.randrange(2, 30)),
    }
    if "{floor}" in form:
        slots["floor"] = rng.choice(_FORMS["floor"]).format_map(slots)
    return form.format_map(slots)


def _domain(rng: random.Random, level: str, *, is_wave: bool) -> str:
    kinds = {"floor": ("shady", "clean"), "high": ("loud", "clean")}.get(level, ("clean",))
    kind = "clean" if is_wave else rng.choice(kinds)
    return rng.choice(_DOMAINS[kind]).format(word=rng.choice(_WORDS))
