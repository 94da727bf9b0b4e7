"""How many runs fit where."""

from __future__ import annotations

import pytest
import torch

from dora_cli.compare.workers import places
from dora_cli.compare.workers.places import MOST, Place, find_places
from dora_cli.compare.workers.worker import Used
from dora_cli.errors import DeviceError


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine of two CUDA devices and 16 cores."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(places, "most_threads", lambda: 16)
    return monkeypatch


def test_a_worker_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "most_threads", lambda: 6)
    assert find_places("cpu", None) == [Place(None, 6, 6)]
    assert find_places("cpu", 3) == [Place(None, 3, 3)]


def test_devices_begin_with_one_and_may_come_to_take_half_their_cores(cuda: pytest.MonkeyPatch) -> None:
    assert find_places("cuda", None, {}) == [Place("0", 1, 4), Place("1", 1, 4)]
    cuda.setattr(places, "most_threads", lambda: 256)
    assert [place.most for place in find_places("auto", None, {})] == [MOST, MOST]
    cuda.setattr(places, "most_threads", lambda: 1)
    assert [place.most for place in find_places("auto", None, {})] == [1, 1]


def test_jobs_are_spread_evenly(cuda: pytest.MonkeyPatch) -> None:
    assert [place.limit for place in find_places("cuda", 5, {})] == [3, 2]
    assert find_places("cuda", 1, {}) == [Place("0", 1, 1)]


def test_devices_are_those_that_this_process_may_use(cuda: pytest.MonkeyPatch) -> None:
    assert [place.visible for place in find_places("cuda", 2, {"CUDA_VISIBLE_DEVICES": "5, GPU-8932f937"})] == [
        "5",
        "GPU-8932f937",
    ]
    assert [place.visible for place in find_places("cuda:1", 2, {"CUDA_VISIBLE_DEVICES": "5,7"})] == [None]


def test_a_device_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(DeviceError):
        find_places("cuda", None)


def test_as_many_as_fit_once_a_run_has_shown_what_it_takes() -> None:
    place = Place("0", 1, 8)
    place.measured(Used(taken=10, free=50))
    assert (place.limit, place.most) == (1 + 4, 5)  # 0.9 * 50 / 10 more
    place.measured(Used(taken=1, free=1000))
    assert place.limit == 5  # asked once
    wide = Place("0", 1, 8)
    wide.measured(Used(taken=10, free=1000))
    assert wide.limit == 8
    narrow = Place("0", 1, 8)
    narrow.measured(Used(taken=10, free=9))
    assert narrow.limit == 1


def test_one_fewer_than_were_running() -> None:
    place = Place("0", 8, 8)
    place.shrink(5)
    assert (place.limit, place.most) == (4, 4)
    place.shrink(5)  # of those that had begun before
    assert place.limit == 3
    Place("0", 1, 1).shrink(1)
