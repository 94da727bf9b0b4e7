"""The generated data: fixed for ever, well formed, and not to be solved by counting words."""

from __future__ import annotations

import pytest

from dora_cli.data.builtin import builtin_tasks, films, generate
from dora_cli.data.builtin.draw import Draw
from dora_cli.errors import DataError
from dora_cli.tasks import get_task, task_names

# SHA-256 of texts and labels (`Examples.fingerprint`), first 16 digits. A change here is a new data set: every recorded result on it is void.
FINGERPRINTS = {
}

SPLITS = [(name, split) for name in task_names() if name.startswith("glue/") for split in get_task(name).splits]


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_every_split_of_every_task_fits_its_task(name: str, split: str) -> None:
    task, examples = get_task(name), generate(name, split)
    assert len(examples.texts) == len(task.text_columns)
    assert len(examples) >= 100
    assert all(text and text == text.lower() and text[-1] in ".?" for column in examples.texts for text in column)
    if task.label_names is None:
        assert all(isinstance(label, float) and 0.0 <= label <= 5.0 for label in examples.labels)
        assert len(set(examples.labels)) == 6
    else:
        shares = [examples.labels.count(label) / len(examples) for label in range(task.num_labels)]
        # Balanced: a split of n >= 100 fair draws leaves these bounds with odds below 1 in 1000.
        assert sum(shares) == pytest.approx(1.0)
        assert all(0.8 / task.num_labels - 0.1 < share < 1.2 / task.num_labels + 0.1 for share in shares)


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_the_data_never_change(name: str, split: str) -> None:
    assert generate(name, split).fingerprint()[:16] == FINGERPRINTS[name, split]


@pytest.mark.parametrize("name", builtin_tasks())
def test_no_example_occurs_twice_within_or_across_splits(name: str) -> None:
    rows = [row for split in get_task(name).splits for row in zip(*generate(name, split).texts, strict=True)]
    assert len(rows) == len(set(rows))


def test_the_demonstration_set_has_the_promised_size() -> None:
    assert [len(generate("glue/sst2", split)) for split in ("train", "validation", "test")] == [4000, 800, 800]


# Labelled by reading them, one or more for every construction and every way of turning an opinion round.
READ = {
}


def test_labels_agree_with_a_reader() -> None:
    train = generate("glue/sst2", "train")
    labels = dict(zip(train.texts[0], train.labels, strict=True))
    assert {text: labels[text] for text in READ} == READ


def test_counting_words_does_not_solve_the_demonstration() -> None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    train, validation = generate("glue/sst2", "train"), generate("glue/sst2", "validation")
    count = CountVectorizer(token_pattern=r"\S+", binary=True)
    classifier = LogisticRegression(max_iter=1000, C=0.3).fit(count.fit_transform(train.texts[0]), train.labels)
    accuracy = classifier.score(count.transform(validation.texts[0]), validation.labels)
    assert accuracy < 0.75  # DoRA's bound in the demonstration is 0.9


def test_both_labels_use_the_same_words() -> None:
    # Every adjective stands in positive and in negative sentences: no word gives the label away.
    train = generate("glue/sst2", "train")
    for adjective in films.GOOD + films.BAD:
        seen = {label for text, label in zip(train.texts[0], train.labels, strict=True) if adjective in text.split()}
        assert seen == {0, 1}, adjective


def test_a_task_without_data_is_named_with_those_that_have_some() -> None:
    with pytest.raises(DataError, match=r"'glue/sst-2'.*Did you mean glue/sst2\?.*glue/cola, glue/mnli") as error:
        generate("glue/sst-2", "train")
    assert all(name in str(error.value) for name in builtin_tasks())


def test_a_split_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(DataError, match=r"glue/mnli has no split 'validation'.*validation_matched.*validation_mismatched"):
        generate("glue/mnli", "validation")


def test_draws_follow_the_generator_that_python_promises_to_keep() -> None:
    # random.Random(1).random() starts 0.134..., 0.847..., 0.763..., 0.255..., 0.495... on every Python.
    draw = Draw(1)
    assert draw.below(10) == 1
    assert draw.pick("abcdefghij") == "i"
    assert draw.chance(0.75) is False
    assert draw.weighted((("x", 1), ("y", 3))) == "y"  # 0.255 * 4 = 1.02: past x
    assert draw.below(2) == 0


def test_a_pair_of_draws_is_never_the_same_place_twice() -> None:
    draw = Draw(3)
    pairs = [draw.pick_two("abc") for _ in range(300)]
    assert {pair for pair in pairs} == {(a, b) for a in "abc" for b in "abc" if a != b}
