"""Made-up turns of an encounter: what was asked, what was said, and which part of the note it belongs to.

No patient's words. The wave is a visit by video: people show things, name brands instead of substances, and
the examination is what they do themselves.
"""

import random

from controlplane.packs.folder import Scenario

SIDES = ("left", "right")
_SLOTS: dict[str, tuple[str, ...]] = {
    "drug": ("metformin", "lisinopril", "atorvastatin", "amoxicillin", "ibuprofen", "sertraline", "warfarin"),
    "brand": ("Glucophage", "Zestril", "Lipitor", "Advil", "Zoloft", "Coumadin"),
    "dose": ("5", "10", "20", "40", "250", "500"),
    "part": ("knee", "shoulder", "hip", "ankle", "wrist", "ear"),
    "illness": ("diabetes", "asthma", "high blood pressure", "migraine", "arthritis", "reflux"),
    "symptom": ("pain", "swelling", "a burning feeling", "numbness", "dizziness", "a cough"),
    "n": ("two", "three", "five", "six", "ten"),
    "unit": ("days", "weeks", "months"),
    "food": ("peanuts", "shellfish", "eggs", "latex", "penicillin", "sulfa"),
    "name": ("Marit", "Owen", "Farah", "Dev", "Yuki"),
}
_TURNS: dict[str, tuple[tuple[str, str], ...]] = {
    "nothing": (
        ("", "good morning {name}, please have a seat"),
        ("how was the drive in today", "fine, thank you, hardly any traffic"),
        ("", "let me just close the door"),
        ("is it cold out there", "a little, yes"),
        ("can you hear me well", "yes I can"),
        ("", "thank you doctor, see you next time"),
    ),
    "history": (
        ("what brings you in today", "my {side} {part} has had {symptom} for {n} {unit}"),
        ("when did it begin", "about {n} {unit} ago, when I slipped on the stairs"),
        ("any {symptom} as well", "no, no {symptom} at all"),
        ("does anything make it better", "resting the {side} {part} helps, stairs make it worse"),
        ("do you smoke", "I stopped {n} months ago"),
    ),
    "medications": (
        ("what are you taking", "{drug} {dose} milligrams every morning"),
        ("do you still take the {drug}", "no, I stopped the {drug} {n} weeks ago"),
        ("anything over the counter", "{drug} {dose} now and then for the {part}"),
        ("are you on blood thinners", "yes, {drug}, {dose} milligrams at night"),
    ),
    "allergies": (
        ("any allergies", "I am allergic to {food}, my face swells"),
        ("any allergies to medicine", "none that I know of"),
        ("what happens with {food}", "a rash all over, {n} {unit} the last time"),
    ),
    "problems": (
        ("any conditions I should know of", "{illness} for {n} years"),
        ("have you ever been told you have {illness}", "no, never had {illness}"),
        ("and in the family", "my mother has {illness}"),
        ("any operations", "they replaced the {side} {part} {n} years ago"),
    ),
    "exam": (
        ("", "on examination the {side} {part} is swollen and warm"),
        ("", "lungs are clear, heart is regular, no murmur"),
        ("does it hurt when I press here", "yes, right there on the {side} side"),
        ("", "blood pressure is one forty over {dose}"),
    ),
    "plan": (
        ("", "we will start {drug} {dose} milligrams twice a day"),
        ("", "I would like an x ray of the {side} {part}"),
        ("", "stop the {drug} and come back in {n} {unit}"),
        ("", "I will refer you to physical therapy for the {part}"),
    ),
}
_WAVE: dict[str, tuple[tuple[str, str], ...]] = {
    "nothing": (
        ("is your camera on", "one moment, now it should be"),
        ("", "you froze for a second, go on"),
    ),
    "history": (("can you show me", "here, this bit of my {side} {part}, it has been {n} {unit}"),),
    "medications": (("hold the box up please", "it says {brand} {dose}, one at breakfast"),),
    "allergies": (("", "oh and {food} brings me out in hives, I typed it in the form"),),
    "problems": (("the form says {illness}", "yes, since I was a child"),),
    "exam": (
        ("bend the {side} {part} for me", "it stops about here and it clicks"),
        ("what does your home cuff say", "one thirty over {dose}"),
    ),
    "plan": (("", "I am sending {brand} {dose} to your pharmacy and a link for {n} {unit} from now"),),
}
LABELS = tuple(_TURNS)


def draw(rng: random.Random, wave: bool) -> Scenario:
    """Draw one turn."""
    label = rng.choices(LABELS, (5, 4, 3, 2, 3, 3, 3))[0]
    asked, said = rng.choice((_WAVE if wave else _TURNS)[label])
    words = {name: rng.choice(values) for name, values in _SLOTS.items()} | {"side": rng.choice(SIDES)}
    said = said.format_map(words)
    if rng.random() < 0.25:
        said = rng.choice(("um, ", "well, ", "so, ", "yeah, ")) + said
    fields = {"said": said}
    if asked:
        fields["asked"] = asked.format_map(words)
    return Scenario(fields, label, f"wave-{label}" if wave else label)
