"""Directions of commanded emotions that do not depend on what happened (arXiv 2510.11328), and what they are worth.

A group is one event to which the model was told to reply in each of the six emotions. With h[g, e] an activation of
group g under emotion e,

    d[g, e] = h[g, e] - mean over e of h[g, e]          what the command changes, whatever the event
    v[e] = mean over g of d[g, e], minus its mean over emotions, scaled to length 1

Held against: groups of a theme that was left out, whose d[g, e] shall be most like v[e] (chance: 1/6); labels that were
exchanged within groups; commands in other words; what stands in the embeddings of words for the emotions already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from leakmech.core.errors import DirectionError
from leakmech.core.seeds import numpy_generator
from leakmech.datasets.emotions import EMOTIONS

Groups = Float[np.ndarray, "group emotion d"]
Vectors = Float[np.ndarray, "emotion d"]

VALENCE: Mapping[str, float] = {
    "anger": -1.0, "sadness": -1.0, "happiness": 1.0, "fear": -1.0, "surprise": 0.0, "disgust": -1.0,
}  # fmt: skip
"""What the emotions are said to be worth; surprise can be either."""


def commanded_directions(h: Groups) -> Vectors:
    """Unit vectors of the emotions, from activations of complete groups.

    Raises
    ------
    DirectionError
        There is no group, or the command changes nothing.
    """
    if not len(h):
        raise DirectionError("emotion directions: there is no group with a reply in each emotion")
    means = changes(h).mean(axis=0)
    means = means - means.mean(axis=0)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    if not (lengths > 1e-8 * max(1.0, float(np.abs(h).max()))).all():
        still = EMOTIONS[int(lengths[:, 0].argmin())]
        raise DirectionError(f"emotion directions: the command of {still} changes nothing")
    return means / lengths


def changes(h: Groups) -> Groups:
    """What the command changes in each group: activations minus the mean over emotions."""
    return h - h.mean(axis=1, keepdims=True)


def neutral_components(neutral: Float[np.ndarray, "n d"], *, share: float = 0.5) -> Float[np.ndarray, "k d"]:
    """The first principal components of neutral activations that hold at least a `share` of their variance."""
    if not 0 < share < 1:
        raise DirectionError(f"neutral components: the share must lie between 0 and 1, found {share}")
    centred = neutral - neutral.mean(axis=0)
    _, lengths, components = np.linalg.svd(centred, full_matrices=False)
    held = np.cumsum(lengths**2) / max(float((lengths**2).sum()), 1e-30)
    return components[: int(np.searchsorted(held, share)) + 1]


def without(vectors: Vectors, components: Float[np.ndarray, "k d"]) -> Vectors:
    """Unit vectors with orthonormal components projected out."""
    left = vectors - vectors @ components.T @ components
    lengths = np.linalg.norm(left, axis=1, keepdims=True)
    if not (lengths > 1e-6).all():
        raise DirectionError("emotion directions: nothing is left without the components")
    return left / lengths


@dataclass(frozen=True)
class Generalisation:
    """How often a change is most like the direction of its own emotion."""

    by_theme: Mapping[str, float]
    """In groups of each theme, with directions of all others."""
    by_emotion: Mapping[str, float]
    """The same in all groups, by emotion."""
    null: tuple[float, ...]
    """Mean over themes where emotions were exchanged within the groups that were fitted on, draw by draw."""

    @property
    def overall(self) -> float:
        """Mean over themes."""
        return float(np.mean(list(self.by_theme.values())))

    @property
    def p(self) -> float:
        """Share of draws, with this one, that do as well."""
        return (1 + sum(value >= self.overall for value in self.null)) / (1 + len(self.null))


def cross_theme(h: Groups, themes: Sequence[str], *, draws: int = 20, seed: int = 0) -> Generalisation:
    """Fit on all themes but one, test on that one, theme by theme.

    Raises
    ------
    DirectionError
        There is only one theme.
    """
    names = list(dict.fromkeys(themes))
    if len(names) < 2:
        raise DirectionError(f"emotion directions: {len(names)} theme; to leave one out takes two or more")
    of = np.array(themes)
    right = _held_out(h, of, names)
    generator = numpy_generator("exchanged emotions", seed)
    null = []
    for _ in range(draws):
        order = generator.permuted(np.tile(np.arange(h.shape[1]), (len(h), 1)), axis=1)
        exchanged = np.take_along_axis(h, order[:, :, None], axis=1)
        null.append(float(np.mean([own.mean() for own in _held_out(h, of, names, fitted_on=exchanged).values()])))
    return Generalisation(
        {name: float(own.mean()) for name, own in right.items()},
        dict(zip(EMOTIONS, np.concatenate(list(right.values())).mean(axis=0).tolist(), strict=True)),
        tuple(null),
    )


def cross_wording(vectors: Vectors, other: Groups) -> dict[str, float]:
    """How often a change under another wording is most like the direction of its own emotion, by emotion.

    Directions of commands can be directions of *words*: they hold for all events, and for no other word.
    """
    nearest = (changes(other) @ vectors.T).argmax(axis=-1)
    right = (nearest == np.arange(other.shape[1])).mean(axis=0)
    return dict(zip(EMOTIONS, right.tolist(), strict=True))


def _held_out(
    h: Groups, of: np.ndarray, names: Sequence[str], *, fitted_on: Groups | None = None
) -> dict[str, np.ndarray]:
    """Whether each change of a theme is most like its own direction, with directions from the other themes."""
    source, found = h if fitted_on is None else fitted_on, {}
    for name in names:
        vectors = commanded_directions(source[of != name])
        nearest = (changes(h[of == name]) @ vectors.T).argmax(axis=-1)
        found[name] = nearest == np.arange(h.shape[1])
    return found


def first_component_valence(vectors: Vectors) -> float:
    """Correlation of the first principal component of the directions with :data:`VALENCE`, its sign left out."""
    centred = vectors - vectors.mean(axis=0)
    scores = np.linalg.svd(centred, full_matrices=False)[0][:, 0]
    return float(abs(np.corrcoef(scores, [VALENCE[name] for name in EMOTIONS])[0, 1]))


def cosines(ones: Vectors, others: Vectors) -> Float[np.ndarray, "emotion emotion"]:
    """Cosine of every vector of one set with every one of another."""
    first, second = (own / np.linalg.norm(own, axis=1, keepdims=True) for own in (ones, others))
    return first @ second.T
