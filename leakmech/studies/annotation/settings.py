"""Settings of `annotate export`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from leakmech.runs.settings import Settings


class ExportConfig(Settings):
    """Which pairs people judge."""

    command: ClassVar[str] = "annotate export"
    kind: ClassVar[str] = "annotation"
    title: ClassVar[str] = "Pairs"

    annotators: int = Field(3, ge=1, description="how many people judge all pairs")
    n: int = Field(100, ge=1, description="number of control/test pairs")
    seed: int = Field(0, description="which pairs are chosen, and all orders")
