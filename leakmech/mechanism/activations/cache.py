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
from collections.abc import Mapping, Sequence
from pathlib import Path

from leakmech.core.errors import ActivationError
from leakmech.core.progress import Progress, Shown, no_progress, shown_progress
from leakmech.datasets.samples import CONDITIONS, PromptSet
from leakmech.mechanism.activations.moments import Moments, RunningMoments
from leakmech.mechanism.activations.run import ActivationRun
from leakmech.mechanism.activations.store import ActivationCache, ShardWriter, refuse_too_large, size_text
from leakmech.models.load import LoadedModel
from leakmech.models.sites import Site
from leakmech.prompts.render import Prompting, Renderer

_FLOAT64 = 8


def cache_activations(
    model: LoadedModel,
    dataset: str | Path | PromptSet,
    *,
    sites: Sequence[str] = ("resid_post",),
    layers: Sequence[int] | None = None,
    positions: Sequence[str] = ("last_prompt",),
    conditions: Sequence[str] = CONDITIONS,
    prompting: Prompting = Prompting(),
    continuations: Mapping[str, Sequence[int]] | None = None,
    batch_size: int | str = "auto",
    out: str | Path | None = None,
    progress: Shown = None,
) -> ActivationCache:
    """Cache the activations of every prompt, in memory or in a folder.

    ``cache["resid_post"]`` is then a labelled array ``[sample condition position layer width]``.

    Parameters
    ----------
    model
        A model as :func:`leakmech.load_model` returns it.
    dataset
        Samples, or the name or file of a data set.
    sites
        Any of ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out``, ``mlp_out``, ``z``, ``mlp_post``.
    layers
        Layers, counted from 0; None takes all.
    positions
        ``last_prompt``, ``last_stem``, ``injection_end`` (its full stop); ``injection_mean``, ``stem_mean``,
        ``generated_mean``; or each token of ``injection``, ``stem``, ``prompt``, ``generated``, ``all``.
    conditions
        Any of ``control``, ``positive``, ``neutral``, ``negative``.
    prompting
        How samples become prompts.
    continuations
        Token ids that the model is to read after each prompt, by prompt id; they are the position ``generated``
        (:func:`leakmech.mechanism.behaviour.sample_continuations` makes them).
    batch_size
        Prompts at a time; ``auto`` chooses by the device. The number is halved whenever memory runs out.
    out
        Folder for the activations; None keeps them in memory.
    progress
        A function that draws progress, True or False; None draws it in a notebook only.

    Returns
    -------
    ActivationCache
        The activations, by site.

    Raises
    ------
    ConfigError
        A site, position, condition or batch size does not exist, or no prompt has a position.
    ModelError
        The architecture is not known, a layer is out of range, or positions cannot be found in the rendered prompts.
    ActivationError
        The activations do not fit into memory or on the disk, or `out` already holds some.
    """
    progress = shown_progress(progress)
    work = ActivationRun.plan(
        model,
        dataset,
        sites=sites,
        layers=layers,
        positions=positions,
        conditions=conditions,
        renderer=Renderer(model.tokenizer, prompting),
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


def activation_moments(
    model: LoadedModel,
    dataset: str | Path | PromptSet,
    *,
    sites: Sequence[str] = ("resid_post",),
    layers: Sequence[int] | None = None,
    positions: Sequence[str] = ("last_prompt",),
    conditions: Sequence[str] = CONDITIONS,
    covariance: bool = True,
    prompting: Prompting = Prompting(),
    continuations: Mapping[str, Sequence[int]] | None = None,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> dict[Site, Moments]:
    """Compute means and covariances of the activations by site, in float64; no activation is kept.

    Parameters and errors are those of :func:`cache_activations`; without `covariance` only means are computed.
    """
    work = ActivationRun.plan(
        model,
        dataset,
        sites=sites,
        layers=layers,
        positions=positions,
        conditions=conditions,
        renderer=Renderer(model.tokenizer, prompting),
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


def _to_memory(work: ActivationRun, batch_size: int | str, progress: Progress) -> ActivationCache:
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
