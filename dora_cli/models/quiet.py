"""Loading without chatter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silences loading reports, warnings and weight-loading bars of transformers; everything is as before afterwards.

    Bars of downloads stay: they take minutes, and they hide themselves when output is not a terminal.
    """
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled
    from transformers.utils import logging

    verbosity, hub_verbosity = logging.get_verbosity(), hub_logging.get_verbosity()
    bars, hub_bars = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    _set_verbosity(ERROR, ERROR)
    # Transformers switches the hub's bars together with its own.
    logging.disable_progress_bar()
    _set_hub_bars(hub_bars)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _set_verbosity(verbosity, hub_verbosity)
        if bars:
            logging.enable_progress_bar()
        _set_hub_bars(hub_bars)


def _set_verbosity(of_transformers: int, of_hub: int) -> None:
    """Only where it changes: every logger of the program forgets what it knew of its level then."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    for library, level in ((logging, of_transformers), (hub_logging, of_hub)):
        if library.get_verbosity() != level:
            library.set_verbosity(level)


def _set_hub_bars(on: bool) -> None:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if on == are_progress_bars_disabled():
        (enable_progress_bars if on else disable_progress_bars)()
