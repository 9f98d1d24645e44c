"""Run a model on the prompts of a data set and keep named sites at named tokens, batch by batch.

Prompts go in batches of like length, padded on the left, with attention mask and position ids, so that a value depends
on its own prompt only. The wanted tokens are taken out inside the forward pass; nothing else is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from leakmech.core.errors import ConfigError, ModelError, nearest
from leakmech.core.progress import Progress
from leakmech.datasets.samples import CONDITIONS, Condition, PromptSet, load_dataset
from leakmech.mechanism.activations.positions import PositionPlan
from leakmech.mechanism.activations.store import ActivationIndex, Rows
from leakmech.mechanism.bridge import read_sites
from leakmech.models.batching import in_batches, padded_left
from leakmech.models.device import dtype_name
from leakmech.models.layout import Layout, layout_of
from leakmech.models.limits import refuse_unreadable
from leakmech.models.load import LoadedModel
from leakmech.models.sites import parse_sites, site_shape
from leakmech.prompts.locate import LocatedPrompt, locate
from leakmech.prompts.render import Renderer


@dataclass(frozen=True, eq=False)
class ActivationRun:
    """Holds what to run and what to keep of it."""

    loaded: LoadedModel
    layout: Layout
    index: ActivationIndex
    prompts: list[LocatedPrompt]
    positions: PositionPlan

    @classmethod
    def plan(
        cls,
        loaded: LoadedModel,
        dataset: str | Path | PromptSet,
        *,
        sites: Sequence[str],
        layers: Sequence[int] | None,
        positions: Sequence[str],
        conditions: Sequence[str],
        renderer: Renderer,
        continuations: Mapping[str, Sequence[int]] | None,
    ) -> ActivationRun:
        samples = load_dataset(dataset)
        layout = layout_of(loaded.model)
        chosen = _checked_conditions(conditions)
        rendered = [renderer.prompt(sample, condition) for sample in samples for condition in chosen]
        prompts = locate(rendered, renderer, continuations=continuations)
        refuse_unreadable(loaded.model, ((prompt.id, prompt.ids.tolist()) for prompt in prompts))
        plan = PositionPlan.of(positions, prompts)
        index = ActivationIndex(
            sites={site: site_shape(layout, site) for site in parse_sites(sites, layout)},
            samples=tuple(sample.id for sample in samples),
            conditions=tuple(chosen),
            positions=plan.labels,
            layers=checked_layers(layers, layout),
            dtype=dtype_name(loaded.dtype),
            model=loaded.info(),
            dataset={"name": samples.name, "content_hash": samples.content_hash},
            settings={
                "positions": list(positions),
                "prompt_form": renderer.resolved_form,
                "system": renderer.prompting.system,
                "instruction": renderer.instruction_text,
                "continuations": continuations is not None,
            },
        )
        return cls(loaded, layout, index, prompts, plan)

    def run(self, batch_size: int | str, progress: Progress) -> Iterator[Rows]:
        """Yield the activations of all prompts batch by batch, the longest prompts first."""
        batches = in_batches(
            range(len(self.prompts)),
            self._forward,
            batch_size=batch_size,
            device=self.loaded.device,
            label="activations",
            progress=progress,
            order=lambda number: len(self.prompts[number]),
            name=lambda number: f"prompt {self.prompts[number].id!r}",
        )
        return (rows for _, rows in batches)

    @torch.inference_mode()
    def _forward(self, numbers: Sequence[int]) -> Rows:
        prompts = [self.prompts[number] for number in numbers]
        device = self.loaded.device
        inputs = padded(prompts, device)
        spans = torch.tensor([self.positions.spans(prompt) for prompt in prompts])
        present = spans[..., 0] < spans[..., 1]
        offset = inputs["input_ids"].shape[1] - torch.tensor([len(prompt) for prompt in prompts])
        pick = TokenPick(
            spans + rearrange(offset, "row -> row 1 1"), self.positions.means, inputs["input_ids"].shape[1]
        )
        index = self.index
        recorded = read_sites(self.loaded, inputs, sites=tuple(index.sites), layers=index.layers, pick=pick.to(device))
        missing = rearrange(~present, "row pos -> row pos 1 1").to(device)
        nothing_missing = bool(present.all())
        values = {}
        for site in index.sites:
            stacked = torch.stack([recorded[site, layer] for layer in index.layers], dim=2)
            if not nothing_missing:
                stacked.masked_fill_(missing, torch.nan)
            values[site] = stacked.to("cpu", self.loaded.dtype)
        n_conditions = len(index.conditions)
        rows = torch.tensor(numbers)
        return Rows(rows // n_conditions, rows % n_conditions, values, present)


class TokenPick:
    """Takes the wanted tokens out of a batch's hidden states: for each label one token, or the mean of several.

    `spans` holds the first column and the one after the last; what it holds for absent positions does not matter.
    `means` lists the positions that are means, `width` is the number of columns of the batch.
    """

    def __init__(self, spans: Int[Tensor, "row pos 2"], means: Sequence[int], width: int) -> None:
        self.width = width
        self.rows = torch.arange(len(spans))[:, None]
        self.columns = spans[..., 0].clamp(max=width - 1)
        self.means: list[tuple[int, Tensor, Tensor]] = []
        for position in means:
            first, end = spans[:, position, :1], spans[:, position, 1:]
            columns = first + torch.arange(max(1, int((end - first).max())))
            self.means.append((position, columns.clamp(max=width - 1), columns < end))

    def to(self, device: torch.device) -> TokenPick:
        self.rows, self.columns = self.rows.to(device), self.columns.to(device)
        self.means = [(position, columns.to(device), inside.to(device)) for position, columns, inside in self.means]
        return self

    def __call__(self, hidden: Float[Tensor, "row column width"]) -> Float[Tensor, "row pos width"]:
        if hidden.shape[1] != self.width:
            raise ModelError(
                f"the model reads {hidden.shape[1]} positions for {self.width} tokens (an adapter with tokens of its "
                "own?), so positions cannot be found"
            )
        picked = hidden[self.rows, self.columns]
        for position, columns, inside in self.means:
            tokens = hidden[self.rows, columns].float().masked_fill(~inside[..., None], 0)
            picked[:, position] = (tokens.sum(dim=1) / inside.sum(dim=1, keepdim=True).clamp(min=1)).to(picked.dtype)
        return picked


def padded(prompts: Sequence[LocatedPrompt], device: torch.device, *, n_head: int = 0) -> dict[str, Tensor]:
    """Make model inputs for a batch of prompts; see :func:`leakmech.models.batching.padded_left`."""
    return padded_left([torch.from_numpy(prompt.ids) for prompt in prompts], device, n_head=n_head)


# -- checks --------------------------------------------------------------------------------------------------------


def _checked_conditions(conditions: Sequence[str]) -> list[Condition]:
    if not conditions or isinstance(conditions, str):
        raise ConfigError(f"conditions: give a list of at least one of {', '.join(CONDITIONS)}, found {conditions!r}")
    for name in conditions:
        if name not in CONDITIONS:
            raise ConfigError(f"conditions: unknown condition {name!r}{nearest(name, CONDITIONS)}")
    return [condition for condition in CONDITIONS if condition in conditions]


def checked_layers(layers: Sequence[int] | None, layout: Layout) -> tuple[int, ...]:
    """Layers by number, each once; None stands for all."""
    chosen = tuple(range(layout.n_layers)) if layers is None else tuple(layers)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError(f"layers: name at least one, and each once, found {list(chosen)}")
    for layer in chosen:
        layout.block(layer)
    return chosen
