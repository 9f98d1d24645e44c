"""Does a behaviour leak to personas that are like its source? Correlations that respect what personas share.

A *cell* is one behaviour, source and seed: for each persona the change towards the behaviour and the similarity to the
source. Left out of a cell are the source itself and personas that were trained to answer normally.

    rho          Spearman correlation of change and similarity over the personas that are left
    p            over permutations of the personas *within kinds*, one permutation for all cells: two sources share
                 their bystanders, and a kind of persona shares a style, so that shuffling each cell alone would take
                 one accident for many
    partial      the same correlation of what length and text similarity leave, all in ranks
    interval     bootstrap over personas, one resample for the seeds of a behaviour and source, whose rhos are averaged
    held out     rho between the changes of a cell and what a model of ranks that was fitted on cells of other sources
                 and other behaviours predicts
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from leakmech.core.errors import UsageError
from leakmech.core.seeds import numpy_generator
from leakmech.scoring.statistics import Interval

LEAST_PERSONAS = 3
LEAST_FOR_PARTIAL = 10
LEAST_BEHAVIOURS, LEAST_SOURCES = 2, 3
"""Below these nothing is held out."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One behaviour, source and seed, over all personas in one order."""

    behaviour: str
    source: str
    seed: int
    change: Float[np.ndarray, " persona"]
    """Towards the behaviour; NaN where nothing was measured."""
    similarity: Float[np.ndarray, " persona"]
    """To the source."""
    kept: Bool[np.ndarray, " persona"]
    """Bystanders: neither the source nor trained to answer normally."""

    def __post_init__(self) -> None:
        if self.there.sum() < LEAST_PERSONAS:
            raise UsageError(
                f"persona leakage: {self.behaviour} of {self.source} has {int(self.there.sum())} bystanders; a "
                f"correlation takes {LEAST_PERSONAS} or more"
            )

    @property
    def there(self) -> Bool[np.ndarray, " persona"]:
        """Bystanders with both numbers."""
        return self.kept & ~np.isnan(self.change) & ~np.isnan(self.similarity)

    @property
    def rho(self) -> float:
        """Spearman correlation over the bystanders; NaN where either is constant."""
        return spearman(self.change[self.there], self.similarity[self.there])


def spearman(one: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"]) -> float:
    """Pearson correlation of ranks, ties at their mean; NaN where either is constant."""
    return _pearson(rankdata(one), rankdata(other))


def partial_spearman(
    one: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"], given: Float[np.ndarray, "n covariates"]
) -> float:
    """Spearman correlation of what ranks of covariates leave of both (least squares on ranks).

    NaN for fewer than ten, of which the covariates would leave next to nothing.
    """
    if len(one) < LEAST_FOR_PARTIAL:
        return float("nan")
    known = np.column_stack([np.ones(len(one)), *(rankdata(column) for column in given.T)])
    left = []
    for values in (one, other):
        ranks = rankdata(values)
        left.append(ranks - known @ np.linalg.lstsq(known, ranks, rcond=None)[0])
    return _pearson(*left)


def _pearson(one: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"]) -> float:
    first, second = one - one.mean(), other - other.mean()
    lengths = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float(first @ second) / lengths if lengths > 1e-9 * len(one) else float("nan")


# -- chance ------------------------------------------------------------------------------------------------------------


def permutations(
    kinds: Sequence[str], kept: Bool[np.ndarray, " persona"], *, draws: int, seed: int
) -> Int[np.ndarray, "draw kept"]:
    """Permutations, within kinds, of the personas that are kept, as places among these.

    A draw gives every persona a random key, and a kind is put in the order of its keys: the same seed shuffles the
    personas that two cells have in common alike.
    """
    keys = numpy_generator("personas within kinds", seed).random((draws, len(kinds)))[:, kept]
    of = np.array(kinds)[kept]
    found = np.empty(keys.shape, dtype=int)
    for kind in dict.fromkeys(of.tolist()):
        places = np.flatnonzero(of == kind)
        found[:, places] = places[np.argsort(keys[:, places], axis=1)]
    return found


def permutation_p(
    cells: Sequence[Cell], kinds: Sequence[str], *, draws: int = 2_000, seed: int = 0
) -> Float[np.ndarray, " cell"]:
    """Two-sided p value of the rho of every cell, from the same permutations.

    NaN where rho is, and where fewer than two kinds have two personas or more: there is next to nothing to shuffle.
    """
    return np.array([mean_rho_p([cell], kinds, draws=draws, seed=seed) for cell in cells])


def mean_rho_p(cells: Sequence[Cell], kinds: Sequence[str], *, draws: int = 2_000, seed: int = 0) -> float:
    """Two-sided p value of the mean rho of cells (the seeds of a behaviour and source), shuffled together."""
    observed = float(np.mean([cell.rho for cell in cells]))
    if np.isnan(observed) or not all(_shuffles(kinds, cell.there) for cell in cells):
        return float("nan")
    null = np.mean([_null(cell, kinds, draws=draws, seed=seed) for cell in cells], axis=0)
    return float((1 + (np.abs(null) >= abs(observed) - 1e-12).sum()) / (1 + draws))


def _null(cell: Cell, kinds: Sequence[str], *, draws: int, seed: int) -> Float[np.ndarray, " draw"]:
    """The rho of a cell under permutations of its personas within kinds."""
    there = cell.there
    change, similarity = (rankdata(own[there]) - (there.sum() + 1) / 2 for own in (cell.change, cell.similarity))
    orders = permutations(kinds, there, draws=draws, seed=seed)
    return similarity[orders] @ change / np.sqrt((change**2).sum() * (similarity**2).sum())


def _shuffles(kinds: Sequence[str], kept: Bool[np.ndarray, " persona"]) -> bool:
    counts = np.unique(np.array(kinds)[kept], return_counts=True)[1]
    return int((counts > 1).sum()) > 1


def rho_interval(cells: Sequence[Cell], *, draws: int = 2_000, seed: int = 0) -> Interval:
    """95 % percentile interval of the mean rho of one behaviour and source over its seeds; personas are resampled."""
    if len({(cell.behaviour, cell.source) for cell in cells}) != 1:
        raise UsageError("rho_interval: give the seeds of one behaviour and source")
    there = np.logical_and.reduce([cell.there for cell in cells])
    places = np.flatnonzero(there)
    if len(places) < LEAST_PERSONAS:
        return Interval(float("nan"), float("nan"))
    generator = numpy_generator("bootstrap of personas", seed, cells[0].behaviour, cells[0].source)
    means = []
    for _ in range(draws):
        drawn = generator.choice(places, size=len(places))
        means.append(np.mean([spearman(cell.change[drawn], cell.similarity[drawn]) for cell in cells]))
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return Interval(float(low), float(high))


# -- prediction --------------------------------------------------------------------------------------------------------


def held_out_rho(
    cells: Sequence[Cell], features: Mapping[tuple[str, str], Float[np.ndarray, "persona feature"]]
) -> list[float] | None:
    """For each cell, rho of its changes with predictions from cells of other sources *and* other behaviours.

    `features` has similarities of every persona to a source, by behaviour and source. A linear model of ranks within
    cells is fitted; there is None where there are too few behaviours or sources to hold any out, and NaN for a cell
    that leaves none of the others to learn from.
    """
    behaviours, sources = {cell.behaviour for cell in cells}, {cell.source for cell in cells}
    if len(behaviours) < LEAST_BEHAVIOURS or len(sources) < LEAST_SOURCES:
        return None
    ranked = [_ranked(cell, features[cell.behaviour, cell.source]) for cell in cells]
    found = []
    for cell, (x, y) in zip(cells, ranked, strict=True):
        others = [
            own
            for other, own in zip(cells, ranked, strict=True)
            if other.behaviour != cell.behaviour and other.source != cell.source
        ]
        if not others:
            found.append(float("nan"))
            continue
        weights = np.linalg.lstsq(
            np.concatenate([one for one, _ in others]), np.concatenate([one for _, one in others]), rcond=None
        )[0]
        found.append(spearman(x @ weights, y))
    return found


def _ranked(
    cell: Cell, features: Float[np.ndarray, "persona feature"]
) -> tuple[Float[np.ndarray, "n feature"], Float[np.ndarray, " n"]]:
    """Centred ranks within a cell, between -0.5 and 0.5."""
    there = cell.there & ~np.isnan(features).any(axis=1)
    n = int(there.sum())
    x = np.column_stack([rankdata(column[there]) for column in features.T])
    return (x - (n + 1) / 2) / n, (rankdata(cell.change[there]) - (n + 1) / 2) / n


def outliers(cell: Cell, *, names: Sequence[str], limit: float = 3.0) -> list[str]:
    """Bystanders whose change lies more than `limit` robust standard deviations from the median."""
    values = np.where(cell.there, cell.change, np.nan)
    middle = np.nanmedian(values)
    spread = 1.4826 * np.nanmedian(np.abs(values - middle))
    if not spread > 0:
        return []
    return [name for name, value in zip(names, values, strict=True) if abs(value - middle) > limit * spread]
