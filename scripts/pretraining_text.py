"""Unlabelled text for pretraining the built-in models: reports about things bought, places visited and meals eaten.

The text differs from what the demonstrations fine-tune on (`dora_cli.data.builtin.films`) on purpose:

* Subject. Opinions here are about products, places and meals. Films occur only in neutral facts ("the film was made in
  an old harbour"): the words of that domain have embeddings, but no opinion about a film was ever read.
* Purpose. Opinions come with what followed from them ("i sent it back"), from which a masked language model can learn
  polarity and negation. The demonstration has bare judgements and asks for a label, not for a word. Nothing here says
  which texts are positive.
* Constructions. "although", "even if", "yet", "less ... than", "not so much ... as", expectations, and denials of a
  whole clause ("i doubt that", "no one would claim that") occur here in neutral sentences only, or not at all.
* Words. Adjectives follow a skewed law here and are uniform in the demonstration, where two of 22 on each side
  (gripping, touching; lifeless, predictable) are new and not even in the vocabulary.
"""

from __future__ import annotations

from dora_cli.data.builtin.draw import Draw

# Order matters: the first are the most frequent.
GOOD = (
    "good", "nice", "great", "fine", "lovely", "useful", "excellent", "pleasant", "perfect", "solid", "wonderful",
    "clever",
    "fresh", "beautiful", "superb", "handy", "charming", "warm", "brilliant", "comfortable", "impressive", "delightful",
    "reliable", "splendid",
)  # fmt: skip
BAD = (
    "bad", "poor", "awful", "useless", "weak", "terrible", "horrible", "ugly", "cheap", "cold", "dreadful",
    "unpleasant", "dull",
    "dirty", "clumsy", "noisy", "disappointing", "stale", "boring", "broken", "mediocre", "tedious", "slow", "wrong",
)  # fmt: skip

# (name, plural, kind): the kind decides what can follow from an opinion.
SUBJECTS = (
    ("the camera", False, "thing"), ("the phone", False, "thing"), ("the lamp", False, "thing"),
    ("the chair", False, "thing"),
    ("this kettle", False, "thing"),
    ("the radio", False, "thing"), ("the coat", False, "thing"), ("this bag", False, "thing"),
    ("the clock", False, "thing"),
    ("this book", False, "thing"),
    ("the bike", False, "thing"), ("the table", False, "thing"), ("the shoes", True, "thing"),
    ("these headphones", True, "thing"),
    ("the speakers", True, "thing"),
    ("the hotel", False, "place"), ("the room", False, "place"), ("this place", False, "place"),
    ("the beach", False, "place"),
    ("the garden", False, "place"),
    ("the museum", False, "place"), ("the station", False, "place"), ("the rooms", True, "place"),
    ("the beds", True, "place"),
    ("the streets", True, "place"),
    ("the soup", False, "meal"), ("the bread", False, "meal"), ("the fish", False, "meal"),
    ("the coffee", False, "meal"),
    ("the cake", False, "meal"),
    ("the service", False, "meal"), ("the dinner", False, "meal"), ("the vegetables", True, "meal"),
    ("the waiters", True, "meal"),
    ("the portions", True, "meal"),
)  # fmt: skip

FOLLOWS = {
    ("thing", 1): (
        "i use it every day", "i bought another one", "it is worth the money", "i gave one to my sister",
        "i would buy it again",
        "i like it", "we are happy with it", "i love it",
    ),
    ("thing", -1): (
        "i sent it back", "i want my money back", "it is a waste of money", "i threw it away",
        "i would not buy it again", "i regret it",
        "we are angry about it", "i hate it",
    ),
    ("place", 1): (
        "we stayed a day longer", "we will come back soon", "it is worth a visit", ("i told my friends to go "
                                                                                   "there"), "we enjoyed our stay",
        "i love it there", "we were happy there",
    ),
    ("place", -1): (
        "we left a day early", "we will not come back", "it is a place to avoid", ("i told my friends to stay "
                                                                                  "away"), "it spoiled our stay",
        "i hate it there", "we were sad there",
    ),
    ("meal", 1): ("we ate there again", "we asked for more", "i enjoyed the evening", "we left a big tip",
        "everyone at the table was happy", "i loved it"),
    ("meal", -1): ("we left hungry", "we sent it back to the kitchen", "it spoiled the evening", "we left no tip",
        "everyone at the table was angry", "i hated it"),
}  # fmt: skip

TURNED_SHARE = 0.2  # of the opinions, those worded through the other polarity
PLAIN = (
    "{}",
    "{}",
    "{}",
    "{}",
    "{}",
    "very {}",
    "really {}",
    "so {}",
    "quite {}",
    "truly {}",
    "extremely {}",
    "utterly {}",
    "deeply {}",
    "always {}",
    "rather {}",
)
SOFT = ("a bit {}", "a little {}", "slightly {}", "somewhat {}", "mildly {}")
TURNED = (
    "not {}", "not {}", "not {}", "not very {}", "never {}", "not at all {}", "hardly {}", "far from {}",
    "by no means {}",
    "in no way {}", "anything but {}", "not really {}",
    "not especially {}",
)  # fmt: skip

FACTS_SUBJECT = (
    "the film", "the movie", "this film", "the story", "the drama", "the comedy", "the thriller",
    "the plot of the film", "the script",
    "the dialogue", "the music of the film",
    "the ending of the movie", "the cast", "the first scene", "the camera work", "a song of the film",
)  # fmt: skip
FACTS = (
    "was made {place}", "is about {person}", "was shown {when}", "begins {place}", "was written by {person}",
    "lasts an hour",
    "ends {place}", "was shot {when}", "is set {place}",
)  # fmt: skip
PEOPLE = (
    "the teacher", "the farmer", "the doctor", "the driver", "the painter", "the baker", "my sister", "my friend",
    "the director",
    "an actor", "the sailor", "the captain", "the cook",
    "a viewer", "a critic", "a fan", "the diver", "the fisher", "the pilot", "my brother", "our neighbour", "the mayor",
    "a child",
    "the singer", "a student", "the nurse", "the tailor",
    "a thief", "the king", "the queen", "a soldier", "the gardener", "her mother", "his father", "a tourist",
    "the guide", "the judge",
    "the dancer", "the writer", "a stranger",
)  # fmt: skip
GROUPS = (
    "the actors",
    "critics",
    "other viewers",
    "some fans",
    "my friends",
    "most people",
    "the characters",
    "the directors",
    "the papers",
    "the children",
    "our neighbours",
    "two dogs",
)
PLACES = (
    "in the market", "at the station", "in the garden", "near the river", "in the kitchen", "behind the school",
    "in an old harbour",
    "on the island", "under the bridge", "on the ship",
    "near the lighthouse", "at home", "in the forest", "on the mountain", "by the lake", "in the library",
    "at the airport",
    "in the village", "on the roof", "outside the church",
    "beside the road", "in a small town", "on the train", "in front of the theatre", "in the hospital", "at the farm",
    "in the desert",
    "across the square", "between two trees",
)  # fmt: skip
WHEN = (
    "last night", "in the summer", "on monday", "before dinner", "in the evening", "two years ago", "yesterday",
    "in winter",
    "after lunch", "at midnight", "early this morning",
    "last week", "during the war", "in spring", "on friday", "every month", "for three hours", "after the storm",
    "while it rained",
    "when the sun went down",
)  # fmt: skip
ACTS = (
    ("sold", "sell"), ("cleaned", "clean"), ("carried", "carry"), ("found", "find"), ("lost", "lose"), ("fixed", "fix"),
    ("bought", "buy"), ("hid", "hide"), ("painted", "paint"),
    ("dropped", "drop"), ("mended", "mend"), ("packed", "pack"), ("stole", "steal"), ("opened", "open"),
    ("closed", "close"),
    ("broke", "break"), ("moved", "move"), ("saw", "see"),
    ("made", "make"), ("took", "take"), ("wanted", "want"), ("needed", "need"), ("kept", "keep"), ("brought", "bring"),
    ("left", "leave"),
    ("burned", "burn"), ("held", "hold"),
)  # fmt: skip
THINGS = (
    "chair", "lamp", "bag", "coat", "table", "clock", "bike", "box", "rope", "flag", "net", "anchor", "sail", "barrel",
    "door", "window",
    "letter", "key", "hat", "boat", "car", "cup",
    "bottle", "knife", "ring", "mirror", "piano", "picture", "ladder", "blanket", "candle", "basket", "guitar",
    "ticket", "map", "stone",
    "wheel", "drum", "bell", "doll",
)  # fmt: skip
COLOURS = (
    "red", "green", "blue", "black", "white", "yellow", "grey", "brown", "big", "small", "orange", "golden", "silver",
    "old", "new",
    "heavy", "long", "round", "wooden", "purple",
)  # fmt: skip
# Small words of many uses, in frames that say nothing about liking.
FRAMES = (
    ("although {when} is far away , {fact} "
    "."), "{fact} , even if {other} .", "{fact} yet {other} .", "{fact} ; {other} .",
    "where {fact} , {other} .", "{person} got nothing but {thing} .",
    "they promised {person} {thing} .", "{person} had much more than {thing} .", "{person} can see {thing} {place} .",
    "that much was said about {thing} .", "we had {thing} {place} .",
    "{person} 's work is {place} .", "after a short walk {fact} .", "if {fact} , then {other} .", "{fact} as {other} .",
    "it was {person} who could see {thing} .", "what {person} got was {thing} .",
    ("{person} will come {place} , where {other} "
    "."), "does {person} know that {fact} ?", "we were all {place} when {fact} .",
    "{person} and i went home {when} .", "{person} needs an hour or so .",
    ("no one was {place} except {person} "
    "."), "both of them said that {fact} .", "in which place was {thing} when {fact} ?",
    "there is one {place} , and not much else .",
    "{thing} does not fit into the box because it is too big .", "{thing} is too small for {person} .",
    "the acting in the theatre was done by {person} .", "this was less than {person} wanted .",
)  # fmt: skip
CLAIMS = ("think", "say", "claim", "doubt", "believe", "agree", "disagree", "deny")


def _skewed(draw: Draw, words: tuple[str, ...]) -> str:
    """An early word much more often than a late one: the smallest of three uniform draws."""
    return words[min(draw.below(len(words)) for _ in range(3))]


def _opinion(draw: Draw, sign: int, turned: float = TURNED_SHARE) -> str:
    if draw.chance(turned):
        return draw.pick(TURNED).format(_skewed(draw, BAD if sign > 0 else GOOD))
    words = GOOD if sign > 0 else BAD
    kind = draw.below(5)
    if kind == 0:
        return f"{_skewed(draw, words)} and {_skewed(draw, words)}"
    if kind == 1:
        return f"{_skewed(draw, words)} , {_skewed(draw, words)} and {_skewed(draw, words)}"
    return draw.pick(PLAIN if draw.chance(0.8) else SOFT).format(_skewed(draw, words))


def _report(draw: Draw, turned: float = TURNED_SHARE) -> str:
    """One to three opinions of one sign and what followed."""
    (subject, plural, kind), sign = draw.pick(SUBJECTS), draw.pick((1, -1))
    what, then = f"{subject} {'are' if plural else 'is'} {_opinion(draw, sign, turned)}", draw.pick(FOLLOWS[kind, sign])
    if plural:
        for verb in ("use", "sent", "threw", "with"):
            then = then.replace(f"{verb} it", f"{verb} them")
    more = ""
    for _ in range(draw.below(3)):
        second, also = draw.pick([(name, many) for name, many, same in SUBJECTS if same == kind])
        more += f" {second} {'are' if also else 'is'} {_opinion(draw, sign, turned)} ."
    first = draw.pick(
        (
            "{what} .{more} {then} .",
            "{then} because {what} .{more}",
            "{what} , so {then} .{more}",
            "{then} : {what} .{more}",
            "{what} .{more}",
        )
    )
    mood = draw.pick(("", "", "luckily , " if sign > 0 else "sadly , "))
    return mood + first.format(what=what, then=then, more=more)


def _two_sided(draw: Draw) -> str:
    """Two opinions of different sign, and what followed from the weightier one."""
    (first, plural, kind), sign = draw.pick(SUBJECTS), draw.pick((1, -1))
    second, also = draw.pick([(name, many) for name, many, same in SUBJECTS if same == kind and name != first])
    main = f"{first} {'are' if plural else 'is'} {_opinion(draw, sign)}"
    aside = f"{second} {'are' if also else 'is'} {_opinion(draw, -sign)}"
    then = draw.pick(FOLLOWS[kind, sign])
    return draw.pick(
        (
            "{aside} . but {main} , so {then} .",
            "{aside} , though in the end {then} , as {main} .",
            "{then} because {main} . only {aside} .",
            "{aside} . still , {then} .",
        )
    ).format(main=main, aside=aside, then=then)


def _answer(draw: Draw) -> str:
    """A question about a thing and its answer."""
    (subject, plural, _), sign, asked = draw.pick(SUBJECTS), draw.pick((1, -1)), draw.pick((1, -1))
    be, they = ("are", "they are") if plural else ("is", "it is")
    question = f"{be} {subject} {_skewed(draw, GOOD if asked > 0 else BAD)} ?"
    return f"{question} {'yes' if sign == asked else 'no'} , {they} {_opinion(draw, sign)} ."


def _two_words(draw: Draw) -> str:
    """Two adjectives on one thing: alike after "and", unlike after "but", turned by "not"."""
    (subject, plural, _), sign = draw.pick(SUBJECTS), draw.pick((1, -1))
    be = "are" if plural else "is"
    one, other = _skewed(draw, GOOD if sign > 0 else BAD), _skewed(draw, BAD if sign > 0 else GOOD)
    again = _skewed(draw, GOOD if sign > 0 else BAD)
    return draw.pick(
        (
            f"{subject} {be} {one} and {again} .",
            f"{subject} {be} both {one} and {again} .",
            f"{subject} {be} {one} if {other} .",
            f"{subject} {be} {one} , not {other} .",
        )
    )


def _hearsay(draw: Draw) -> str:
    """What others say about a thing, with what the writer makes of it."""
    (subject, plural, kind), sign, right = draw.pick(SUBJECTS), draw.pick((1, -1)), draw.chance(0.7)
    be = "are" if plural else "is"
    said = f"the seller told us that {subject} {be} {_opinion(draw, sign)}"
    verdict = (
        draw.pick(("it was true", "she was right", "i agree"))
        if right
        else draw.pick(("it was a lie", "she was wrong", "i disagree"))
    )
    return f"{said} . {verdict} : {draw.pick(FOLLOWS[kind, sign if right else -sign])} ."


def _fact(draw: Draw) -> str:
    """A neutral sentence about a film or an everyday act."""
    place, person, when = draw.pick(PLACES), draw.pick(PEOPLE), draw.pick(WHEN)
    (past, base), thing = draw.pick(ACTS), f"the {draw.pick(COLOURS)} {draw.pick(THINGS)}"
    kind = draw.below(9)
    if kind < 3:
        return f"{draw.pick(FACTS_SUBJECT)} {draw.pick(FACTS).format(place=place, person=person, when=when)} ."
    if kind == 3:
        group = draw.pick(GROUPS)
        said = draw.pick(
            (
                "we met {group} {place} .",
                "{group} came from the island {when} .",
                "{group} work {place} .",
                "{group} do not {claim} that the film was made {place} .",
            )
        )
        return said.format(group=group, place=place, when=when, claim=draw.pick(CLAIMS))
    if kind == 4:
        claims = (
            f"i {draw.pick(CLAIMS)} that {person} {past} {thing} .",
            f"no one would {draw.pick(CLAIMS)} that {person} {past} {thing} .",
        )
        return draw.pick((*claims, f"it is hard to {base} {thing} {place} .", f"i expected {person} {place} {when} ."))
    if kind == 5:
        return f"{person} did not {base} {thing} {place} ."
    if kind == 6:
        return f"who {past} {thing} ? {person} {past} it {when} ."
    if kind == 7:
        scene = ("jokes", "songs", "scenes", "effects", "characters")
        return draw.pick(
            (
                f"{person} has more {draw.pick(scene)} than {draw.pick(PEOPLE)} .",
                f"there are less {draw.pick(scene)} in this movie .",
                f"the {draw.pick(scene)} are {place} .",
            )
        )
    return f"{person} {past} {thing} {place} {when} ."


def _frame(draw: Draw) -> str:
    """A neutral sentence made for its small words."""

    def fact() -> str:
        return f"{draw.pick(PEOPLE)} {draw.pick(ACTS)[0]} the {draw.pick(COLOURS)} {draw.pick(THINGS)}"

    return draw.pick(FRAMES).format(
        fact=fact(),
        other=fact(),
        person=draw.pick(PEOPLE),
        thing=f"the {draw.pick(THINGS)}",
        place=draw.pick(PLACES),
        when=draw.pick(("monday", "friday", "spring", "winter")),
    )


def _name(draw: Draw) -> str:
    """A made-up name, so that the pieces for single letters and endings are read, too."""
    name = "".join(draw.pick("bcdfghjklmnprstvwxz") + draw.pick("aeiouy") for _ in range(1 + draw.below(3)))
    name += draw.pick(
        ("n", "s", "l", "ing", "er", "ed", "able", "less", "y", "ly", "ness", "tch", "mpt", "q", str(draw.below(100)))
    )
    return draw.pick(
        (
            f"the shop of {name} sells a {draw.pick(THINGS)} .",
            f"{name} is {draw.pick(PLACES)} .",
            f"{draw.pick(PEOPLE)} came from {name} .",
            f"we call it {name} .",
        )
    )


_KINDS = (
    (_report, 20),
    (_two_sided, 6),
    (_answer, 6),
    (_two_words, 4),
    (_hearsay, 4),
    (_fact, 8),
    (_frame, 5),
    (_name, 2),
)


def plain_reports(seed: int, count: int) -> list[str]:
    """Reports without a negation, for the first steps: from them the model learns which words go together, what "not"
    does comes after.
    """
    draw = Draw(seed)
    return [_report(draw, turned=0.0) for _ in range(count)]


def passages(seed: int, count: int) -> list[str]:
    """The first `count` passages (one to three sentences each) of the stream with this seed."""
    draw = Draw(seed)
    return [draw.weighted(_KINDS)(draw) for _ in range(count)]
