"""Interventions in force: what their hooks know of the batch that the model is reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from leakmech.core.errors import InterventionError
from leakmech.interventions.base import AttentionEdit, Edit, Intervention
from leakmech.interventions.positions import PromptSpans, RowPositions, inferred_positions, positions_at_call

Mask = bool | Bool[Tensor, "rows columns"]


class Applied:
    """Interventions in force, and what they know of the batch that the model is reading.

    While `reading` is true, probes are read ahead and nothing is changed.
    """

    def __init__(self, interventions: tuple[Intervention, ...], *, device: torch.device | str = "cpu") -> None:
        self.interventions = interventions
        self._device = device
        self._given: RowPositions | None = None
        self._counted = False
        """Whether what is given says which tokens the next call has, so that they need not be counted."""
        self._now: RowPositions | None = None
        """What is given, moved to the call that runs."""
        self._inferred: RowPositions | None = None
        self._calling = False
        self.reading = False
        self._masks: dict[tuple[str, int, torch.device], Mask] = {}

    @property
    def spans(self) -> frozenset[str]:
        """The parts of prompts that must be known: ``injection``, ``stem``, both or none."""
        return frozenset().union(*(intervention.spans for intervention in self.interventions))

    @property
    def needs_positions(self) -> bool:
        """Whether any intervention acts at some positions only."""
        return any(intervention.needs_positions for intervention in self.interventions)

    @contextmanager
    def positions(
        self, prompts: Sequence[PromptSpans] | RowPositions, *, n_generated: int | Sequence[int] = 0
    ) -> Iterator[RowPositions]:
        """While this is entered, calls of the model read these rows, and what they generate after them.

        Prompts are compared with every call: its attention mask or its cache says how many tokens it has beyond them.
        Positions that are known already are those of the first call, and later ones are compared with it.

        Parameters
        ----------
        prompts
            The prompt of each row of the batch, in order; or positions that are known already.
        n_generated
            Number of tokens after the prompt up to the last column of the first call, for all rows or of each row.

        Yields
        ------
        RowPositions
            Positions of the rows.

        Raises
        ------
        InterventionError
            There are no prompts, or not one count for each; or, while the model runs, a call has other rows.
        """
        if isinstance(prompts, RowPositions):
            rows = prompts
        else:
            rows = RowPositions.of(prompts, n_generated=n_generated, device=self._device)
        before, self._given, self._now = self._given, rows, None
        self._counted = isinstance(prompts, RowPositions)
        self._masks = {}
        try:
            yield rows
        finally:
            self._given, self._now, self._counted = before, None, False
            self._masks = {}

    # -- what the hooks ask ----------------------------------------------------------------------------------------

    def rows(self, x: Float[Tensor, "rows columns width"]) -> RowPositions:
        """Positions of the rows of `x`; an error where they are not known."""
        rows = self.known_rows
        if rows is None:
            raise InterventionError("positions are not known: call the whole model, not one of its modules")
        if len(rows) != x.shape[0]:
            raise InterventionError(f"positions are given for {len(rows)} rows, but the batch has {x.shape[0]}")
        return rows

    @property
    def known_rows(self) -> RowPositions | None:
        """Positions as given or as inferred, for the call that runs; None where neither is there."""
        if self._now is not None:
            return self._now
        return self._given if self._given is not None or not self._calling else self._inferred

    def mask(self, rows: RowPositions, position: str, n_columns: int, device: torch.device) -> Mask:
        """:meth:`RowPositions.mask` on a device, computed once for all layers of a call."""
        key = (position, n_columns, device)
        if key not in self._masks:
            mask = rows.mask(position, n_columns)
            self._masks[key] = mask.to(device) if isinstance(mask, Tensor) else mask
        return self._masks[key]

    def where(self, rows: RowPositions, edit: Edit | AttentionEdit, n_columns: int, device: torch.device) -> Mask:
        """Mask of the tokens at which an edit acts, in the rows in which its condition holds."""
        mask = self.mask(rows, edit.positions, n_columns, device)
        condition = edit.condition
        if condition is None or mask is False:
            return mask
        decision = rows.decisions.get(condition.name)
        if decision is None:
            raise InterventionError(
                "condition: the probe has not seen these prompts; run the prompt first, with the same positions"
            )
        decision = decision.to(device)
        holds = decision[:, None]
        return holds.expand(-1, n_columns) if mask is True else mask & holds

    def see_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Find the positions of the rows from what is given and the arguments of a model call."""
        self._masks = {}
        self._calling = True
        if not self.needs_positions:
            return
        if self._given is None:
            self._inferred = inferred_positions(args, kwargs, self._inferred)
        elif not self._counted:
            self._now = positions_at_call(self._given, args, kwargs)
        self._counted = False

    def leave_call(self) -> None:
        """Forget what was found: it holds for one call, even if that fails."""
        self._calling = False
        self._now = None
