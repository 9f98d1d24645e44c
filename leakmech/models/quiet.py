"""Loading without chatter: progress bars and reports of transformers, off for the time of a block."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and warnings; afterwards both are as they were.

    The hub's own bars stay, so that a download of gigabytes is seen to move. What transformers only warns of and what
    would falsify a result (weights that are missing and drawn at random) is checked by the callers.
    """
    verbosity, bars, hub_bars = logging.get_verbosity(), logging.is_progress_bar_enabled(), _hub_bars()
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        # An environment variable that fixes the hub's bars makes both calls warn that they do nothing to them.
        warnings.filterwarnings("ignore", message="Cannot (dis|en)able progress bars")
        logging.disable_progress_bar()
        if hub_bars:
            enable_progress_bars()
        try:
            yield
        finally:
            if bars:
                logging.enable_progress_bar()
            logging.set_verbosity(verbosity)


def _hub_bars() -> bool:
    return not are_progress_bars_disabled()
