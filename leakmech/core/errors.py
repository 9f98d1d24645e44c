"""One exception tree for everything that a user or a machine can get wrong.

The command line prints the message of a :class:`LeakmechError` as one line on stderr and exits with its
``exit_code``; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LeakmechWarning(UserWarning):
    """Something that a user should know and that stops nothing; the command line prints it as one line."""


_LONGEST_MESSAGE = 1_000


class LeakmechError(Exception):
    """Base of all expected errors: the run is incomplete or failed (exit code 1)."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        message = " ".join(message.splitlines())  # names and values come from files, and may be anything
        half = _LONGEST_MESSAGE // 2
        super().__init__(message if len(message) <= 2 * half else f"{message[:half]} … {message[-half:]}")


class UsageError(LeakmechError):
    """The request itself cannot be carried out (exit code 2)."""

    exit_code = 2


class DatasetError(UsageError):
    """A data set file is missing, empty or malformed; the message names file, line and field."""


class ModelError(UsageError):
    """A model or tokenizer cannot be loaded, or is not what the task needs."""


class EstimatorError(UsageError):
    """An expression estimator or sentence encoder cannot be loaded or has other labels than expected."""


class ConfigError(UsageError):
    """A configuration has an unknown key or a value out of range."""


class ActivationError(UsageError):
    """Activations do not fit into memory, or a folder of them is unfinished, damaged or in use."""


class DirectionError(UsageError):
    """A direction cannot be fitted on what was given, or a saved one is damaged or belongs to another model."""


class InterventionError(UsageError):
    """An intervention does not fit the model or another one, cannot act where it should, or a saved one is damaged."""


class FigureError(UsageError):
    """A table or image is not what a figure or a page is drawn from: empty, a column missing, a value not a number."""


class RunDirectoryError(UsageError):
    """A run directory holds another run, is incomplete, or is not a run at all."""


class GenerationError(LeakmechError):
    """The model produced something that cannot be sampled from (NaN or infinite logits)."""


class TrainingError(LeakmechError):
    """Training cannot go on (a loss that is not a number), or changed what it must leave alone."""


class StorageError(LeakmechError):
    """A file could not be written (full disk, no permission)."""


class InterruptedRunError(LeakmechError):
    """Ctrl-C or SIGTERM ended a run; what was finished is on disk, and the message says how to go on."""

    exit_code = 1

    def __init__(self, message: str, *, run: str = "") -> None:
        super().__init__(message)
        self.run = run
        """What was interrupted, as the message names it."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the valid name closest to `name`, or the list of valid names."""
    valid = sorted(valid)
    match = difflib.get_close_matches(name[:100], valid, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else f"; valid: {', '.join(valid)}"
