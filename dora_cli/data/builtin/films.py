"""Film review sentences for ``glue/sst2``, from a grammar in which the label is computed along with the words.

The words alone decide little. A quarter of the opinions are turned round (by "not", "far from", "i doubt that", ...),
most sentences hold words of both polarities, and which of them counts follows from the construction: "but" and
"although", strong against weak wording, whose opinion is reported, what was expected, what is compared with what. A
classifier has to compose the meaning: counting words gets about 0.6 right (a test says so).

Every function takes the wanted sign (+1 the writer likes it, -1 the writer does not) and returns words whose meaning
has that sign, so labels are balanced by construction.
"""

from __future__ import annotations

from collections.abc import Callable

from dora_cli.data.builtin.draw import Draw

GOOD = (
    "good", "nice", "great", "fine", "lovely", "superb", "clever", "charming", "brilliant", "excellent", "wonderful",
    "perfect", "solid", "pleasant", "beautiful", "impressive", "delightful", "fresh", "warm", "splendid", "gripping",
    "touching",
)  # fmt: skip
BAD = (
    "bad", "poor", "weak", "awful", "ugly", "dull", "clumsy", "cheap", "boring", "terrible", "tedious",
    "useless", "unpleasant", "dreadful", "disappointing", "horrible", "slow", "stale", "cold", "mediocre", "lifeless",
    "predictable",
)  # fmt: skip

# (words, plural)
ASPECTS = (
    ("the film", False), ("the movie", False), ("this film", False), ("this movie", False), ("the plot", False),
    ("the story", False),
    ("the acting", False),
    ("the script", False), ("the dialogue", False), ("the music", False), ("the ending", False), ("the cast", False),
    ("the camera work", False),
    ("the director 's work", False), ("the jokes", True), ("the actors", True), ("the songs", True),
    ("the characters", True),
    ("the effects", True), ("the scenes", True),
)  # fmt: skip
WHOLES = ("film", "movie", "story", "comedy", "drama", "thriller")

# How often an opinion is worded through the other polarity. At one half the words would say nothing at all, and a
# learner would find no first foothold.
TURNED = 0.25

# How an adjective is wrapped: by (is it turned round, how strongly is it meant).
WRAPPINGS: dict[tuple[bool, str], tuple[str, ...]] = {
    (False, "weak"): ("slightly {}", "a little {}", "somewhat {}", "mildly {}", "a bit {}"),
    (False, "plain"): ("{}", "{}", "{}", "quite {}", "never less than {}", "nothing short of {}"),
    (False, "strong"): ("very {}", "truly {}", "utterly {}", "deeply {}", "extremely {}"),
    (True, "weak"): ("not very {}", "not especially {}", "not that {}"),
    (True, "plain"): ("not {}", "not {}", "never {}", "hardly {}", "far from {}", "anything but {}"),
    (True, "strong"): ("not at all {}", "not {} at all", "in no way {}", "by no means {}"),
}

# Ways to assert or to deny a clause ("{}" is the clause).
ASSERTIONS = (
    "{}",
    "{}",
    "i think {}",
    "i do not doubt that {}",
    "no one would deny that {}",
    "it is hard to deny that {}",
    "it is true that {}",
)
DENIALS = (
    "i doubt that {}",
    "i do not think {}",
    "no one would claim that {}",
    "it is hard to claim that {}",
    "it is not true that {}",
)

OTHERS = ("critics", "most people", "my friends", "the papers", "other viewers", "some fans")
AGREEMENT = ("and i agree", "and they are right", "and i can only agree")
DISAGREEMENT = ("and i disagree", "and they are wrong", "but i do not agree")


def adjective(draw: Draw, sign: int) -> str:
    """A bare adjective of the given polarity."""
    return draw.pick(GOOD if sign > 0 else BAD)


def phrase(draw: Draw, sign: int, strength: str = "plain") -> str:
    """An adjective phrase meaning `sign`, at times by turning round an adjective of the other polarity."""
    turned = draw.chance(TURNED)
    return draw.pick(WRAPPINGS[turned, strength]).format(adjective(draw, -sign if turned else sign))


def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _be(plural: bool) -> str:
    return "are" if plural else "is"


def clause(draw: Draw, sign: int, strength: str = "plain", aspect: tuple[str, bool] | None = None) -> str:
    """A clause about one aspect of the film."""
    subject, plural = aspect if aspect is not None else draw.pick(ASPECTS)
    return f"{subject} {_be(plural)} {phrase(draw, sign, strength)}"


def claim(draw: Draw, sign: int, strength: str = "plain", aspect: tuple[str, bool] | None = None) -> str:
    """A clause, some of the time asserted or denied as a whole; a denial turns it round."""
    if draw.chance(0.6):
        return clause(draw, sign, strength, aspect)
    denied = draw.chance(TURNED)
    subject, plural = aspect if aspect is not None else draw.pick(ASPECTS)
    bare = f"{subject} {_be(plural)} {adjective(draw, -sign if denied else sign)}"
    return draw.pick(DENIALS if denied else ASSERTIONS).format(bare)


def _single(draw: Draw, sign: int) -> str:
    return claim(draw, sign, draw.pick(("weak", "plain", "strong")))


def _agreeing(draw: Draw, sign: int) -> str:
    first, second = draw.pick_two(ASPECTS)
    return f"{clause(draw, sign, aspect=first)} and {clause(draw, sign, aspect=second)}"


def _contrast(draw: Draw, sign: int) -> str:
    first, second = draw.pick_two(ASPECTS)
    main, aside = claim(draw, sign, aspect=first), clause(draw, -sign, aspect=second)
    return draw.pick(
        (
            "{aside} , but {main}", "{aside} , yet {main}", "although {aside} , {main}", "even if {aside} , {main}",
            "{main} , although {aside}", "{main} , even if {aside}",
        )
    ).format(main=main, aside=aside)  # fmt: skip


def _weighed(draw: Draw, sign: int) -> str:
    first, second = draw.pick_two(ASPECTS)
    parts = [clause(draw, sign, "strong", first), clause(draw, -sign, "weak", second)]
    if draw.chance(0.5):
        parts.reverse()
    return draw.pick(("{} and {}", "{} ; {}")).format(*parts)


def _reported(draw: Draw, sign: int) -> str:
    who, film = draw.pick(OTHERS), draw.pick(("the film", "the movie", "this film", "this movie"))
    kind = draw.below(4)
    if kind == 0:
        return f"{who} say {clause(draw, sign)} , {draw.pick(AGREEMENT)}"
    if kind == 1:
        return f"{who} say {clause(draw, -sign)} , {draw.pick(DISAGREEMENT)}"
    mine, theirs = phrase(draw, sign), phrase(draw, -sign)
    if kind == 2:
        return f"{who} found {film} {theirs} , but i found it {mine}"
    return f"i found {film} {mine} , but {who} found it {theirs}"


def _expected(draw: Draw, sign: int) -> str:
    whole, got, hoped = draw.pick(WHOLES), adjective(draw, sign), adjective(draw, -sign)
    return draw.pick(
        (
            "i expected {hoped} {whole} and got {got} one",
            "i got {got} {whole} where i had expected {hoped} one",
            "they promised {hoped} {whole} , and this is {got} one",
        )
    ).format(whole=whole, got=_with_article(got), hoped=_with_article(hoped))


def _compared(draw: Draw, sign: int) -> str:
    subject, plural = draw.pick(ASPECTS)
    said = draw.pick(
        ("more {yes} than {no}", "less {no} than {yes}", "not so much {no} as {yes}", "not {no} but {yes}")
    )
    return f"{subject} {_be(plural)} {said.format(yes=adjective(draw, sign), no=adjective(draw, -sign))}"


_CONSTRUCTIONS: tuple[tuple[Callable[[Draw, int], str], int], ...] = (
    (_single, 8), (_agreeing, 5), (_contrast, 5), (_weighed, 2), (_reported, 3), (_expected, 2), (_compared, 2),
)  # fmt: skip


def review(draw: Draw) -> tuple[tuple[str, ...], int]:
    """One review sentence and its label.

    Returns:
        The texts (one) and the label: 0 negative, 1 positive, as in GLUE.
    """
    label = draw.below(2)
    sentence = draw.weighted(_CONSTRUCTIONS)(draw, 1 if label else -1)
    return (f"{sentence} .",), label
