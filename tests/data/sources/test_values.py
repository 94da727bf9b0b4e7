"""Values of a file: which are numbers, which are classes, and how a message shows them."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest

from dora_cli.data.sources.values import check_texts, describe, label_ids, parse_labels, unlabelled
from dora_cli.errors import DataError
from dora_cli.tasks import get_task
from dora_cli.tasks.label import LabelTask

MISREAD = ["1_5", "２.５", "٣", "-7e3", "1e0", "0x2", "nan", "inf", "2,5", "2 5", "\u30002", "", ".", "-"]


def task(name: str) -> LabelTask:
    found = get_task(name)
    assert isinstance(found, LabelTask)
    return found


def numbers(*values: Any) -> list[Any]:
    return list(parse_labels(task("glue/stsb").fields, values, None, lambda i: f"row {i + 1}"))


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("0", 0.0),
        ("5", 5.0),
        ("2.5", 2.5),
        ("+2.5", 2.5),
        ("-0.0", 0.0),
        (".5", 0.5),
        ("4.", 4.0),
        ("004.20", 4.2),
        (" 3.75 ", 3.75),
    ],
)
def test_a_plain_decimal_number_is_read(written: str, number: float) -> None:
    assert numbers(written) == [number]


@pytest.mark.parametrize("value", [0, 5, 2.5, Decimal("2.5")])
def test_a_number_of_json_or_parquet_is_read(value: Any) -> None:
    assert numbers(value) == [float(value)]


@pytest.mark.parametrize("value", [True, False, None, math.nan, [2], *MISREAD])
def test_what_float_would_take_or_misread_is_no_number(value: Any) -> None:
    with pytest.raises(
        DataError,
        match=r"^row 2: label .* is no plain decimal number such as 2\.5, which glue/stsb "
        r"needs; fix",
    ):
        numbers("1", value)


@pytest.mark.parametrize("value", ["5.01", "-0.1", "-7000", "9" * 400, 6, -2.0, math.inf, -math.inf, 10**400])
def test_a_number_outside_the_range_of_the_task(value: Any) -> None:
    with pytest.raises(
        DataError,
        match=r"^row 1: label .* is outside 0 to 5, the range of glue/stsb; scale the "
        r"column",
    ):
        numbers(value)


@pytest.mark.parametrize("value", ["-1", "-1.0", " -1", -1, -1.0])
def test_the_mark_for_no_label_is_refused_by_name(value: Any) -> None:
    with pytest.raises(
        DataError,
        match=r"^row 1: label .* is how GLUE marks a row without a label; give the row its "
        r"number or remove it$",
    ):
        numbers(value)
    classes = task("glue/rte")
    with pytest.raises(DataError, match=r"^0: label .*'entailment'.*\(-1 "):
        parse_labels(classes.fields, [value], label_ids(classes.fields, None), str)


def test_minus_one_is_a_class_where_the_user_says_so() -> None:
    classes = task("glue/sst2")
    assert parse_labels(classes.fields, ["-1", 1], label_ids(classes.fields, ["-1", "1"]), str) == [0, 1]


def test_a_column_of_marks_alone_says_nothing() -> None:
    assert unlabelled([None, "", "-1", "-1.0", -1, -1.0])
    assert not unlabelled(["-1", "0"])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("False", "'False'"),
        (False, "'false' (a truth value)"),
        (7, "'7' (a number)"),
        (1.0, "'1.0' (a number)"),
        (None, "null"),
        ([1], "'[1]' (a list)"),
        ("a\x1b[2J", r"'a\x1b[2J'"),
        ("x" * 100, f"'{'x' * 57}...'"),
    ],
)
def test_values_are_shown_as_they_are_matched(value: Any, shown: str) -> None:
    assert describe(value) == shown


def test_a_number_has_no_names() -> None:
    says = r"^data\.labels: '0', '1' were given, but the label of glue/stsb is a number; remove data\.labels$"
    with pytest.raises(DataError, match=says):
        label_ids(task("glue/stsb").fields, ["0", "1"])


@pytest.mark.parametrize(
    ("value", "filled", "says"),
    [
        (None, False, "null; fill it in or remove the row"),
        (" ", True, "empty; fill it in or remove the row"),
        (1, False, r"'1' \(a number\), not text; write texts into it, or name a column of texts with data\.columns"),
    ],
)
def test_texts_that_are_none(value: Any, filled: bool, says: str) -> None:
    with pytest.raises(DataError, match=f"^row 2: column 'mr' is {says}$"):
        check_texts(["a", value], "mr", lambda row: f"row {row + 1}", filled=filled)


def test_a_truth_value_and_a_word_are_told_apart() -> None:
    classes = task("glue/sst2")
    with pytest.raises(DataError, match=r"label 'false' \(a truth value\) is not one of 'False', 'True'; fix"):
        parse_labels(classes.fields, [False], label_ids(classes.fields, ["False", "True"]), str)
