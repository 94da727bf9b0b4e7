"""Small events in words, for the tasks about grammar, pairs of sentences and similarity.

An event is who did what to what, where. Each task changes one thing about it and knows what the change does to the
label. The sets are for smoke runs of every task without a network: they have the columns, the label values and the kind
of reasoning of the real task, not its difficulty, so a metric on them says nothing about GLUE.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dora_cli.data.builtin.draw import Draw

Row = tuple[tuple[str, ...], int | float]


@dataclass(frozen=True)
class Lexicon:
    """The words events are told with. ``verbs`` are (past, base form) pairs; colours and sizes describe the thing."""

    people: tuple[str, ...]
    verbs: tuple[tuple[str, str], ...]
    colours: tuple[str, ...]
    things: tuple[str, ...]
    places: tuple[str, ...]


TOWN = Lexicon(
    people=(
        "the teacher",
        "the farmer",
        "the doctor",
        "the driver",
        "the painter",
        "the baker",
        "my sister",
        "my friend",
    ),
    verbs=(
        ("sold", "sell"),
        ("cleaned", "clean"),
        ("carried", "carry"),
        ("found", "find"),
        ("lost", "lose"),
        ("fixed", "fix"),
        ("bought", "buy"),
        ("hid", "hide"),
    ),
    colours=("red", "green", "blue", "black", "white", "yellow"),
    things=("chair", "lamp", "bag", "coat", "table", "clock", "bike", "box"),
    places=(
        "in the market",
        "at the station",
        "in the garden",
        "near the river",
        "in the kitchen",
        "behind the school",
    ),
)
# The other genre of MNLI's mismatched split: no word in common but the function words.
SEA = Lexicon(
    people=("the sailor", "the captain", "the cook", "the diver", "the fisher", "the pilot"),
    verbs=(("painted", "paint"), ("dropped", "drop"), ("mended", "mend"), ("packed", "pack"), ("stole", "steal")),
    colours=("grey", "brown", "orange", "golden", "silver"),
    things=("rope", "net", "anchor", "sail", "flag", "barrel"),
    places=("on the ship", "in the harbour", "near the lighthouse", "under the bridge", "on the island"),
)


@dataclass(frozen=True)
class Event:
    """Who did what to which thing, where."""

    who: str
    verb: tuple[str, str]
    colour: str
    thing: str
    place: str

    def active(self) -> str:
        return f"{self.who} {self.verb[0]} the {self.colour} {self.thing} {self.place}"

    def denied(self) -> str:
        return f"{self.who} did not {self.verb[1]} the {self.colour} {self.thing} {self.place}"

    def fronted(self) -> str:
        return f"{self.place} , {self.who} {self.verb[0]} the {self.colour} {self.thing}"

    def cleft(self) -> str:
        return f"it was {self.who} who {self.verb[0]} the {self.colour} {self.thing} {self.place}"

    def without_place(self) -> str:
        return f"{self.who} {self.verb[0]} the {self.colour} {self.thing}"

    def without_colour(self) -> str:
        return f"{self.who} {self.verb[0]} the {self.thing} {self.place}"


PARTS = ("who", "verb", "colour", "thing", "place")


def _event(draw: Draw, words: Lexicon = TOWN) -> Event:
    return Event(
        draw.pick(words.people),
        draw.pick(words.verbs),
        draw.pick(words.colours),
        draw.pick(words.things),
        draw.pick(words.places),
    )


def _changed(draw: Draw, event: Event, part: str, words: Lexicon = TOWN) -> Event:
    """The event with another value in one part."""
    pools: dict[str, tuple[Any, ...]] = {
        "who": words.people,
        "verb": words.verbs,
        "colour": words.colours,
        "thing": words.things,
        "place": words.places,
    }
    old = getattr(event, part)
    return replace(event, **{part: draw.pick([value for value in pools[part] if value != old])})


def _reworded(draw: Draw, event: Event) -> str:
    return draw.pick((event.fronted(), event.cleft()))


def entailment(draw: Draw, words: Lexicon = TOWN) -> tuple[str, str, int]:
    """A premise, a hypothesis and 0 (entailed), 1 (may or may not be so) or 2 (contradicted)."""
    event, label = _event(draw, words), draw.below(3)
    if label == 0:
        return event.active(), draw.pick((event.without_place(), event.without_colour(), event.cleft())), 0
    if label == 1:
        # The premise leaves out what the hypothesis asserts.
        return draw.pick((event.without_place(), event.without_colour())), event.active(), 1
    wrong = replace(event, who=_changed(draw, event, "who", words).who)
    return (
        event.active(),
        draw.pick(
            (event.denied(), wrong.cleft(), f"no one {event.verb[0]} the {event.colour} {event.thing} {event.place}")
        ),
        2,
    )


def mnli(draw: Draw) -> Row:
    """MNLI, matched: entailment, neutral or contradiction."""
    premise, hypothesis, label = entailment(draw)
    return (f"{premise} .", f"{hypothesis} ."), label


def mnli_mismatched(draw: Draw) -> Row:
    """MNLI, mismatched: the same relations told with other words."""
    premise, hypothesis, label = entailment(draw, SEA)
    return (f"{premise} .", f"{hypothesis} ."), label


def rte(draw: Draw) -> Row:
    """RTE: 0 entailed, 1 not; both equally likely."""
    wanted = draw.below(2)
    while True:
        premise, hypothesis, relation = entailment(draw)
        if (relation > 0) == bool(wanted):
            return (f"{premise} .", f"{hypothesis} ."), wanted


def mrpc(draw: Draw) -> Row:
    """MRPC: 1 a paraphrase, 0 a sentence about something else in one part."""
    event, label = _event(draw), draw.below(2)
    other = event if label else _changed(draw, event, draw.pick(PARTS))
    return (f"{event.active()} .", f"{_reworded(draw, other)} ."), label


def _question(draw: Draw, event: Event) -> str:
    kind = draw.below(3)
    if kind == 0:
        return f"who {event.verb[0]} the {event.colour} {event.thing} ?"
    if kind == 1:
        return f"where did {event.who} {event.verb[1]} the {event.colour} {event.thing} ?"
    return f"what did {event.who} {event.verb[1]} {event.place} ?"


def qqp(draw: Draw) -> Row:
    """QQP: 1 two wordings of one question, 0 questions about another person, thing or action."""
    event, label = _event(draw), draw.below(2)
    other = event if label else _changed(draw, event, draw.pick(("verb", "thing", "who")))
    asked = f"where did {event.who} {event.verb[1]} the {event.colour} {event.thing} ?"
    return (asked, f"in which place was the {other.colour} {other.thing} when {other.who} {other.verb[0]} it ?"), label


def qnli(draw: Draw) -> Row:
    """QNLI: 0 the sentence answers the question, 1 it tells of another action."""
    event, label = _event(draw), draw.below(2)
    told = _changed(draw, event, "verb") if label else event
    return (_question(draw, event), f"{told.active()} ."), label


def wnli(draw: Draw) -> Row:
    """WNLI: whom or what a pronoun means; 1 the second sentence resolves it rightly, 0 wrongly."""
    label = draw.below(2)
    big, small = draw.pick_two(TOWN.things)
    colour = draw.pick(TOWN.colours)
    # "does not fit because it is too big" speaks of what goes in, "too small" of what it goes into.
    size = draw.pick(("big", "small"))
    right, wrong = (big, small) if size == "big" else (small, big)
    return (
        f"the {colour} {big} does not fit into the {small} because it is too {size} .",
        f"the {right if label else wrong} is too {size} .",
    ), label


def cola(draw: Draw) -> Row:
    """CoLA: 1 acceptable, 0 with one fault of agreement, verb form or word order."""
    event, label = _event(draw), draw.below(2)
    good = draw.pick((event.active(), event.denied(), event.cleft(), event.fronted(), _question(draw, event)))
    if label:
        return (good if good.endswith("?") else f"{good} .",), 1
    past, base = event.verb
    what = f"the {event.colour} {event.thing}"
    bad = draw.pick(
        (
            f"{event.who} did not {past} {what} {event.place}",
            f"{event.who} {what} {past} {event.place}",
            f"{event.who} {past} {event.colour} the {event.thing} {event.place}",
            f"it were {event.who} who {past} {what} {event.place}",
            f"it was {event.who} who {base} not {what} did {event.place}",
            f"where did {event.who} {past} {what} ?",
        )
    )
    return (bad if bad.endswith("?") else f"{bad} .",), 0


def stsb(draw: Draw) -> Row:
    """STS-B: from 5.0 (the same event) one point less for each of the five parts that differs, down to 0.0."""
    event, score = _event(draw), draw.below(6)
    other, left = event, list(PARTS)
    for _ in range(5 - score):
        other = _changed(draw, other, left.pop(draw.below(len(left))))
    return (f"{event.active()} .", f"{draw.pick((other.active(), other.fronted(), other.cleft()))} ."), float(score)
