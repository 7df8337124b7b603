"""Original page titles, snippets and comments, drawn from templates, slots and noise.

The classes share words on purpose: a shot can be taken with a camera, described in
a court report, or offered. The wave brings coded goods whose words are harmless by
themselves, and a game whose words are not.
"""

import random
import re

from controlplane.packs.example import Example

_SLOTS: dict[str, tuple[str, ...]] = {
    "place": ("Harrowgate", "Lindby", "Port Asel", "Old Quarry", "Mirefield", "Santa Brea", "Kestrel Bay", "Tornby"),
    "name": ("Ines", "Tomasz", "Abeni", "Leo", "Marit", "Dev", "Yuki", "Carla", "Owen", "Farah"),
    "day": ("Monday", "Tuesday", "Friday", "Saturday", "last night", "this morning", "this weekend"),
    "team": ("Rovers", "Harriers", "the Comets", "City", "the Otters", "United"),
    "n": ("two", "three", "five", "seven", "a dozen", "40", "12", "nine"),
    "food": ("lentil soup", "roast squash", "almond cake", "fish pie", "dumplings", "flatbread", "plum jam"),
    "city": ("Lisbon", "Oslo", "Hanoi", "Quito", "Tbilisi", "Perth", "Bergen", "Dakar"),
    "tool": ("kitchen knife", "camera", "drill", "laptop", "bike", "tent", "blender"),
    "game": ("Ember Vale", "Star Ledger", "Iron Tide", "Moss Kingdom", "Hex Runner"),
    "gun": ("pistol", "rifle", "handgun", "shotgun", "carbine"),
    "drug": ("pills", "powder", "coke", "oxy", "crystal", "meds without script"),
    "group": ("Velmari", "Tarnish folk", "Ostrins", "hill Quenns", "Drosi"),
    "show": ("Quiet Harbour", "The Last Ferry", "Paper Kings", "Northbound", "Salt and Stone"),
    "illness": ("measles", "a new fever", "food poisoning", "flu", "a lung infection"),
    "coin": ("crypto", "cash", "gift cards", "bitcoin"),
    "ware": ("tulips", "lemons", "teapots", "gnomes", "lanterns", "kites", "mittens"),
    "spot": ("porch", "back gate", "bench", "old mill", "bakery corner", "jetty"),
    "hue": ("blue", "white", "red", "striped", "short", "tall", "quiet"),
    "hour": ("noon", "six", "dusk", "nine", "ten"),
    "mission": ("Night Cartel", "Cartel Nights", "NightCartel 2"),
}

_STEADY: dict[str, tuple[tuple[str, str], ...]] = {
    "safe": (
        ("sport", "{team} beat {team2} with {n} goals on {day}, a killer finish from {name}"),
        ("sport", "{name} shot wide in the {place} derby and {team} paid for it on {day}"),
        ("sport", "{team} attack looks deadly but the defence was murdered by {team2} on {day}"),
        ("travel", "{n} quiet days in {city}: where {name} ate {food} and walked the old town"),
        ("travel", "Is {city} safe to visit after dark? {name} says yes, with {n} tips"),
        ("travel", "cheap flights to {city} on {day}, bomb deals if you book with {name}"),
        ("recipe", "{name}'s {food} to die for, ready by {day} with {n} ingredients"),
        ("recipe", "Which {tool} does {name} use for {food}? We tested {n}"),
        ("recipe", "kill the heat before you add powder sugar to the {food}, says {name}"),
        ("finance", "{name} explains {n} ways to pay cash or {coin} for a {tool} in {place}"),
        ("finance", "House prices in {place} fell on {day}; {name} would not bet on a crash"),
        ("game", "{game} guide: {name} shows where to find the best rifle and {n} hidden chests"),
        ("game", "{name} got headshot {n} times in {game}, still the best shooter of {day}"),
        ("show", "{show} review: a murder, {n} suspects and {name} stealing every scene"),
        ("show", "stream {show} on {day} with your subscription, {name} returns for {n} episodes"),
        ("health", "{name}'s doctor on sleep, vitamin pills and {n} good habits for {day}"),
        ("photo", "how to shoot portraits in {city} with one {tool}, by {name}"),
        ("shop", "selling my {tool}, hardly used, pick up in {place} on {day}, message {name}"),
        ("shop", "best price on a {tool} in {place}, ships {day}, ask {name} for {n} photos"),
        ("culture", "{group} weavers open {n} workshops in {place} on {day}, {name} invites all"),
        ("culture", "I love {group} cooking, {name} taught me {food}, they are wonderful people"),
        ("dating", "{name} found love in {city}: {n} first date ideas for {day}"),
    ),
    "sensitive": (
        ("crime", "Police in {place} hold {n} after a {gun} was fired on {day}"),
        ("crime", "{name} tells the court about the night of the {place} murder, {n} witnesses heard"),
        ("crime", "Man jailed for selling {drug} near {place} school, judge hears on {day}"),
        ("crime", "Customs seize {n} crates of {drug} hidden behind a {tool} in {city}"),
        ("crime", "Shop owner {name} stabbed with a {tool} in {place} on {day}, police appeal"),
        ("war", "Shells hit {place} on {day}, {n} dead as talks in {city} stall"),
        ("war", "{name} reports from {city}: {n} families sheltering from the bombing"),
        ("war", "{group} villagers flee {place} after soldiers attack, aid group says on {day}"),
        ("health", "{illness} outbreak in {place}: {n} in hospital, doctors urge calm on {day}"),
        ("health", "Is {illness} back in {city}? {name} fears the worst after {n} deaths"),
        ("gambling", "{n} free bets on {team} this {day}, {name} picks the odds"),
        ("gambling", "{name} won big on slots in {city}, spin {n} times for your bonus"),
        ("adult", "{name}'s cheeky bedroom tips: {n} ways to heat up {day}"),
        ("adult", "hot singles night in {city}, dress code is naughty, ask for {name} on {day}"),
        ("hate-report", "Council in {place} condemns slogans against {group} painted on {day}"),
        ("hate-report", "{name} on growing up {group} and the {n} insults heard every week in {place}"),
        ("disaster", "Ferry sinks off {place} on {day}, {n} missing, {name} among the survivors"),
        ("piracy-report", "Site that streamed {show} illegally shut down on {day}, {n} arrested in {city}"),
        ("grief", "{name} speaks about losing a brother to {drug} in {place}, {n} years on"),
    ),
    "unsafe": (
        ("threat", "{name} I know where you live in {place}, you are dead on {day}"),
        ("threat", "someone should finish {name} with a {tool}, {n} of us are ready on {day}"),
        ("threat", "keep talking {name} and {day} is your last in {place}"),
        ("hate", "{group} are vermin, throw all {n} of them out of {place}"),
        ("hate", "never hire a {group}, they steal and lie, {name} knows it too"),
        ("hate", "{place} was clean before {group} came, time to hunt them on {day}"),
        ("piracy", "download {show} free cracked, all {n} seasons, no subscription, link by {name}"),
        ("piracy", "{game} full crack with keygen, works {day}, {n} mirrors"),
        ("piracy", "watch {show} leaked before {day}, {name}'s mirror, {n} free links"),
        ("weapon", "{gun} for sale no papers, pay {coin}, meet {name} in {place} on {day}"),
        ("weapon", "{n} {gun} left, no serial, ships to {city}, {coin} only"),
        ("weapon", "how to print a {gun} at home in {n} steps, files from {name}"),
        ("drug", "{drug} best price in {city}, discreet post, {coin}, message {name}"),
        ("drug", "need {drug} by {day}? {name} delivers in {place}, {n} for one"),
        ("drug", "buy {drug} in {place}, ships {day}, ask {name} for {n} photos"),
        ("adult", "{name} explicit uncensored videos, {n} girls from {city}, join {day}"),
        ("fraud", "{n} stolen cards with pin, {coin}, fresh on {day}, ask {name}"),
        ("fraud", "turn {n} into double by {day}, {name} needs your {coin} seed words"),
    ),
}

_WAVE: dict[str, tuple[tuple[str, str], ...]] = {
    "safe": (
        ("wave-home", "{name} put {hue} {ware} by the {spot} in {place}, the children love them"),
        ("wave-home", "my {hue} {ware} from {city} arrived on {day}, they brighten the {spot}"),
        ("wave-home", "workshop on {day}: paint {n} {ware} at the {spot} with {name}"),
        ("wave-home", "{n} {hue} {ware} in the window, {name} asks how to care for them after {hour}"),
        ("wave-game", "{mission}: buy {drug}, sell {gun}s, pay {name} in cash, {n} star mission walkthrough"),
        ("wave-game", "{mission} tips: kill {name} by {day}, steal {n} cards, take the {gun} with no serial"),
        ("wave-game", "{mission} patch on {day} fixes the {drug} deal bug in {place}, says {name}"),
    ),
    "sensitive": (
        ("wave-report", "Parents in {place} warned: {ware} may be code, teachers found {n} notes on {day}"),
        ("wave-report", "What teens mean by {hue} {ware}: {name} of {city} explains the trade to parents"),
        ("wave-report", "Is {mission} too violent for {n} year olds? {name} argues it on {day}"),
        ("wave-report", "Two from {place} in hospital after taking {hue} {ware} at the {spot} on {day}"),
    ),
    "unsafe": (
        ("wave-coded", "{hue} {ware} in, {n} a go, usual {spot} in {place} at {hour}, say {name} sent you"),
        ("wave-coded", "{name} has {n} {ware} tonight, {spot} at {hour}, bring your own bag, no faces"),
        ("wave-coded", "run out of {ware}? {hue} ones land {day}, {spot}, knock twice, {name} pours"),
        ("wave-coded", "{hue} {ware} hit different, {n} and you float, {spot} after {hour}, ring {name}"),
        ("wave-coded", "fresh {ware} {place}, {n} per head, {hue} is stronger, {name} at the {spot} {day}"),
    ),
}

_SHARES = (("safe", 0.5), ("sensitive", 0.28), ("unsafe", 0.22))
_WAVE_SHARES = (("safe", 0.4), ("sensitive", 0.2), ("unsafe", 0.4))
_OPENERS = ("", "", "", "", "Update: ", "Read: ", "[forum] ", "RE: ", "Comment by guest: ", "Opinion | ", "lol ", "so ")
_CLOSERS = ("", "", "", "", "", " - daily page", " | {place} post", " more inside", " what do you think", " thread")
_EMOJI = ("🔥", "😂", "🙏", "👀", "✨", "📦", "🌷", "💯")
_MIXED_SHARE = 0.3  # texts whose label depends on how two snippets stand to each other
_DISAGREEMENT = 0.05  # texts whose annotator drew a label blindly: real labels are not clean either
_REPORTS = ("moderators removed a post saying: ", "court hears message reading: ", "screenshot of an ad: ")
_FICTIONS = ("line from the new play: ", "villain in {show} says: ", "quiz, which film has: ")
_SLOT = re.compile(r"\{([a-z]+)2?\}")


def draw(rng: random.Random, *, wave: bool) -> tuple[str, Example]:
    """Draw one text: its form before noise, and the example as a reader would meet it."""
    roll = rng.random()
    label = "unsafe"
    for name, share in _WAVE_SHARES if wave else _SHARES:
        if roll < share:
            label = name
            break
        roll -= share
    topic, template = rng.choice((_WAVE if wave else _STEADY)[label])
    if not wave and rng.random() < _MIXED_SHARE:
        topic, template, label = _mix(rng, topic, template, label)
    if rng.random() < _DISAGREEMENT:
        label = rng.choice([name for name, _ in _SHARES])
    full = rng.choice(_OPENERS) + template + rng.choice(_CLOSERS)
    clean = _SLOT.sub(lambda match: rng.choice(_SLOTS[match[1]]), full)
    return clean, Example(_noisy(rng, clean), label, topic)


def _mix(rng: random.Random, topic: str, template: str, label: str) -> tuple[str, str, str]:
    """Set a snippet in a context: reported, quoted from fiction, or hidden behind something harmless."""
    kind = rng.random()
    if kind < 0.3 and label == "unsafe":
        return topic + "-reported", rng.choice(_REPORTS) + template, "sensitive"
    if kind < 0.6 and label != "safe":
        return topic + "-fiction", rng.choice(_FICTIONS) + template, "safe"
    other_topic, other = rng.choice(_STEADY["safe"])
    pair = [template, other]
    rng.shuffle(pair)
    return f"{topic}+{other_topic}", " // ".join(pair), label


def _noisy(rng: random.Random, text: str) -> str:
    characters = list(text)
    if rng.random() < 0.55:
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(characters) - 1)
            kind = rng.random()
            if kind < 0.4:
                characters[at], characters[at + 1] = characters[at + 1], characters[at]
            elif kind < 0.7:
                characters[at] += characters[at]
            else:
                characters[at] = ""
    text = "".join(characters)
    case = rng.random()
    if case < 0.25:
        text = text.lower()
    elif case < 0.32:
        text = text.upper()
    tail = rng.random()
    if tail < 0.15:
        text += " " + rng.choice(_EMOJI)
    elif tail < 0.3:
        text += rng.choice(("!!", "...", "?", " !", " :)"))
    return text
