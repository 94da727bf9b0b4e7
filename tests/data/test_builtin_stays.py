"""Places to stay: official in form, every reference faithful to its meaning representation, wordings
and orders varied.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest

from dora_cli.data.builtin import generate, stays
from dora_cli.data.builtin.draw import Draw

SPLITS = {"train": 480, "validation": 60, "test": 80}

# Written by hand, apart from the generator's tables: what a reader takes each wording to say.
READ: dict[str, dict[str, str]] = {
    "priceRange": {
        r"\bcheap\b|\blow-priced\b|\blow prices\b": "low",
        r"\bmid-priced\b|\bmoderate(ly priced| prices)\b": "moderate",
        r"\bexpensive\b|\bhigh-priced\b|\bhigh prices\b": "high",
    },
    "area": {
        r"\bby the harbour\b|\bin the harbour area\b": "harbour",
        r"\bin the old (town|part of town)\b": "old town",
        r"\bin the hills\b": "hills",
        r"\bby the lake\b|\bon the lakeside\b": "lakeside",
    },
    "view": {
        r"\bof the sea\b|\bsea views\b|\bout on the sea\b": "sea",
        r"\bof the garden\b|\bgarden views\b|\bout on the garden\b": "garden",
        r"\bof the mountains\b|\bmountain views\b|\bout on the mountains\b": "mountains",
    },
    "breakfast": {
        r"\bincludes breakfast\b|\bbreakfast for free\b": "included",
        r"\bextra for breakfast\b|\bbreakfast at an extra cost\b": "extra",
        r"\bnot serve breakfast\b|\bno breakfast\b": "none",
    },
    "petFriendly": {
        r"\bpet-friendly\b|\bwelcomes pets\b|\ballows pets\b": "yes",
        r"\bnot allow pets\b|\bnot open to pets\b": "no",
    },
}


def parse(meaning: str) -> dict[str, str]:
    """The attributes of a meaning representation, read as the official ones are."""
    assert re.fullmatch(r"\w+\[[^][]+\](, \w+\[[^][]+\])*", meaning)
    return dict(re.findall(r"(\w+)\[([^][]+)\]", meaning))


def said(text: str, name: str) -> dict[str, str]:
    """What a text says of a place with this name: every attribute once, or the reading fails."""
    plain = text.replace(name, "NAME")
    facts = {"name": name} if "NAME" in plain else {}
    readings = [
        (key, value)
        for key, patterns in READ.items()
        for pattern, value in patterns.items()
        for _ in re.finditer(pattern, plain, re.I)
    ]
    readings += [("rating", found) for found in re.findall(r"\d out of 5", plain)]
    readings += [("near", found) for found in re.findall(r"(?:[Nn]ear|[Cc]lose to) ([A-Z]\w+ [A-Z]\w+)", plain)]
    kinds = set(re.findall(r"guest house|inn\b|hostel|cottage|farmhouse|hotel", plain))
    readings += [("stayType", kind) for kind in kinds]
    for key, value in readings:
        assert key not in facts, f"{key} is said twice: {text}"
        facts[key] = value
    return facts


def pairs(split: str) -> list[tuple[str, str]]:
    return list(zip(*generate("e2e", split).texts, strict=True))


@pytest.mark.parametrize("split", SPLITS)
def test_every_reference_says_all_of_its_meaning_representation_and_nothing_else(split: str) -> None:
    for meaning, text in pairs(split):
        attributes = parse(meaning)
        assert said(text, attributes["name"]) == attributes, text


def test_the_reader_of_the_test_above_notices_what_is_wrong() -> None:
    right = "Blue Fox is a cheap inn near Mill Park. It does not allow pets."
    assert said(right, "Blue Fox") == {
        "name": "Blue Fox",
        "priceRange": "low",
        "stayType": "inn",
        "near": "Mill Park",
        "petFriendly": "no",
    }
    assert said(right.replace("does not allow", "welcomes"), "Blue Fox")["petFriendly"] == "yes"
    assert "name" not in said(right, "Red Fox")
    with pytest.raises(AssertionError, match="priceRange is said twice"):
        said(right + " It has high prices.", "Blue Fox")


@pytest.mark.parametrize(("split", "size"), SPLITS.items())
def test_sizes_of_splits_and_groups(split: str, size: int) -> None:
    examples = generate("e2e", split)
    assert examples.labels is None
    groups = Counter(examples.texts[0])
    assert len(groups) == size
    # Official rows of one meaning representation follow each other, and so do these.
    assert [meaning for meaning, _ in _runs(examples.texts[0])] == list(groups)
    assert set(groups.values()) <= {2, 3, 4, 5, 6, 7}
    assert 4.5 < len(examples) / size < 5.5
    assert {len(parse(meaning)) for meaning in groups} == {3, 4, 5, 6, 7, 8}


def _runs(texts: list[str]) -> list[tuple[str, int]]:
    starts = [i for i in range(len(texts)) if i == 0 or texts[i] != texts[i - 1]]
    return [(texts[i], i) for i in starts]


def test_no_meaning_representation_is_in_two_splits_even_in_another_order() -> None:
    seen: list[frozenset[tuple[str, str]]] = []
    for split in SPLITS:
        seen += {frozenset(parse(meaning).items()) for meaning in generate("e2e", split).texts[0]}
    assert len(seen) == len(set(seen)) == sum(SPLITS.values())


def test_references_of_one_meaning_representation_differ_in_order_too() -> None:
    """Most have two references that name the same attributes in different orders, not just in other words."""
    orders: dict[str, set[tuple[str, ...]]] = {}
    for meaning, text in pairs("test"):
        name = parse(meaning)["name"]
        orders.setdefault(meaning, set()).add(_order(text.replace(name, "NAME")))
    assert sum(len(each) > 1 for each in orders.values()) > 0.8 * len(orders)


def _order(text: str) -> tuple[str, ...]:
    places = {
        key: found.start()
        for key, patterns in READ.items()
        for pattern in patterns
        if (found := re.search(pattern, text, re.I))
    }
    return tuple(sorted(places, key=places.__getitem__)) + (("name first",) if text.startswith("NAME") else ())


def test_texts_are_written_like_texts() -> None:
    for split in SPLITS:
        for text in generate("e2e", split).texts[1]:
            assert re.fullmatch(r"([A-Z][^.]*\.)( [A-Z][^.]*\.)*", text), text
            assert "  " not in text
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text


def test_every_value_occurs_in_training() -> None:
    seen = {pair for meaning in set(generate("e2e", "train").texts[0]) for pair in parse(meaning).items()}
    assert {(key, value) for key, values in stays.VALUES.items() for value in values} <= seen


def test_copying_is_needed() -> None:
    """Some test names were never seen in training, although all of their words were."""
    train = {parse(meaning)["name"] for meaning in generate("e2e", "train").texts[0]}
    test = {parse(meaning)["name"] for meaning in generate("e2e", "test").texts[0]}
    assert len(test - train) > 10
    words = {word for name in train for word in name.split()}
    assert {word for name in test for word in name.split()} <= words


def test_a_place_with_little_to_say_ends_with_fewer_references() -> None:
    place = stays.Stay("Blue Fox", {"stayType": "inn", "petFriendly": "yes"})
    texts = {stays.reference(Draw(seed), place) for seed in range(200)}
    assert "Blue Fox is a pet-friendly inn." in texts
    assert all(
        said(text, "Blue Fox") == {"name": "Blue Fox", "stayType": "inn", "petFriendly": "yes"} for text in texts
    )
