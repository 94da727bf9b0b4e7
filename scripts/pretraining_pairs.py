"""What the built-in generators read before any fine-tuning: records with sentences about them, and plain text.

Both differ from what the demonstration fine-tunes on (`dora_cli.data.builtin.stays`) on purpose:

* Subject. Records are about museums, trains, books, people, boats and clubs, or have random fields. No record is about
  a place to stay, and the name is the only attribute that both worlds have.
* Notation. Fields are written in many ways ("colour: red | owner: Anna", "colour=red;...", "<colour> red ...",
  "colour(red), ..."), in any order. The demonstration's, ``key[value], key[value]`` in a fixed order, never occurs.
* Wording. Sentences are built alike, but what an attribute makes of its value ("low" is "cheap", "petFriendly[no]" is
  "does not allow pets") is never read; records say other things of other attributes.
* Words. Plain text has the demonstration's words (harbour, breakfast, pets, the names of the attributes, "[" and "]"),
  and random fields have some of them as values. So the words have embeddings, and nothing says how such a
  representation turns into a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dora_cli.data.builtin import stays
from dora_cli.data.builtin.draw import Draw

CITIES = (
    "Bern", "Oslo", "Lisbon", "Porto", "Turin", "Bergen", "Cork", "York", "Leeds", "Bath", "Delft", "Ghent", "Bruges",
    "Graz", "Basel",
    "Malmo", "Riga", "Vienna", "Prague", "Dresden",
)  # fmt: skip
PEOPLE = (
    "Anna", "Peter", "Maria", "Jonas", "Clara", "David", "Emma", "Felix", "Greta", "Henry", "Ida", "James", "Karin",
    "Louis", "Nora",
    "Oscar", "Paula", "Ruth", "Simon", "Tom",
)  # fmt: skip
COLOURS = ("red", "green", "blue", "black", "white", "yellow", "grey", "brown", "orange", "silver", "golden", "purple")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
THINGS = (
    "chair", "lamp", "bag", "coat", "table", "clock", "box", "rope", "flag", "door", "window", "letter", "key", "hat",
    "boat", "car",
    "cup", "bottle", "ring", "mirror", "piano", "picture", "ladder", "candle", "basket", "map", "stone", "wheel",
    "drum", "bell",
)  # fmt: skip
NAME_FIRST = (
    *stays.NAME_FIRST, *stays.LANDMARK_FIRST, "North", "South", "River", "Forest", "Copper", "Iron", "Royal", "Grand",
    "New", "Bright",
    "Wild", "High",
)  # fmt: skip
NAME_LAST = (
    *stays.NAME_LAST, *stays.LANDMARK_LAST, "Hall", "House", "Wolf", "Bear", "Eagle", "Arrow", "Wind", "Hill", "Wave",
    "Moon", "Sun",
    "Tree",
)  # fmt: skip
Value = Callable[[Draw], str]


@dataclass(frozen=True)
class Field:
    """One field of a record.

    Attributes:
        keys: names it may have in the record.
        value: draws a value as the record writes it.
        clauses: what the subject does, ``{}`` for the value; by value where the value itself is not said.
        phrases: what may follow the noun, or empty.
        adjectives: what may stand before the noun, by value, or for every value where "" is the key.
        front: whether a phrase may open the sentence.
    """

    keys: tuple[str, ...]
    value: Value
    clauses: tuple[str, ...] | dict[str, tuple[str, ...]]
    phrases: tuple[str, ...] = ()
    adjectives: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    front: bool = False

    def adjective(self, value: str) -> tuple[str, ...]:
        """What may stand before the noun for this value."""
        return self.adjectives.get(value) or self.adjectives.get("", ())


@dataclass(frozen=True)
class Subject:
    """A kind of thing that records are about."""

    nouns: tuple[str, ...]
    fields: tuple[Field, ...]


def _one_of(*values: str) -> Value:
    return lambda draw: draw.pick(values)


def _number(low: int, step: int, count: int) -> Value:
    return lambda draw: str(low + step * draw.below(count))


def _word_name(draw: Draw) -> str:
    name = f"{draw.pick(NAME_FIRST)} {draw.pick(NAME_LAST)}"
    return f"The {name}" if draw.chance(0.3) else name


def _made_up(draw: Draw) -> str:
    name = "".join(draw.pick("bcdfghjklmnprstvwz") + draw.pick("aeiou") for _ in range(1 + draw.below(2))) + draw.pick(
        ("n", "s", "l", "r")
    )
    return name.capitalize()


def _person(draw: Draw) -> str:
    return draw.pick(PEOPLE) if draw.chance(0.5) else f"{draw.pick(PEOPLE)} {_made_up(draw)}"


_CITY = Field(("city", "town"), _one_of(*CITIES), ("is in {}", "stands in {}"), ("in {}", "from {}"), front=True)
_COLOUR = Field(("colour", "paint"), _one_of(*COLOURS), ("is {}", "is painted {}"), adjectives={"": ("{}",)})
_FOUNDED = Field(("founded", "year"), _number(1780, 7, 30), ("was founded in {}", "began in {}"), ("of {}",))

SUBJECTS = (
    Subject(
        ("museum", "gallery", "science museum"),
        (
            _CITY,
            _FOUNDED,
            Field(
                ("tours", "guided"),
                _one_of("yes", "no"),
                {"yes": ("offers guided tours",), "no": ("has no guided tours",)},
            ),
            Field(
                ("ticket",),
                _one_of("free", "paid"),
                {"free": ("costs nothing", "is free to enter"), "paid": ("costs money to enter",)},
                adjectives={"free": ("free",)},
            ),
            Field(("closed", "closing day"), _one_of(*DAYS), ("is closed on {}", "does not open on {}")),
            Field(
                ("beside", "next to"),
                _word_name,
                ("stands beside {}", "is next to {}"),
                ("beside {}", "next to {}"),
                front=True,
            ),
            Field(("rooms",), _number(2, 1, 40), ("has {} rooms",), ("with {} rooms",)),
        ),
    ),
    Subject(
        ("train", "night train", "bus"),
        (
            Field(("from", "start"), _one_of(*CITIES), ("leaves from {}", "starts in {}"), ("from {}",)),
            Field(("to", "end"), _one_of(*CITIES), ("goes to {}", "ends in {}"), ("to {}",)),
            Field(("hours", "time"), _number(2, 1, 20), ("takes {} hours", "needs {} hours")),
            _COLOUR,
            Field(("food", "meals"), _one_of("yes", "no"), {"yes": ("serves meals",), "no": ("does not serve meals",)}),
            Field(("driver",), _person, ("is driven by {}",), ("with {} at the wheel",)),
            Field(
                ("speed",),
                _one_of("low", "middle", "high"),
                {"low": ("is slow",), "middle": ("is neither slow nor fast",), "high": ("is fast",)},
                adjectives={"low": ("slow",), "high": ("fast", "rapid")},
            ),
        ),
    ),
    Subject(
        ("book", "novel", "comic"),
        (
            Field(("author", "writer"), _person, ("was written by {}", "is the work of {}"), ("by {}",)),
            Field(("pages",), _number(60, 13, 50), ("has {} pages", "is {} pages long"), ("with {} pages",)),
            Field(("printed", "year"), _number(1900, 3, 40), ("was printed in {}", "came out in {}"), ("from {}",)),
            Field(
                ("about", "subject"),
                _one_of("the sea", "a war", "two friends", "a garden", "animals", "the moon"),
                ("tells of {}",),
            ),
            Field(
                ("prize",),
                _one_of("yes", "no"),
                {"yes": ("won a prize",), "no": ("did not win a prize",)},
                adjectives={"yes": ("prize-winning",)},
            ),
            Field(
                ("score", "grade"),
                lambda draw: f"{1 + draw.below(10)} out of 10",
                ("scored {}", "got {}"),
                ("with a grade of {}",),
            ),
        ),
    ),
    Subject(
        ("teacher", "doctor", "farmer", "painter", "baker"),
        (
            _CITY,
            Field(("age", "years"), _number(20, 1, 60), ("is {} years old",), ("of {} years",)),
            Field(
                ("hobby", "likes"),
                _one_of("chess", "music", "films", "hiking", "cooking", "sailing"),
                ("likes {}", "enjoys {}"),
            ),
            Field(("car",), _one_of("yes", "no"), {"yes": ("owns a car",), "no": ("does not own a car",)}),
            Field(("friend",), _person, ("is a friend of {}", "knows {}")),
            Field(("works at", "company"), _word_name, ("works at {}",), ("at {}",)),
        ),
    ),
    Subject(
        ("boat", "ship", "ferry"),
        (
            _COLOUR,
            Field(("captain", "owner"), _person, ("belongs to {}", "is sailed by {}"), ("of {}",)),
            Field(
                ("length", "metres"), _number(6, 2, 40), ("is {} metres long", "measures {} metres"), ("of {} metres",)
            ),
            Field(("port", "home"), _one_of(*CITIES), ("lies in {}", "is at home in {}"), ("from {}",)),
            Field(
                ("engine",),
                _one_of("new", "old", "none"),
                {"new": ("has a new engine",), "old": ("has an old engine",), "none": ("has no engine",)},
            ),
            Field(("crew",), _number(2, 1, 30), ("has a crew of {}",), ("with a crew of {}",)),
        ),
    ),
    Subject(
        ("chess club", "choir", "football club", "school"),
        (
            _CITY,
            _FOUNDED,
            Field(
                ("members", "size"), _number(12, 9, 60), ("has {} members", "counts {} members"), ("with {} members",)
            ),
            Field(("leader", "head"), _person, ("is led by {}",), ("under {}",)),
            Field(("meets", "day"), _one_of(*DAYS), ("meets on {}", "comes together on {}")),
            Field(
                ("children",),
                _one_of("yes", "no"),
                {"yes": ("welcomes children",), "no": ("is not for children",)},
                adjectives={"yes": ("family",)},
            ),
            Field(("building", "seat"), _word_name, ("meets in {}", "has its seat in {}")),
        ),
    ),
)
RANDOM_KEYS = (
    "shape", "weight", "maker", "origin", "sign", "code", "song", "motto", "drink", "animal", "number", "month",
    "metal", "language",
    "tool", "material", "guard", "twin", "rival", "sound",
)  # fmt: skip


SIGNS = (": ", "=", " = ", " -> ", " - ", ":")
BRACKETS = ("()", "{}", "<>")
JOINTS = (" | ", ";", " ; ", " / ", ", ", " , ", " ")


def _notation(draw: Draw, pairs: list[tuple[str, str]]) -> str:
    """The fields in one of many notations, of which none is the demonstration's."""
    kind = draw.below(5)
    if kind < 2:
        sign, joint = draw.pick(SIGNS), draw.pick(JOINTS[:6])
        return joint.join(f"{key}{sign}{value}" for key, value in pairs)
    if kind == 2:
        return " ".join(f"<{key}> {value}" for key, value in pairs)
    (opened, closed), joint = draw.pick(BRACKETS), draw.pick(JOINTS)
    if kind == 3:
        return joint.join(f"{key}{opened}{value}{closed}" for key, value in pairs)
    sign = draw.pick(SIGNS)
    return joint.join(f"[{key}{sign}{value}]" for key, value in pairs)


def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _shuffled(draw: Draw, items: list[Field]) -> list[Field]:
    left, order = list(items), []
    while left:
        order.append(left.pop(draw.below(len(left))))
    return order


def _joined(parts: list[str]) -> str:
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else parts[0]


def record(draw: Draw) -> tuple[str, str]:
    """A record about a known kind of thing, and its text."""
    subject = draw.pick(SUBJECTS)
    person = "teacher" in subject.nouns
    noun = draw.pick(subject.nouns)
    name = _person(draw) if person else _made_up(draw) if draw.chance(0.2) else _word_name(draw)
    fields = _shuffled(draw, list(subject.fields))[: 1 + draw.below(len(subject.fields))]
    values = [(field, field.value(draw)) for field in fields]
    pairs = [("name", name), ("kind", noun), *((draw.pick(field.keys), value) for field, value in values)]

    left = list(values)

    def take(fits: Callable[[Field, str], bool], most: int) -> list[tuple[Field, str]]:
        taken = [pair for pair in left if fits(*pair)][:most]
        left[:] = [pair for pair in left if pair not in taken]
        return taken

    opening = draw.weighted((("is", 5), ("that", 3), ("there", 3), ("front", 3), ("apposition", 2)))
    front = take(lambda field, _: field.front, int(opening == "front"))
    before = [
        draw.pick(field.adjective(value)).format(value)
        for field, value in take(lambda f, v: bool(f.adjective(v)), draw.below(2))
    ]
    after = [
        draw.pick(field.phrases).format(value) for field, value in take(lambda f, _: bool(f.phrases), draw.below(3))
    ]
    described, tail = _with_article(" ".join((*before, noun))), "".join(f" {phrase}" for phrase in after)
    clauses = [
        draw.pick(field.clauses[value]) if isinstance(field.clauses, dict) else draw.pick(field.clauses).format(value)
        for field, value in left
    ]
    first = f"{name} is {described}{tail}"
    if opening == "there":
        first = f"There is {described} called {name}{tail}"
    elif front:
        phrase = draw.pick(front[0][0].phrases).format(front[0][1])
        first = f"{phrase[0].upper()}{phrase[1:]}{draw.pick((f', {first}', f' there is {name}, {described}{tail}'))}"
    elif opening == "apposition" and clauses:
        first = f"{name}, {described}{tail}, {clauses.pop(0)}"
    if opening == "that" and clauses:
        first += f" that {clauses.pop(0)}"
    sentences = [f"{first}."]
    while clauses:
        count = 1 + draw.below(3)
        together, clauses = clauses[:count], clauses[count:]
        sentences.append(f"{draw.pick((name if person else 'It', f'The {noun}', name))} {_joined(together)}.")
    return _notation(draw, pairs), " ".join(sentences)


def _word(draw: Draw) -> str:
    return draw.pick(WORDS)


def random_record(draw: Draw) -> tuple[str, str]:
    """A record of any fields with any values, and a text that only copies them: copying is learnt apart
    from wording.
    """
    name = _made_up(draw) if draw.chance(0.3) else _word_name(draw)
    pairs = [("name", name)]
    for _ in range(1 + draw.below(6)):
        value = draw.pick(
            (_made_up, _word_name, _person, _one_of(*COLOURS), _one_of(*THINGS), _number(1, 1, 99), _word, _word)
        )(draw)
        key = draw.pick((*RANDOM_KEYS, *THINGS)) if draw.chance(0.7) else _made_up(draw).lower()
        pairs.append((key + draw.pick(("Kind", "Type")) if draw.chance(0.2) else key, value))
    kind = draw.below(3)
    if kind == 0:
        sentences = [
            f"The {pairs[1][0]} of {name} is {pairs[1][1]}",
            *(f"Its {key} is {value}" for key, value in pairs[2:]),
        ]
    elif kind == 1:
        sentences = [f"{name} has {_joined([f'{value} as {key}' for key, value in pairs[1:]])}"]
    else:
        sentences, left = [], pairs[1:]
        while left:
            count = 1 + draw.below(3)
            sentences.append(
                f"{'It' if sentences else name} is {_joined([f'{value} by {key}' for key, value in left[:count]])}"
            )
            left = left[count:]
    return _notation(draw, pairs), ". ".join(sentences) + "."


STAY_ADJECTIVES = (
    "cheap",
    "low-priced",
    "mid-priced",
    "moderately priced",
    "expensive",
    "high-priced",
    "pet-friendly",
    "small",
    "quiet",
)
STAY_PLACES = (
    "by the harbour", "in the harbour area", "in the old town", "in the old part of town", "in the hills",
    "up in the hills", "by the lake",
    "on the lakeside", "close to the sea", "near the garden", "in the mountains",
)  # fmt: skip
STAY_FACTS = (
    "breakfast was included", "breakfast was for free", ("they charged extra for "
                                                        "breakfast"), "there was an extra cost for breakfast",
    "breakfast was not served", "no pets were allowed", "pets were welcome", "the prices were low",
    "the prices were high",
    "the prices were moderate", ("the window looked out on the "
                                "sea"), "the window looked out on the garden", "we had mountain views",
    "we had no sea views", "there was a view of the lake", "the place was not open yet",
)  # fmt: skip
WHEN = ("Last night", "In summer", "On Monday", "Two years ago", "Yesterday", "In winter", "At Easter")
PLAIN = (
    "{when} we slept in {a_stay} {place}, and {fact}.",
    "{when}, {person} stayed {place}. As {fact}, {person2} paid less.",
    "{person} asked for {a_stay} with garden views, but {fact}.",
    "You will find no {stay} {place}.",
    "Is there {a_stay} {place}? {person} says there is one that allows pets.",
    "{person} gave the {stay} {stars} out of 5, because {fact}.",
    "The rating of a {stay} says little, says {person}: it is rated {stars} out of 5 and {fact}.",
    "{person} has a dog called {name}, and hostels that welcome pets are rare {place}.",
    "There is a song called {landmark} that {person} likes.",
    "The road to {landmark} is closed, so the bus stops at {name}.",
    "{person} lost a {thing} near {landmark} and found it close to {landmark2}.",
    "{when}, {fact}. {person} was happy with that.",
    "{person} and {person2} met at {landmark}, had breakfast and walked to a village {place}.",
    "The form asks for {key}, {key2} and {key3}, see page [{stars}].",
    "In the table [{stars}] the column {key} is empty, and {key2} is wrong.",
    "The town offers rooms at an extra cost to those who come {place}.",
    "Our place to stay includes a {thing} and serves tea; it does not include {thing2}s.",
    "The village, located {place}, has a moderate climate and is open to all.",
    "Whoever allows a {thing} in the room, charges for it, or offers a {thing2}, must write it down [{stars}].",
    'Write "{word}", "{word2}" or "{word3}" into row [{stars}].',
    '{person} misread "{word}" as "{word2}" and asked {person2}.',
    'Instead of "{word}" the column {key} has "{word2}", see [{stars}].',
    "A farmhouse welcomes guests and looks out on the {view}; a {stay} includes less.",
)
KEYS = ("name", *stays.VALUES)
"""Those of the demonstration, and words in the spelling they have in it."""
WORDS = (
    *NAME_FIRST,
    *NAME_LAST,
    *(value for key, values in stays.VALUES.items() if key not in ("near", "rating") for value in values),
)


def plain(draw: Draw) -> str:
    """One or two sentences about journeys, forms and lost things, made of the demonstration's words."""

    def stay() -> str:
        return draw.pick(stays.KINDS)

    def landmark() -> str:
        return f"{draw.pick(stays.LANDMARK_FIRST)} {draw.pick(stays.LANDMARK_LAST)}"

    return draw.pick(PLAIN).format(
        when=draw.pick(WHEN),
        a_stay=_with_article(f"{draw.pick(STAY_ADJECTIVES)} {stay()}"),
        stay=stay(),
        place=draw.pick(STAY_PLACES),
        fact=draw.pick(STAY_FACTS),
        person=draw.pick(PEOPLE),
        person2=draw.pick(PEOPLE),
        stars=1 + draw.below(5),
        name=_word_name(draw),
        landmark=landmark(),
        landmark2=landmark(),
        thing=draw.pick(THINGS),
        thing2=draw.pick(THINGS),
        view=draw.pick(("sea", "garden", "mountains")),
        word=draw.pick(WORDS),
        word2=draw.pick(WORDS),
        word3=draw.pick(WORDS),
        key=draw.pick(KEYS),
        key2=draw.pick(KEYS),
        key3=draw.pick(KEYS),
    )


def pairs(seed: int, count: int) -> list[tuple[str, str]]:
    """The first `count` readings of the stream with this seed: (record, text), or ("", text) for plain text (a
    quarter).
    """
    draw, readings = Draw(seed), []
    for _ in range(count):
        kind = draw.weighted((("record", 7), ("random", 5), ("plain", 4)))
        readings.append(
            record(draw) if kind == "record" else random_record(draw) if kind == "random" else ("", plain(draw))
        )
    return readings
