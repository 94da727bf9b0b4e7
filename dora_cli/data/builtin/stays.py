"""Places to stay, as meaning representations with several sentences for each, for ``e2e``.

A meaning representation looks like the challenge's own, with other attributes and another world::

    name[Amber Fox], stayType[inn], priceRange[low], area[harbour], near[Mill Bridge], petFriendly[yes]

A reference says all of it and nothing else. It is put together from choices that are made anew for every reference: how
the text opens, which attributes describe the place in its first sentence, in which order the others follow, how many of
them share a sentence, and how each is worded. A name has to be copied, other values have to be put into words ("low" is
"cheap", "petFriendly[no]" is "does not allow pets"). In every list of wordings the first is drawn as often as all
others together, as people have their habits, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from dora_cli.data.builtin.draw import Draw

NAME_FIRST = (
    "Amber", "Silver", "Golden", "Green", "Blue", "White", "Red", "Old", "Little", "Quiet", "Happy", "Lucky", "Winter",
    "Summer", "Stone",
    "Wooden",
)  # fmt: skip
NAME_LAST = (
    "Fox",
    "Swan",
    "Lion",
    "Star",
    "Oak",
    "Rose",
    "Lamp",
    "Anchor",
    "Tower",
    "Garden",
    "Gate",
    "Bell",
    "Horse",
    "Crown",
)
LANDMARK_FIRST = ("Mill", "Castle", "Market", "King", "Queen", "Church")
LANDMARK_LAST = ("Bridge", "Square", "Park", "Street")
KINDS = ("guest house", "inn", "hostel", "cottage", "farmhouse", "hotel")

BEFORE: dict[tuple[str, str], tuple[str, ...]] = {
    ("priceRange", "low"): ("cheap", "low-priced"),
    ("priceRange", "moderate"): ("mid-priced", "moderately priced"),
    ("priceRange", "high"): ("expensive", "high-priced"),
    ("petFriendly", "yes"): ("pet-friendly",),
}
"""Adjectives for the first sentence."""

AFTER: dict[tuple[str, str], tuple[str, ...]] = {
    ("area", "harbour"): ("by the harbour", "in the harbour area"),
    ("area", "old town"): ("in the old town", "in the old part of town"),
    ("area", "hills"): ("in the hills", "up in the hills"),
    ("area", "lakeside"): ("by the lake", "on the lakeside"),
    ("view", "sea"): ("with a view of the sea", "with sea views"),
    ("view", "garden"): ("with a view of the garden", "with garden views"),
    ("view", "mountains"): ("with a view of the mountains", "with mountain views"),
}
"""Phrases that follow the noun, or, for the area, stand in front of the whole sentence."""

CLAUSES: dict[tuple[str, str], tuple[str, ...]] = {
    ("priceRange", "low"): ("is cheap", "has low prices"),
    ("priceRange", "moderate"): ("is moderately priced", "has moderate prices"),
    ("priceRange", "high"): ("is expensive", "has high prices"),
    ("area", "harbour"): ("is by the harbour", "is located in the harbour area"),
    ("area", "old town"): ("is in the old town", "is located in the old part of town"),
    ("area", "hills"): ("is in the hills", "is located up in the hills"),
    ("area", "lakeside"): ("is by the lake", "is located on the lakeside"),
    ("view", "sea"): ("has a view of the sea", "looks out on the sea"),
    ("view", "garden"): ("has a view of the garden", "looks out on the garden"),
    ("view", "mountains"): ("has a view of the mountains", "looks out on the mountains"),
    ("breakfast", "included"): ("includes breakfast", "offers breakfast for free"),
    ("breakfast", "extra"): ("charges extra for breakfast", "offers breakfast at an extra cost"),
    ("breakfast", "none"): ("does not serve breakfast", "has no breakfast"),
    ("petFriendly", "yes"): ("welcomes pets", "allows pets"),
    ("petFriendly", "no"): ("does not allow pets", "is not open to pets"),
}
"""What a place does, for a relative clause or a sentence of its own."""

# Values copied as they are: ``{}`` in these wordings.
AFTER_COPIED = {"near": ("near {}", "close to {}"), "rating": ("with a rating of {}", "rated {}")}
CLAUSES_COPIED = {"near": ("is near {}", "is close to {}"), "rating": ("is rated {}", "has a rating of {}")}

VALUES: dict[str, tuple[str, ...]] = {
    "stayType": KINDS,
    "priceRange": ("low", "moderate", "high"),
    "rating": tuple(f"{stars} out of 5" for stars in range(1, 6)),
    "area": ("harbour", "old town", "hills", "lakeside"),
    "view": ("sea", "garden", "mountains"),
    "breakfast": ("included", "extra", "none"),
    "petFriendly": ("yes", "no"),
    "near": tuple(f"{first} {last}" for first in LANDMARK_FIRST for last in LANDMARK_LAST),
}
"""Every attribute but the name, in the order in which meaning representations list them."""

SIZES = ((3, 2), (4, 4), (5, 5), (6, 5), (7, 3), (8, 2))  # attributes, the name among them, and how often
REFERENCES = ((3, 1), (4, 2), (5, 3), (6, 2), (7, 1))  # references of one meaning representation, and how often


@dataclass(frozen=True)
class Stay:
    """One place: its name and some of the other attributes."""

    name: str
    values: dict[str, str]

    def meaning(self) -> str:
        """The source text: ``name[...], stayType[...]`` and so on."""
        return ", ".join(f"{key}[{value}]" for key, value in (("name", self.name), *self.values.items()))


def stay(draw: Draw) -> Stay:
    """A place with three to eight attributes. Most say what kind of place it is."""
    size = draw.weighted(SIZES) - 1
    left = list(VALUES)
    chosen = {"stayType"} if draw.chance(0.6) else set()
    while len(chosen) < size:
        chosen.add(draw.pick(left))
    name = f"{draw.pick(NAME_FIRST)} {draw.pick(NAME_LAST)}"
    if draw.chance(0.4):
        name = f"The {name}"
    return Stay(name, {key: draw.pick(values) for key, values in VALUES.items() if key in chosen})


def _habit(draw: Draw, wordings: tuple[str, ...]) -> str:
    """The first of the wordings half of the time, else one of the others."""
    return wordings[0] if len(wordings) == 1 or draw.chance(0.5) else draw.pick(wordings[1:])


def _before(draw: Draw, key: str, value: str) -> str:
    return _habit(draw, BEFORE[key, value])


def _after(draw: Draw, key: str, value: str) -> str:
    return _habit(draw, AFTER_COPIED[key]).format(value) if key in AFTER_COPIED else _habit(draw, AFTER[key, value])


def _clause(draw: Draw, key: str, value: str) -> str:
    return (
        _habit(draw, CLAUSES_COPIED[key]).format(value) if key in CLAUSES_COPIED else _habit(draw, CLAUSES[key, value])
    )


def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."


ORDERS = (
    ("priceRange", "petFriendly", "area", "near", "view", "rating", "breakfast"),
    ("priceRange", "rating", "near", "area", "view", "breakfast", "petFriendly"),
    ("area", "near", "view", "priceRange", "rating", "breakfast", "petFriendly"),
    ("rating", "priceRange", "area", "view", "near", "petFriendly", "breakfast"),
)
"""Orders in which people think of the attributes; the first is the most common."""


def reference(draw: Draw, place: Stay) -> str:
    """One text that says what the meaning representation says."""
    order = ORDERS[0] if draw.chance(0.5) else draw.pick(ORDERS[1:])
    left = [key for key in order if key in place.values]
    noun = place.values.get("stayType", "place to stay")

    def take(possible: list[str], most: int) -> list[str]:
        taken = possible[:most]
        left[:] = [key for key in left if key not in taken]
        return taken

    opening = draw.weighted((("is", 6), ("that", 3), ("there", 3), ("front", 3)))
    front = ""
    if opening == "front":
        fronted = take([key for key in left if key in ("area", "near")], 1)
        front = _after(draw, fronted[0], place.values[fronted[0]]) if fronted else ""
    before = take([key for key in left if (key, place.values[key]) in BEFORE], draw.weighted(((1, 4), (2, 1), (0, 1))))
    after = take(
        [key for key in left if key in ("area", "near", "view", "rating")], draw.weighted(((2, 3), (1, 2), (0, 1)))
    )
    described = _with_article(" ".join((*(_before(draw, key, place.values[key]) for key in before), noun)))
    tail = _phrases([_after(draw, key, place.values[key]) for key in after])
    if opening == "there":
        first = f"there is {described} called {place.name}{tail}"
    elif not front:
        first = f"{place.name} is {described}{tail}"
    elif draw.chance(0.5):
        first = f"{front}, {place.name} is {described}{tail}"
    else:
        first = f"{front} you will find {place.name}, {described}{tail}"
    if opening == "that" and left:
        key = left.pop(0)
        first += f" that {_clause(draw, key, place.values[key])}"

    sentences = [_sentence(first)]
    subjects = ["it", f"the {noun}" if "stayType" in place.values else "the place", place.name]
    while left:
        # A subject serves once, as two sentences on end that open with "It" are nobody's habit, so the last one takes
        # what is left.
        together = take(left, draw.weighted(((2, 4), (1, 1), (3, 2))) if len(subjects) > 1 else len(left))
        clauses = [_clause(draw, key, place.values[key]) for key in together]
        subject = subjects.pop(0 if draw.chance(0.6) else draw.below(len(subjects)))
        sentences.append(_sentence(f"{subject} {_joined(clauses)}"))
    return " ".join(sentences)


def _phrases(parts: list[str]) -> str:
    """The phrases in a row, each after a space; two that start with "with" are one: "with sea views and a rating of 3
    out of 5".
    """
    row = ""
    for before, part in zip(["", *parts], parts, strict=False):
        row += (
            (f" and {part.removeprefix('with ')}")
            if before.startswith("with ") and part.startswith("with ")
            else f" {part}"
        )
    return row


def _joined(parts: list[str]) -> str:
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else parts[0]


def described_stay(draw: Draw) -> tuple[str, list[str]]:
    """A meaning representation and three to seven different references of it (fewer of a place with little to say
    about).
    """
    place = stay(draw)
    wanted = draw.weighted(REFERENCES)
    texts: dict[str, None] = {}
    for _ in range(60):
        if len(texts) == wanted:
            break
        texts[reference(draw, place)] = None
    return place.meaning(), list(texts)
