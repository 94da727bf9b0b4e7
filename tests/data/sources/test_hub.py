"""Data sets of the hub: out of reach, and copies that are others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import datasets
import pytest

from dora_cli.data import load_examples
from dora_cli.data.sources.fields import HubSource
from dora_cli.errors import DataError
from dora_cli.tasks import get_task
from tests.data.sources.test_load import TEXT, local_hub


@pytest.mark.usefixtures("no_network")
def test_the_hub_out_of_reach_says_what_to_set() -> None:
    with pytest.raises(DataError) as caught:
        load_examples(get_task("glue/rte").fields, "hub", "train")
    message = str(caught.value)
    assert message.startswith("data.source hub: nyu-mll/glue (rte), split train, could not be loaded: ")
    assert "set data.source: glue-tsv and data.path" in message
    assert "train.tsv, dev.tsv, test.tsv" in message
    assert "HF_HOME" in message
    with pytest.raises(DataError) as caught:
        load_examples(get_task("e2e").fields, "hub", "test")
    message = str(caught.value)
    assert message.startswith("data.source hub: tuetschek/e2e_nlg (default), split test, ")
    assert "set data.source: e2e-csv and data.path" in message
    assert "trainset.csv, devset.csv, testset_w_refs.csv" in message
    with pytest.raises(DataError) as caught:
        load_examples(replace(get_task("glue/rte").fields, release=None, sources=("hub",)), "hub", "train")
    message = str(caught.value)
    assert "Without a network, load the data set once" in message
    assert "official" not in message


@pytest.mark.usefixtures("no_network")
def test_a_hub_copy_with_another_label_order_is_refused(tmp_path: Path) -> None:
    task = replace(get_task("glue/sst2"), hub=HubSource(str(tmp_path / "hub"), "default"))
    local_hub(
        tmp_path / "hub",
        {"sentence": ["a"], "label": [0]},
        {"sentence": TEXT, "label": datasets.ClassLabel(names=["positive", "negative"])},
    )
    with pytest.raises(
        DataError,
        match=r": its labels are 'positive', 'negative', but glue/sst2 has 'negative', 'positive', in this order$",
    ):
        load_examples(task.fields, "hub", "train")
