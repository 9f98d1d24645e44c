"""How samples of relevant affect become the two sides of what an adapter is to tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float

from leakmech.datasets.clear_pairs import Encode, clearly_irrelevant, clearly_relevant
from leakmech.datasets.relation import mismatched
from leakmech.datasets.samples import PromptSet
from leakmech.scoring.semantic import load_encoder
from leakmech.training.settings import ClearPairs, LoraTrainingConfig


@dataclass(frozen=True)
class Pairing:
    """Pairs of injections and stems.

    Attributes
    ----------
    clear
        Bounds for pairs that leave no doubt (:mod:`leakmech.datasets.clear_pairs`); None: all pairs.
    seed
        Of who gets whose injections.
    """

    clear: ClearPairs | None = None
    seed: int = 0

    @classmethod
    def of(cls, config: LoraTrainingConfig) -> Pairing:
        """The one that is configured."""
        return cls(config.clear_pairs, config.seed)

    def relevant(self, samples: PromptSet) -> PromptSet:
        """The samples whose injections should show; raises as :func:`leakmech.datasets.clear_pairs.clearly_relevant`."""
        if self.clear is None:
            return samples
        return clearly_relevant(samples, _encode(self.clear.encoder), least=self.clear.relevant)

    def irrelevant(self, samples: PromptSet, *, number: int = 0) -> PromptSet:
        """Stems that :meth:`relevant` keeps, with injections of other samples; another `number` gives other pairs.

        Raises
        ------
        DatasetError
            See :func:`leakmech.datasets.relation.mismatched` and :mod:`leakmech.datasets.clear_pairs`.
        """
        seed = self.seed + number
        if self.clear is None:
            return mismatched(samples, seed=seed)
        encode, most = _encode(self.clear.encoder), self.clear.irrelevant
        return clearly_irrelevant(self.relevant(samples), samples, encode, most=most, seed=seed)


@cache
def _encode(name: str) -> Encode:
    """A sentence encoder that reads a text once, however often it is asked."""
    encoder, known = load_encoder(name), {}

    def encode(texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, encoder(new) if new else (), strict=True))
        return np.stack([known[text] for text in texts])

    return encode
