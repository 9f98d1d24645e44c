"""Ways to find the direction of affect in activations: one unit vector per layer.

With x+ and x- the activations of a sample's positive and negative prompt and d = x+ - x-, v is, up to its length,

    difference_of_means   mean_j d_j
    logistic              the weights of a logistic regression of the polarity on x, L2 penalty
    pca                   the largest eigenvector of sum_j d_j d_j^T
    two_means             the difference of the two centres that k-means finds in x - (x+ + x-) / 2
    das                   argmin over |v| = 1 of a loss of interchanging v^T x between prompts (Geiger et al. 2024)

The sign convention is the same everywhere: positive affect has the larger projection, mean_j v^T d_j > 0.

All but ``das`` commute with rotations: features are not standardised one by one (no basis of the residual stream is
special to them). PCA is not centred, since centring removes the mean difference, which is what is sought. ``pca`` and
``two_means`` use the polarities only for the sign; which prompts belong to one sample they do use, because at the last
token of a prompt the stem varies far more than the affect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import DirectionError
from leakmech.core.progress import Progress, no_progress
from leakmech.core.registry import Registry
from leakmech.mechanism.directions.data import SiteActivations

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

STRENGTHS = tuple(float(c) for c in 10.0 ** np.arange(-4, 5))  # scikit-learn's C: the inverse of the penalty
_FOLDS = 5
_STARTS = 10  # runs of k-means


class Interchange(Protocol):
    """The loss that ``das`` minimises: interchange along a direction, through a model.

    Called with a unit vector (float32, on the CPU, shape (d_model,)) and a layer number, it runs base prompts with
    their projection on the vector replaced by that of source prompts, and returns a scalar loss that is smaller the
    more the output follows the source, differentiable in the vector.
    """

    def __call__(self, direction: Float[Tensor, " d_model"], layer: int, /) -> Float[Tensor, ""]: ...


@dataclass(frozen=True)
class FitOptions:
    """What the methods can be told; ``das`` needs an interchange, and `seed` sets the starts of k-means."""

    seed: int = 0
    interchange: Interchange | None = None
    das_steps: int = 60
    das_rate: float = 0.1
    """Size of a step of Adam as an angle in radians (about: before Adam's scaling settles)."""
    strengths: tuple[float, ...] | None = None
    """One C of ``logistic`` per layer; None chooses them by cross-validation within the samples."""
    progress: Progress = no_progress


@dataclass(frozen=True, eq=False)
class Fit:
    """Unit vectors of one method in every layer, in float64, and what the fit chose (``strength``, ``loss``)."""

    vectors: Float[np.ndarray, "layers d_model"]
    details: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """An entry of :data:`METHODS`."""

    name: str
    fit: Callable[[SiteActivations, FitOptions], Fit]
    supervised: bool = True
    """Whether the polarities choose more than the sign, so that shuffling them is a baseline."""


def fit_method(method: str, activations: SiteActivations, *, options: FitOptions | None = None) -> Fit:
    """Fit unit vectors by `method` in every layer of `activations`."""
    found = METHODS.find(method)
    refuse_equal(activations)
    return found.fit(activations, options or FitOptions())


def refuse_equal(activations: SiteActivations) -> None:
    """Refuse layers in which positive and negative activations are the same: before the first attention layer, say."""
    for index, layer in enumerate(activations.layers):
        if np.array_equal(activations.positive[:, index], activations.negative[:, index]):
            raise DirectionError(
                f"{activations.where(layer)}: positive and negative activations are equal, so there is no direction "
                "(the position has not seen the injection there); leave the layer out"
            )


def mean_difference(activations: SiteActivations) -> Float[np.ndarray, "layers d_model"]:
    """Compute the mean over samples of positive - negative, summed in float64."""
    return activations.positive.mean(axis=0, dtype=np.float64) - activations.negative.mean(axis=0, dtype=np.float64)


def unit(vectors: Float[np.ndarray, "... d_model"]) -> Float[np.ndarray, "... d_model"]:
    """Scale vectors to length 1; those of length 0 are refused."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not (lengths > 0).all():
        raise DirectionError("a fitted direction has length 0: the samples cancel out; add samples or leave layers out")
    return vectors / lengths


def _oriented(
    vectors: Float[np.ndarray, "layers d_model"], activations: SiteActivations
) -> Float[np.ndarray, "layers d_model"]:
    """Scale vectors to length 1 and turn them so that positive affect has the larger mean projection."""
    vectors = unit(vectors)
    sign = np.where(np.einsum("ld,ld->l", vectors, mean_difference(activations)) < 0, -1.0, 1.0)
    return vectors * sign[:, None]


def _difference_of_means(activations: SiteActivations, options: FitOptions) -> Fit:  # noqa: ARG001 - the registry's signature
    return Fit(_oriented(mean_difference(activations), activations))


def _pca(activations: SiteActivations, options: FitOptions) -> Fit:  # noqa: ARG001 - the registry's signature
    first = [
        np.linalg.svd(
            activations.layer(index, "positive") - activations.layer(index, "negative"), full_matrices=False
        ).Vh[0]
        for index in range(len(activations.layers))
    ]
    return Fit(_oriented(np.stack(first), activations))


def _two_means(activations: SiteActivations, options: FitOptions) -> Fit:
    from sklearn.cluster import KMeans

    vectors = []
    for index in range(len(activations.layers)):
        half = (activations.layer(index, "positive") - activations.layer(index, "negative")) / 2
        points, basis = _reduced(np.concatenate([half, -half]))
        clusters = KMeans(n_clusters=2, n_init=_STARTS, random_state=options.seed)  # pyright: ignore[reportArgumentType]
        centres = clusters.fit(points).cluster_centers_
        vectors.append((centres[1] - centres[0]) @ basis)
    return Fit(_oriented(np.stack(vectors), activations))


def _logistic(activations: SiteActivations, options: FitOptions) -> Fit:
    n = len(activations)
    labels = np.repeat([1, 0], n)
    samples = np.tile(np.arange(n), 2)
    vectors, strengths = [], []
    with options.progress("logistic regression", total=len(activations.layers), done=0) as advance:
        for index in range(len(activations.layers)):
            both = np.concatenate([activations.layer(index, "positive"), activations.layer(index, "negative")])
            points, basis = _reduced(both - both.mean(axis=0))
            # One scale for all features: C then means the same in every layer.
            points /= np.sqrt((points**2).sum(axis=1).mean())
            strength = options.strengths[index] if options.strengths else _best_strength(points, labels, samples)
            vectors.append(_regression(points, labels, strength).coef_[0] @ basis)
            strengths.append(strength)
            advance(1)
    return Fit(_oriented(np.stack(vectors), activations), {"strength": tuple(strengths)})


def _best_strength(points: Float[np.ndarray, "n rank"], labels: np.ndarray, samples: np.ndarray) -> float:
    """Choose the C with the lowest held-out log loss; both prompts of a sample are held out together."""
    folds = samples % _FOLDS
    losses = [
        sum(_held_out_loss(points, labels, folds == fold, strength) for fold in range(_FOLDS)) for strength in STRENGTHS
    ]
    return STRENGTHS[int(np.argmin(losses))]


def _held_out_loss(
    points: Float[np.ndarray, "n rank"], labels: np.ndarray, held_out: np.ndarray, strength: float
) -> float:
    model = _regression(points[~held_out], labels[~held_out], strength)
    margins = model.decision_function(points[held_out]) * np.where(labels[held_out] == 1, 1, -1)
    return float(np.logaddexp(0, -margins).sum())


def _regression(points: Float[np.ndarray, "n rank"], labels: np.ndarray, strength: float) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=2000).fit(points, labels)


def _reduced(
    points: Float[np.ndarray, "n d_model"],
) -> tuple[Float[np.ndarray, "n rank"], Float[np.ndarray, "rank d_model"]]:
    """Give the coordinates of `points` in an orthonormal basis of their span, and the basis.

    Distances and inner products stay, so nothing that depends only on them changes: k-means, and regression with an
    L2 penalty, whose weights lie in the span of its points. With fewer points than features it is far smaller.
    """
    left, sizes, basis = np.linalg.svd(points, full_matrices=False)
    kept = sizes > sizes[0] * 1e-12
    return left[:, kept] * sizes[kept], basis[kept]


def _das(activations: SiteActivations, options: FitOptions) -> Fit:
    if options.interchange is None:
        raise DirectionError("method 'das' needs a model to interchange in; pass interchange=")
    starts = _oriented(mean_difference(activations), activations)
    vectors, losses = [], []
    with options.progress("distributed alignment search", total=len(activations.layers), done=0) as advance:
        for index, layer in enumerate(activations.layers):
            vector, loss = search_sphere(
                lambda v, layer=layer: options.interchange(v, layer),  # pyright: ignore[reportOptionalCall]
                torch.from_numpy(starts[index]),
                steps=options.das_steps,
                rate=options.das_rate,
                where=activations.where(layer),
            )
            vectors.append(vector.double().numpy())
            losses.append(loss)
            advance(1)
    return Fit(_oriented(np.stack(vectors), activations), {"loss": tuple(losses)})


def search_sphere(
    loss_of: Callable[[Float[Tensor, " d_model"]], Float[Tensor, ""]],
    start: Float[Tensor, " d_model"],
    *,
    steps: int,
    rate: float,
    where: str,
) -> tuple[Float[Tensor, " d_model"], float]:
    """Find the unit vector with the lowest loss on a path of Adam over the unit sphere from `start`, and its loss.

    Each step follows the gradient's part along the sphere and returns to the sphere by normalising. Adam's
    step has the size of `rate` in every coordinate, so it is divided by sqrt(d_model), which makes it an angle, and
    falls to 0 along a cosine.
    """
    vector = (start / start.norm()).float().requires_grad_()
    optimiser = torch.optim.Adam([vector], lr=rate / vector.numel() ** 0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=max(1, steps))
    best, best_loss = vector.detach().clone(), float("inf")
    for step in range(steps + 1):
        optimiser.zero_grad()
        loss = loss_of(vector)
        if loss.numel() != 1 or not torch.isfinite(loss).all():
            raise DirectionError(
                f"{where}: the interchange loss of 'das' is not a finite number; check the model's dtype"
            )
        if loss.item() < best_loss:
            best, best_loss = vector.detach().clone(), loss.item()
        if step < steps:
            (vector.grad,) = torch.autograd.grad(loss, vector)
            _step(vector, optimiser)
            schedule.step()
    return best, best_loss


@torch.no_grad()
def _step(vector: Float[Tensor, " d_model"], optimiser: torch.optim.Optimizer) -> None:
    assert vector.grad is not None
    vector.grad -= (vector.grad @ vector) * vector
    optimiser.step()
    vector /= vector.norm()


METHODS: Registry[Method] = Registry.named(
    "method",
    Method("difference_of_means", _difference_of_means),
    Method("logistic", _logistic),
    Method("pca", _pca, supervised=False),
    Method("two_means", _two_means, supervised=False),
    Method("das", _das),
    error=DirectionError,
    unknown="unknown method {name}",
)
DEFAULT_METHODS = ("difference_of_means", "logistic", "pca", "two_means")
