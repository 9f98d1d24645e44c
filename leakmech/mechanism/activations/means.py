"""Mean outputs of heads and neurons by kind of position, to ablate them with.

A component that is set to its mean shall do what it does on average at such a token. Tokens of prompts and tokens that
the model writes are two kinds: the mean over control prompts is far off for generated tokens, as far as zero is. So

    prompt       mean over the tokens of control prompts,
    generated    mean over the tokens of the base model's own answers to them, read after the control prompt.

On disk: ``means.safetensors`` (by site and position, one row a layer; heads stand side by side) and ``means.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import ActivationError
from leakmech.core.progress import Progress, no_progress
from leakmech.core.tensor_files import TensorFormat
from leakmech.datasets.samples import PromptSet
from leakmech.mechanism.activations.cache import activation_moments
from leakmech.mechanism.activations.moments import Moments
from leakmech.mechanism.activations.positions import labels_of
from leakmech.mechanism.behaviour import sample_continuations
from leakmech.models.components import Component
from leakmech.models.layout import Layout
from leakmech.models.load import LoadedModel
from leakmech.models.sites import Site
from leakmech.prompts.render import Prompting

SITES: tuple[Site, ...] = ("z", "mlp_post")
POSITIONS = ("prompt", "generated")
MEANS_FILE = "means.json"
_FORMAT = TensorFormat("means of components", 1, ActivationError)


@dataclass(frozen=True, eq=False)
class ComponentMeans:
    """Means of a model's components by kind of position."""

    by_site: Mapping[tuple[Site, str], Float[Tensor, "layer width"]]
    """By site and position."""
    n_tokens: Mapping[str, int]
    """Number of tokens that were averaged, by position."""
    model_hash: str = ""

    def of(self, components: Sequence[Component], layout: Layout) -> dict[str, Float[Tensor, "component width"]]:
        """Give the means of heads (width d_head) or of neurons (width 1), by position."""
        return {
            name: torch.stack([self.by_site[c.site, name][c.layer, c.features(layout)] for c in components])
            for name in POSITIONS
        }

    def save(self, folder: Path) -> Path:
        """Write them into a folder."""
        tensors = {f"{site}.{name}": values.contiguous() for (site, name), values in self.by_site.items()}
        path = folder / MEANS_FILE
        _FORMAT.write(path, {"model_hash": self.model_hash, "n_tokens": dict(self.n_tokens)}, tensors)
        return path

    @classmethod
    def load(cls, folder: Path) -> ComponentMeans:
        """Read what :meth:`save` wrote."""
        description, tensors = _FORMAT.read(folder / MEANS_FILE)
        by_site = {(site, name): tensors[f"{site}.{name}"] for site in SITES for name in POSITIONS}
        return cls(by_site, description["n_tokens"], description["model_hash"])


def component_means(
    model: LoadedModel,
    samples: PromptSet,
    *,
    prompting: Prompting = Prompting(),
    seed: int = 0,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> ComponentMeans:
    """Average over control prompts, and over one answer to each that the model itself samples."""
    answers = sample_continuations(
        model,
        samples,
        conditions=("control",),
        seed=seed,
        prompting=prompting,
        batch_size=batch_size,
        progress=progress,
    )
    found = activation_moments(
        model,
        samples,
        sites=SITES,
        positions=POSITIONS,
        conditions=("control",),
        covariance=False,
        prompting=prompting,
        continuations=answers,
        batch_size=batch_size,
        progress=progress,
    )
    return ComponentMeans(
        {(site, name): mean_over_tokens(found[site], name) for site in SITES for name in POSITIONS},
        {name: int(found["z"].count[0, _places(found["z"], name)].sum()) for name in POSITIONS},
        model.weights_hash,
    )


def mean_over_tokens(moments: Moments, position: str) -> Float[Tensor, "layer width"]:
    """Compute the mean over all tokens of a position in the first condition, from the means at each place."""
    places = _places(moments, position)
    count, mean = moments.count[0, places].double(), moments.mean[0, places]
    there = count > 0
    return (torch.einsum("p,plw->lw", count[there], mean[there]) / count.sum()).float()


def _places(moments: Moments, position: str) -> list[int]:
    wanted = set(labels_of(position, moments.positions))
    return [place for place, label in enumerate(moments.positions) if label in wanted]
