"""A probe that says whether a prompt's last sentence is about what stands before it, read from the residual stream.

Relevant prompts are those of a set of relevant affect, self-reports among them ("I lost my keys. I feel": whatever
happens to a speaker bears on how the speaker feels). Irrelevant ones are the same injections and stems in other pairs
(:mod:`leakmech.datasets.relation`), without self-reports, and AEXL samples. In every layer a logistic regression tells
them apart,

    relevance(x) = w . x,    w = coefficients / standard deviations, scaled to length 1,

with x the mean over the stem's tokens (which must be told what the stem is) or the prompt's last token (told nothing)
and L2 strength fixed beforehand. The layer is chosen by the AUC on samples held out from the fit; thresholds are
quantiles of the relevance of held-out *irrelevant* prompts: a prompt counts as relevant if it lies above. Nothing is
fitted on samples on which a mitigation is judged.

A probe is fitted on prompts with a sentence before their stem. For how many *control* prompts it fires is told beside.

What a layer can know of *relevance* is told by a narrower AUC beside it: held-out relevant prompts against exchanged
ones. They have the same emotional sentences and the same stems, in other pairs. Where it is near .5, nothing that is
gated by this layer can take affect out that is irrelevant and leave what is relevant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from leakmech.core.errors import DatasetError
from leakmech.datasets.relation import SELF_REPORT, mismatched
from leakmech.datasets.samples import POLARITIES, Condition, PromptSet
from leakmech.interventions.base import Probe
from leakmech.mechanism.activations.cache import cache_activations
from leakmech.models.load import LoadedModel
from leakmech.scoring.statistics import auc
from leakmech.studies.mitigation.catalogue import CAUGHT

REGULARISATION = 0.003
"""C of the logistic regressions; activations are standardised first."""
_DEEPEST = 0.7
"""Layers beyond this share of the depth are left out: there must be layers left to act in."""

Rows = Float[np.ndarray, "rows layers d_model"]
ReadAt = Literal["stem", "last_prompt"]
_CACHED: dict[ReadAt, str] = {"stem": "stem_mean", "last_prompt": "last_prompt"}


@dataclass(frozen=True, eq=False)
class RelationProbe:
    """A fitted probe, which reads ``resid_post`` of `layer`."""

    layer: int
    vector: torch.Tensor
    """Unit vector, shape (d_model,), float32."""
    irrelevant: Float[np.ndarray, " n"]
    """Projections of held-out irrelevant prompts."""
    relevant: Float[np.ndarray, " m"]
    """Projections of held-out relevant prompts."""
    auc_by_layer: dict[int, float]
    """AUC of each layer's vector on held-out prompts."""
    same_sentences_by_layer: dict[int, float] = field(default_factory=dict)
    """The same for relevant prompts against their exchanged counterparts only, without self-reports."""
    n_stems: int = 0
    """Stems of that comparison, each of which stands on both sides."""
    position: ReadAt = "stem"
    """What is read: the mean over the stem, or the prompt's last token."""
    controls: Float[np.ndarray, " k"] = field(default_factory=lambda: np.zeros(0))
    """Projections of held-out control prompts, of which nothing was fitted."""

    @property
    def auc(self) -> float:
        """AUC on held-out prompts of the layer that was chosen on them."""
        return self.auc_by_layer[self.layer]

    def probe(self, caught: float) -> Probe:
        """A probe that fires for irrelevant prompts: for the share `caught` of the held-out ones.

        It is read ahead: in the layers below it, what a stem's tokens take from the injection would stay.
        """
        threshold = float(np.quantile(self.irrelevant, caught))
        return Probe(
            vector=self.vector, layer=self.layer, threshold=threshold, position=self.position, fires="below", ahead=True
        )

    def kept(self, caught: float) -> float:
        """Share of held-out relevant prompts for which :meth:`probe` does not fire."""
        return self._above(self.relevant, caught)

    def kept_controls(self, caught: float) -> float:
        """The same for held-out control prompts; NaN if there are none."""
        return self._above(self.controls, caught) if len(self.controls) else math.nan

    def _above(self, projections: Float[np.ndarray, " n"], caught: float) -> float:
        return float((projections > np.quantile(self.irrelevant, caught)).mean())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "layer": self.layer,
            "position": self.position,
            "auc": self.auc,
            "auc_by_layer": {str(layer): value for layer, value in self.auc_by_layer.items()},
            "same_sentences_by_layer": {str(layer): value for layer, value in self.same_sentences_by_layer.items()},
            "n_stems": self.n_stems,
            "n_relevant": len(self.relevant),
            "n_irrelevant": len(self.irrelevant),
            "n_controls": len(self.controls),
            "by_caught": {
                str(caught): {"relevant_kept": self.kept(caught), "controls_kept": self.kept_controls(caught)}
                for caught in CAUGHT
            },
        }


def fit_relation_probe(
    model: LoadedModel,
    relevant: PromptSet,
    *,
    irrelevant_fit: PromptSet,
    irrelevant_tune: PromptSet,
    pairings: int = 1,
    position: ReadAt = "stem",
    seed: int = 0,
    **prompting: Any,
) -> RelationProbe:
    """Fit a probe of relevance on samples marked ``fit``, and choose its layer on those marked ``tune``.

    `relevant` have themes (``relevant-fit``); stems are paired `pairings` times with injections of other themes. The
    stream is read at `position`.
    `prompting` goes to :func:`leakmech.cache_activations`.
    """
    last = round(_DEEPEST * int(model.model.config.get_text_config().num_hidden_layers))
    layers, read_at = range(1, last), _CACHED[position]

    def read(samples: PromptSet, conditions: Sequence[Condition] = POLARITIES) -> Rows:
        if not len(samples):
            raise DatasetError(f"{samples.name}: no samples to fit a probe of relevance on")
        cache = cache_activations(
            model, samples, layers=list(layers), positions=[read_at], conditions=conditions, **prompting
        )["resid_post"]
        return np.concatenate([cache.matrix(condition=c, position=read_at) for c in conditions]).astype(np.float32)

    exchanged = [mismatched(relevant, seed=seed + number) for number in range(pairings)]
    found: dict[str, tuple[Rows, Rows]] = {}
    for split, leaking in (("fit", irrelevant_fit), ("tune", irrelevant_tune)):
        others = [read(samples.split(split)) for samples in exchanged]
        found[split] = read(relevant.split(split)), np.concatenate([*others, read(leaking)])
    fits = [relevance_vector(*(side[:, i] for side in found["fit"])) for i in range(len(layers))]
    held_out = [[side[:, i] @ vector for side in found["tune"]] for i, vector in enumerate(fits)]
    aucs = {layer: float(auc(*sides)) for layer, sides in zip(layers, held_out, strict=True)}
    best = max(aucs, key=lambda layer: aucs[layer])
    related, unrelated = held_out[layers.index(best)]
    own = [sample.note != SELF_REPORT for sample in relevant.split("tune")]
    ordinary, n_exchanged = np.tile(own, len(POLARITIES)), pairings * sum(own) * len(POLARITIES)
    same = {
        layer: float(auc(one[ordinary], other[:n_exchanged]))
        for layer, (one, other) in zip(layers, held_out, strict=True)
    }
    bare = read(irrelevant_tune, ("control",))[:, layers.index(best)] @ fits[layers.index(best)]
    vector = torch.from_numpy(fits[layers.index(best)])
    return RelationProbe(best, vector, unrelated, related, aucs, same, sum(own), position, bare)


def relevance_vector(
    relevant: Float[np.ndarray, "n d"], irrelevant: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, " d"]:
    """Unit vector along which a logistic regression tells relevant prompts from irrelevant ones."""
    points = np.concatenate([relevant, irrelevant])
    labels = np.r_[np.ones(len(relevant)), np.zeros(len(irrelevant))]
    scaler = StandardScaler().fit(points)
    model = LogisticRegression(C=REGULARISATION, class_weight="balanced", max_iter=500, tol=1e-3)
    weights = model.fit(scaler.transform(points), labels).coef_[0] / scaler.scale_
    return (weights / np.linalg.norm(weights)).astype(np.float32)
