"""What a finished training left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.store import read_json
from leakmech.models.reading import ADAPTER_CARD
from leakmech.reports.tables import Table
from leakmech.runs.result import Drawing, Result
from leakmech.training.trainer import read_log


@dataclass(frozen=True, repr=False)
class LoraResult(Result):
    """A trained adapter.

    Attributes
    ----------
    path
        Its folder: give it to ``load_model``, ``load_adapter`` or ``--adapter``.
    summary
        The main numbers.
    """

    kind = "train"

    @cached_property
    def card(self) -> dict[str, Any]:
        """What ``adapter_card.json`` holds: base model, data, settings and results."""
        return read_json(self.path / ADAPTER_CARD)

    def to_frame(self) -> pd.DataFrame:
        """One row for each step: loss, every objective's mean, learning rate, length of the gradient."""
        return read_log(self.path)

    def tables(self) -> list[Table]:
        """The main numbers of the card."""
        from leakmech.studies.lora.report import adapter_table

        return [adapter_table(self.card)]

    def figures(self) -> Mapping[str, Drawing]:
        """``loss``: the loss and every objective by step."""
        from leakmech.reports.figures.losses import loss_figure

        return {"loss": partial(loss_figure, self.to_frame())}

    def report(self) -> Path:
        """Write ``report.html`` and return its path."""
        from leakmech.studies.lora.report import write_report

        return write_report(self.path)
