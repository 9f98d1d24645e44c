"""Activations of a model on the prompts of a data set, at named sites and positions.

Every prompt runs once, in batches of like length, padded on the left, with attention mask and position ids, so a value
depends on its own prompt only. Hooks keep the wanted tokens and let go of the rest within the forward pass:

    values[sample, condition, position, layer] = site_layer(prompt(sample, condition))[token(position)].

Values stay in memory, or go to a folder in shards, or only their means and covariances are kept; in the last two cases
memory does not grow with the number of prompts. Activations are recorded on the model's own modules, so what
:mod:`leakmech.interventions` or an adapter does to a model is seen.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from leakmech.errors import ActivationError, ConfigError, ModelError, nearest
from leakmech.generation.engines import is_out_of_memory, parse_batch_size
from leakmech.mechanism.activation_store import (
    ActivationCache,
    ActivationIndex,
    Rows,
    ShardWriter,
    refuse_too_large,
    size_text,
)
from leakmech.mechanism.moments import Moments, RunningMoments
from leakmech.mechanism.positions import LocatedPrompt, PositionPlan, locate
from leakmech.mechanism.sites import Site, parse_sites, recording, site_shape
from leakmech.models.device import dtype_name
from leakmech.models.layout import Layout, layout_of
from leakmech.models.load import LoadedModel
from leakmech.progress import Progress, no_progress
from leakmech.prompts.render import DEFAULT_SYSTEM, PromptForm, Renderer
from leakmech.prompts.samples import CONDITIONS, PromptSet, load_dataset

# Small batches keep a CPU's caches warm, large ones an accelerator busy.
_BATCH_SIZES = {"cpu": 16}
_BATCH_SIZE_ELSEWHERE = 128
_FLOAT64 = 8


def cache_activations(
    model: LoadedModel,
    dataset: str | Path | PromptSet,
    *,
    sites: Sequence[str] = ("resid_post",),
    layers: Sequence[int] | None = None,
    positions: Sequence[str] = ("last_prompt",),
    conditions: Sequence[str] = CONDITIONS,
    prompt_form: PromptForm = "auto",
    system: str | None = DEFAULT_SYSTEM,
    instruction: str = "none",
    continuations: Mapping[str, Sequence[int]] | None = None,
    batch_size: int | str = "auto",
    out: str | Path | None = None,
    progress: Progress = no_progress,
) -> ActivationCache:
    """Activations of every prompt, in memory or in a folder.

    ``cache["resid_post"]`` is then a labelled array ``[sample condition position layer width]``.

    Parameters
    ----------
    model
        As :func:`leakmech.load_model` returns it.
    dataset
        Samples, or the name or file of a data set.
    sites
        Of ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out``, ``mlp_out``, ``z``, ``mlp_post``.
    layers
        Counted from 0; all for None.
    positions
        ``last_prompt``, ``last_stem``, ``injection_end`` (its full stop); ``injection_mean``, ``stem_mean``,
        ``generated_mean``; or each token of ``injection``, ``stem``, ``prompt``, ``generated``, ``all``.
    conditions
        Of ``control``, ``positive``, ``neutral``, ``negative``.
    prompt_form, system, instruction
        How prompts are rendered, as for :func:`leakmech.bench`.
    continuations
        Token ids that the model is to read after each prompt, by prompt id; they are the position ``generated``
        (:func:`leakmech.mechanism.continuations.sample_continuations` makes them).
    batch_size
        Prompts at a time; ``auto`` goes by the device. Halved whenever memory runs out.
    out
        Folder for the activations; None keeps them in memory.
    progress
        See :mod:`leakmech.progress`.

    Raises
    ------
    ConfigError
        A site, position, condition or batch size that there is not, or a position that no prompt has.
    ModelError
        The architecture is not known, a layer is out of range, or positions cannot be found in the rendered prompts.
    ActivationError
        The activations do not fit into memory or on the disk, or `out` holds some already.
    """
    work = _Work.plan(
        model,
        dataset,
        sites=sites,
        layers=layers,
        positions=positions,
        conditions=conditions,
        renderer=Renderer(model.tokenizer, prompt_form, system, instruction),
        continuations=continuations,
    )
    n_bytes = work.index.n_bytes()
    if out is None:
        refuse_too_large(n_bytes, hint="pass out= to stream them to disk, or fewer layers, sites or positions")
        return _to_memory(work, batch_size, progress)
    _refuse_full_disk(Path(out), n_bytes)
    writer = ShardWriter(Path(out), work.index)
    for rows in work.run(batch_size, progress):
        writer.add(rows)
    return writer.close()


def estimate_bytes(
    model: LoadedModel,
    dataset: str | Path | PromptSet,
    *,
    sites: Sequence[str] = ("resid_post",),
    layers: Sequence[int] | None = None,
    positions: Sequence[str] = ("last_prompt",),
    conditions: Sequence[str] = CONDITIONS,
    prompt_form: PromptForm = "auto",
    system: str | None = DEFAULT_SYSTEM,
    instruction: str = "none",
    continuations: Mapping[str, Sequence[int]] | None = None,
) -> int:
    """Size of what :func:`cache_activations` would keep, in bytes; the model does not run.

    Parameters and errors are those of :func:`cache_activations`.
    """
    return _Work.plan(
        model,
        dataset,
        sites=sites,
        layers=layers,
        positions=positions,
        conditions=conditions,
        renderer=Renderer(model.tokenizer, prompt_form, system, instruction),
        continuations=continuations,
    ).index.n_bytes()


def activation_moments(
    model: LoadedModel,
    dataset: str | Path | PromptSet,
    *,
    sites: Sequence[str] = ("resid_post",),
    layers: Sequence[int] | None = None,
    positions: Sequence[str] = ("last_prompt",),
    conditions: Sequence[str] = CONDITIONS,
    covariance: bool = True,
    prompt_form: PromptForm = "auto",
    system: str | None = DEFAULT_SYSTEM,
    instruction: str = "none",
    continuations: Mapping[str, Sequence[int]] | None = None,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> dict[Site, Moments]:
    """Means and covariances of the activations by site, in float64; no activation is kept.

    Parameters
    ----------
    covariance
        Whether covariances are computed; without them, means only, which take little memory.

    The other parameters and errors are those of :func:`cache_activations`.
    """
    work = _Work.plan(
        model,
        dataset,
        sites=sites,
        layers=layers,
        positions=positions,
        conditions=conditions,
        renderer=Renderer(model.tokenizer, prompt_form, system, instruction),
        continuations=continuations,
    )
    index = work.index
    shape = (len(index.conditions), len(index.positions), len(index.layers))
    widths = {site: math.prod(size) for site, size in index.sites.items()}
    per_place = sum(width * (width + 1 if covariance else 1) for width in widths.values()) * _FLOAT64
    hint = "pass covariance=False, or fewer layers, sites or positions" if covariance else "pass fewer layers or sites"
    refuse_too_large(math.prod(shape) * per_place, hint=hint)
    running = {site: RunningMoments(shape, width, covariance=covariance) for site, width in widths.items()}
    for rows in work.run(batch_size, progress):
        for site, moments in running.items():
            moments.add(rows.values[site], rows.present, rows.conditions)
    return {
        site: Moments(
            site,
            *moments.finish(),
            index.conditions,
            index.positions,
            index.layers,
            model_hash=index.model["weights_hash"],
            dataset_hash=index.dataset["content_hash"],
        )
        for site, moments in running.items()
    }


def _to_memory(work: _Work, batch_size: int | str, progress: Progress) -> ActivationCache:
    values = {site: work.index.empty(site) for site in work.index.sites}
    present = work.index.nothing_present()
    for rows in work.run(batch_size, progress):
        present[rows.samples, rows.conditions] = rows.present
        for site, array in values.items():
            array[rows.samples, rows.conditions] = work.index.shaped(site, rows.values[site])
    return ActivationCache(work.index, values=values, present=present)


def _refuse_full_disk(folder: Path, n_bytes: int) -> None:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if n_bytes > free:
        raise ActivationError(
            f"{folder}: activations need {size_text(n_bytes)}, {size_text(free)} are free there; "
            "give another folder, or fewer layers, sites or positions"
        )


# -- running the model ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Work:
    """What to run and what to keep of it."""

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
    ) -> _Work:
        samples = load_dataset(dataset)
        layout = layout_of(loaded.model)
        chosen = [condition for condition in CONDITIONS if condition in _checked_conditions(conditions)]
        rendered = [renderer.prompt(sample, condition) for sample in samples for condition in chosen]
        prompts = locate(rendered, renderer, continuations=continuations)
        _refuse_too_long(prompts, loaded)
        plan = PositionPlan.of(positions, prompts)
        index = ActivationIndex(
            sites={site: site_shape(layout, site) for site in parse_sites(sites, layout)},
            samples=tuple(sample.id for sample in samples),
            conditions=tuple(chosen),
            positions=plan.labels,
            layers=_checked_layers(layers, layout),
            dtype=dtype_name(loaded.dtype),
            model=loaded.info(),
            dataset={"name": samples.name, "content_hash": samples.content_hash},
            settings={
                "positions": list(positions),
                "prompt_form": renderer.resolved_form,
                "system": renderer.system,
                "instruction": renderer.instruction_text,
                "continuations": continuations is not None,
            },
        )
        return cls(loaded, layout, index, prompts, plan)

    def run(self, batch_size: int | str, progress: Progress) -> Iterator[Rows]:
        """Activations of all prompts, the longest first, batch by batch; the batch is halved when memory runs out."""
        size = parse_batch_size(batch_size) or _BATCH_SIZES.get(self.loaded.device.type, _BATCH_SIZE_ELSEWHERE)
        waiting = sorted(range(len(self.prompts)), key=lambda number: -len(self.prompts[number]))
        with progress("activations", total=len(waiting), done=0) as advance:
            while waiting:
                batch = self._try(waiting[:size])
                if batch is None:
                    if size == 1:
                        name = self.prompts[waiting[0]].id
                        raise ActivationError(f"prompt {name!r}: memory does not suffice for it; use a smaller dtype")
                    size = min(size, len(waiting)) // 2 or 1
                    if torch.cuda.is_available():
                        torch.cuda.empty_cache()
                    continue
                yield batch
                advance(len(waiting[:size]))
                del waiting[:size]

    def _try(self, numbers: Sequence[int]) -> Rows | None:
        """A batch, or None when memory runs out."""
        try:
            return self._forward(numbers)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        return None

    @torch.inference_mode()
    def _forward(self, numbers: Sequence[int]) -> Rows:
        prompts = [self.prompts[number] for number in numbers]
        device = self.loaded.device
        inputs = padded(prompts, device)
        spans = torch.tensor([self.positions.spans(prompt) for prompt in prompts])
        present = spans[..., 0] < spans[..., 1]
        offset = inputs["input_ids"].shape[1] - torch.tensor([len(prompt) for prompt in prompts])
        pick = _Pick(spans + rearrange(offset, "row -> row 1 1"), self.positions.means, inputs["input_ids"].shape[1])
        index = self.index
        with recording(self.layout, sites=tuple(index.sites), layers=index.layers, pick=pick.to(device)) as recorded:
            self.loaded.model(**inputs, use_cache=False, logits_to_keep=1)
        missing = rearrange(~present, "row pos -> row pos 1 1").to(device)
        values = {}
        for site in index.sites:
            stacked = torch.stack([recorded[site, layer] for layer in index.layers], dim=2)
            values[site] = stacked.masked_fill(missing, torch.nan).to("cpu", self.loaded.dtype)
        n_conditions = len(index.conditions)
        rows = torch.tensor(numbers)
        return Rows(rows // n_conditions, rows % n_conditions, values, present)


class _Pick:
    """Takes the wanted tokens out of a batch's hidden states: one a label, or the mean of several.

    Parameters
    ----------
    spans
        First column and the one behind the last, ``[row, pos, 2]``; anything where there is none.
    means
        The positions that are means.
    width
        Number of columns of the batch.
    """

    def __init__(self, spans: Tensor, means: Sequence[int], width: int) -> None:
        self.width = width
        self.rows = torch.arange(len(spans))[:, None]
        self.columns = spans[..., 0].clamp(max=width - 1)
        self.means: list[tuple[int, Tensor, Tensor]] = []
        for position in means:
            first, behind = spans[:, position, :1], spans[:, position, 1:]
            columns = first + torch.arange(max(1, int((behind - first).max())))
            self.means.append((position, columns.clamp(max=width - 1), columns < behind))

    def to(self, device: torch.device) -> _Pick:
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


def padded(prompts: Sequence[LocatedPrompt], device: torch.device) -> dict[str, Tensor]:
    """Model inputs for a batch: ids padded on the left with each row's first token, mask and position ids."""
    width = max(map(len, prompts))
    ids = torch.empty(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row] = int(prompt.ids[0])
        ids[row, width - len(prompt) :] = torch.from_numpy(prompt.ids)
        mask[row, width - len(prompt) :] = 1
    position_ids = (mask.cumsum(dim=1) - 1).clamp(min=0)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": position_ids}
    return {name: tensor.to(device) for name, tensor in inputs.items()}


# -- checks --------------------------------------------------------------------------------------------------------


def _checked_conditions(conditions: Sequence[str]) -> Sequence[str]:
    if not conditions or isinstance(conditions, str):
        raise ConfigError(f"conditions: give a list of at least one of {', '.join(CONDITIONS)}, found {conditions!r}")
    for name in conditions:
        if name not in CONDITIONS:
            raise ConfigError(f"conditions: unknown condition {name!r}{nearest(name, CONDITIONS)}")
    return conditions


def _checked_layers(layers: Sequence[int] | None, layout: Layout) -> tuple[int, ...]:
    chosen = tuple(range(layout.n_layers)) if layers is None else tuple(layers)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError(f"layers: name at least one, and each once, found {list(chosen)}")
    for layer in chosen:
        layout.block(layer)
    return chosen


def _refuse_too_long(prompts: Sequence[LocatedPrompt], loaded: LoadedModel) -> None:
    config: Any = loaded.model.config
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    longest = max(prompts, key=len)
    if window is not None and len(longest) > window:
        raise ModelError(f"prompt {longest.id!r}: has {len(longest)} tokens, the model reads at most {window}")
