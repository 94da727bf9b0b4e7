"""The generated data: fixed for ever, well formed, and not to be solved by counting words."""

from __future__ import annotations

import pytest

from dora_cli.data.builtin import builtin_tasks, films, generate
from dora_cli.data.builtin.draw import Draw
from dora_cli.errors import DataError
from dora_cli.tasks import get_task

# SHA-256 of texts and labels (`Examples.fingerprint`), first 16 digits. A change here is a new data set: results on the
# old one are void.
FINGERPRINTS = {
    ("e2e", "train"): "86403428fc74aea4",
    ("e2e", "validation"): "84645fd25aada8eb",
    ("e2e", "test"): "bf6c7fde57375677",
    ("glue/cola", "train"): "fdf6f9f459d3cf8a",
    ("glue/cola", "validation"): "729e7e15927ee065",
    ("glue/cola", "test"): "872b9f5ff6234c0c",
    ("glue/mnli", "train"): "eb3773ab24afeaa9",
    ("glue/mnli", "validation_matched"): "c2e4b65a15beee59",
    ("glue/mnli", "test_matched"): "90106a413d1805fa",
    ("glue/mnli", "validation_mismatched"): "99bce9b0b0e0db47",
    ("glue/mnli", "test_mismatched"): "eb684b5bf062fd1a",
    ("glue/mrpc", "train"): "1c48decb9b198fcb",
    ("glue/mrpc", "validation"): "1970040aa5c6e61e",
    ("glue/mrpc", "test"): "6303bdf43682447b",
    ("glue/qnli", "train"): "14a2791d693c1382",
    ("glue/qnli", "validation"): "d95fed8923b84d4e",
    ("glue/qnli", "test"): "ddf69f18406cf951",
    ("glue/qqp", "train"): "0eb45b1431dfdbf2",
    ("glue/qqp", "validation"): "00a4db1f076c2373",
    ("glue/qqp", "test"): "e22841042e4e1031",
    ("glue/rte", "train"): "539695acce918c12",
    ("glue/rte", "validation"): "8ebe47df4e27be19",
    ("glue/rte", "test"): "0bf1a5e9e4de643f",
    ("glue/sst2", "train"): "85455bc3ca3467b6",
    ("glue/sst2", "validation"): "b3026556a7162646",
    ("glue/sst2", "test"): "31915bb6a238b2ca",
    ("glue/stsb", "train"): "dfa9175fd21f2cd2",
    ("glue/stsb", "validation"): "44f754de84a78337",
    ("glue/stsb", "test"): "0725b1ab794930b1",
    ("glue/wnli", "train"): "ab21931b66f60314",
    ("glue/wnli", "validation"): "879f95f30f6e540c",
    ("glue/wnli", "test"): "fdcf0ac959b17fd6",
}

SPLITS = [(name, split) for name in builtin_tasks() for split in get_task(name).splits]


@pytest.mark.parametrize(("name", "split"), [(name, split) for name, split in SPLITS if name.startswith("glue/")])
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
    "the script is charming .": 1,
    "the cast is lifeless .": 0,
    "the script is not fresh .": 0,
    "the camera work is not very horrible .": 1,
    "the effects are by no means cold .": 1,
    "i doubt that the director 's work is poor .": 1,
    "i do not doubt that the story is awful .": 0,
    "it is hard to deny that the movie is beautiful .": 1,
    "no one would deny that the scenes are dull .": 0,
    "the story is anything but cheap and the acting is never less than perfect .": 1,
    "the camera work is hardly superb and the movie is far from delightful .": 0,
    "the ending is nothing short of poor and the movie is hardly charming .": 0,
    "this movie is impressive , yet the acting is tedious .": 0,
    "even if the songs are not beautiful , the acting is nice .": 1,
    "although the script is quite cheap , the camera work is far from bad .": 1,
    "the movie is never less than lifeless , even if the dialogue is lovely .": 0,
    "it is hard to deny that the plot is cheap , even if the cast is clever .": 0,
    "although the story is not cheap , no one would claim that the scenes are brilliant .": 0,
    "this film is mildly perfect ; the dialogue is extremely dull .": 0,
    "the plot is slightly disappointing ; the scenes are extremely brilliant .": 1,
    "the effects are somewhat great and this film is truly useless .": 0,
    "some fans say the plot is quite lovely , and i can only agree .": 1,
    "my friends say the jokes are far from boring , and i can only agree .": 1,
    "critics say the film is far from cheap , and they are wrong .": 0,
    "critics say the jokes are great , and i disagree .": 0,
    "other viewers say this film is cheap , and i disagree .": 1,
    "i found the film superb , but some fans found it awful .": 1,
    "critics found the movie hardly poor , but i found it dreadful .": 0,
    "they promised a fresh comedy , and this is a stale one .": 0,
    "i expected a predictable thriller and got a fine one .": 1,
    "this film is not so much tedious as splendid .": 1,
    "the film is less impressive than slow .": 0,
    "the scenes are more terrible than warm .": 0,
    "the music is not fine but mediocre .": 0,
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
    with pytest.raises(
        DataError,
        match=r"glue/mnli has no split 'validation'.*validation_matched.*validation_mismatched",
    ):
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
    assert set(pairs) == {(a, b) for a in "abc" for b in "abc" if a != b}
