"""Directions of affect of a model, from data sets: activations, fits, and their quality, in one call.

*Read* affect: activations at the last token of prompts with a positive and a negative injection.

*Expressed* affect: mean activations over the tokens of sentences that the model itself wrote. Of a sample's own
continuations (:mod:`leakmech.mechanism.behaviour`) the estimator picks the most positive and the most negative one;
both are read after the *control* prompt, so that what differs is what is said, and not which injection was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leakmech.core.errors import ConfigError, DatasetError, DirectionError, nearest
from leakmech.core.progress import Progress, Shown, no_progress, shown_progress
from leakmech.core.seeds import numpy_generator
from leakmech.datasets.samples import CONDITIONS, PromptSet, load_dataset
from leakmech.mechanism.activations.cache import cache_activations
from leakmech.mechanism.attribution.interchange import PromptInterchange
from leakmech.mechanism.behaviour import POLARITIES, sample_behaviour
from leakmech.mechanism.directions.data import SPLITS, DirectionKind, SiteActivations, refuse_shared
from leakmech.mechanism.directions.direction import FittedDirections, fit_directions
from leakmech.mechanism.directions.fits import DEFAULT_METHODS, METHODS
from leakmech.mechanism.directions.quality import Criterion
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import Prompting, Renderer
from leakmech.scoring.expression import Estimator, load_estimator
from leakmech.scoring.leakage import valence_of

TUNE_SHARE = 0.4
_LEAST_DIFFERENCE = 1e-9
"""Of valence, between what is read as positive and as negative."""
KINDS: tuple[DirectionKind, ...] = ("read", "expressed")


def sentiment_directions(
    model: LoadedModel,
    *,
    fit: str | Path | PromptSet,
    test: str | Path | PromptSet,
    tune: str | Path | PromptSet | None = None,
    kind: DirectionKind = "read",
    site: Literal["resid_pre", "resid_mid", "resid_post"] = "resid_post",
    layers: Sequence[int] | None = None,
    methods: Sequence[str] = DEFAULT_METHODS,
    criterion: Criterion = "auc",
    estimator: str | Estimator = "embedded",
    prompting: Prompting = Prompting(),
    batch_size: int | str = "auto",
    seed: int = 0,
    progress: Shown = None,
) -> FittedDirections:
    """Fit directions on `fit`, choose layer and method on `tune`, report them on `test`.

    ``sentiment_directions(model, fit="aexl_fit.jsonl", test="hexl").chosen`` is the best one.

    Parameters
    ----------
    model
        A model as :func:`leakmech.load_model` returns it.
    fit, tune, test
        Samples, or names or files of data sets. Without `tune`, samples of `fit` that are marked ``tune`` are taken
        out for it, or (where none is marked) a random 40 % of them.
    kind
        ``read`` or ``expressed``; see the head of this module.
    site, layers
        Site in the residual stream and its layers, counted from 0; None takes all layers. (Before the first layer the
        last token of a prompt has not seen the injection, so None leaves ``resid_pre`` of layer 0 out.)
    methods, criterion
        Names of methods, and the number on `tune` that chooses among their fits; see
        :mod:`leakmech.mechanism.directions.fits` and :mod:`leakmech.mechanism.directions.quality`. ``das`` runs the
        model hundreds of times a layer.
    estimator
        Expression estimator, or its name, that says which continuation is positive; for ``expressed``.
    seed
        Seed of fits, baselines, bootstrap and continuations.
    prompting, batch_size, progress
        As for :func:`leakmech.cache_activations`.

    Returns
    -------
    FittedDirections
        The chosen direction, all fitted ones, and their quality on each split.

    Raises
    ------
    DirectionError
        Splits share samples or are too small, or there is no such method.
    ConfigError, ModelError, ActivationError
        As :func:`leakmech.cache_activations`.
    """
    progress = shown_progress(progress)
    _refuse_unknown(kind, site, methods)
    splits = split_samples(load_dataset(fit), tune=None if tune is None else load_dataset(tune), seed=seed)
    splits["test"] = load_dataset(test)
    refuse_shared({split: [sample.id for sample in splits[split]] for split in SPLITS})
    renderer = Renderer(model.tokenizer, prompting)
    reader = ActivationReader(
        model, renderer, site=site, layers=layers, batch_size=batch_size, seed=seed, progress=progress
    )
    if kind == "read":
        activations = {name: reader.read(samples) for name, samples in splits.items()}
    else:
        judge = load_estimator(estimator) if isinstance(estimator, str) else estimator
        activations = {name: reader.expressed(samples, judge) for name, samples in splits.items()}
    return fit_directions(
        *(activations[split] for split in SPLITS),
        methods=methods,
        criterion=criterion,
        interchange=PromptInterchange(model, splits["fit"], renderer=renderer) if "das" in methods else None,
        seed=seed,
        progress=progress,
    )


def _refuse_unknown(kind: str, site: str, methods: Sequence[str]) -> None:
    """Refuse kinds and methods that do not exist, or not there, before the model is run."""
    if kind not in KINDS:
        raise ConfigError(f"kind {kind!r}{nearest(kind, KINDS)}")
    for method in methods:
        METHODS.find(method)
    if "das" in methods and (kind, site) != ("read", "resid_post"):
        raise ConfigError("method 'das' interchanges resid_post at the last token: use kind 'read' there")


def split_samples(samples: PromptSet, *, tune: PromptSet | None, seed: int) -> dict[str, PromptSet]:
    """Part samples into those to ``fit`` on and those to ``tune`` on; None for `tune` takes them out of `samples`."""
    rest = [sample for sample in samples if sample.split not in ("tune", "test")]
    if tune is None:
        marked = tuple(sample for sample in samples if sample.split == "tune")
        if not marked:
            order = numpy_generator("tune split", seed).permutation(len(rest))
            taken = set(order[: round(TUNE_SHARE * len(rest))].tolist())
            marked = tuple(sample for place, sample in enumerate(rest) if place in taken)
            rest = [sample for place, sample in enumerate(rest) if place not in taken]
        tune = PromptSet(f"{samples.name} (tune)", marked)
    if not rest:
        raise DatasetError(
            f"{samples.name}: has no samples to fit on (all are marked tune or test); give another --fit"
        )
    return {"fit": PromptSet(samples.name, tuple(rest)), "tune": tune}


@dataclass(frozen=True, eq=False)
class ActivationReader:
    """Activations of one site in the form that directions are fitted on."""

    model: LoadedModel
    renderer: Renderer
    site: str
    layers: Sequence[int] | None = None
    batch_size: int | str = "auto"
    seed: int = 0
    progress: Progress = no_progress

    def read(self, samples: PromptSet) -> SiteActivations:
        """Read all conditions at the last token of the prompt."""
        cache = cache_activations(self.model, samples, positions=["last_prompt"], conditions=CONDITIONS, **self._how())
        of_site = cache[self.site]
        values = {c: of_site.matrix(condition=c, position="last_prompt") for c in CONDITIONS}
        return SiteActivations(
            of_site.samples,
            of_site.layers,
            **values,
            site=self.site,
            position="last_prompt",
            kind="read",
            model_hash=of_site.model_hash,
            data_hash=of_site.dataset_hash,
        )

    def expressed(self, samples: PromptSet, judge: Estimator) -> SiteActivations:
        """Read the model's own most positive and most negative sentence after the control prompt."""
        own = sample_behaviour(self.model, samples, renderer=self.renderer, seed=self.seed, progress=self.progress)
        said = list(dict.fromkeys(tokens for both in own.values() for kind in both.values() for tokens in kind))
        scores = judge([str(self.model.tokenizer.decode(list(tokens))) for tokens in said])
        glad = dict(zip(said, valence_of(scores), strict=True))
        extremes = _extremes(own, glad)
        if not extremes:
            raise DirectionError(
                f"{samples.name}: the estimator finds no sample with continuations of different valence; give more "
                "samples or another estimator"
            )
        kept = PromptSet(samples.name, tuple(sample for sample in samples if sample.id in extremes))
        sides = []
        for place in (0, 1):
            spoken = {f"{sample}/control": tokens[place] for sample, tokens in extremes.items()}
            cache = cache_activations(
                self.model,
                kept,
                positions=["generated_mean"],
                conditions=["control"],
                continuations=spoken,
                **self._how(),
            )
            sides.append(cache[self.site])
        positive, negative = (side.matrix(condition="control", position="generated_mean") for side in sides)
        return SiteActivations(
            sides[0].samples,
            sides[0].layers,
            positive=positive,
            negative=negative,
            site=self.site,
            position="generated_mean",
            kind="expressed",
            model_hash=sides[0].model_hash,
            data_hash=sides[0].dataset_hash,
        )

    def _how(self) -> dict[str, Any]:
        layers = self.layers
        if layers is None and self.site == "resid_pre":
            layers = range(1, layout_of(self.model.model).n_layers)
        return {
            "sites": [self.site],
            "layers": layers,
            "prompting": self.renderer.prompting,
            "batch_size": self.batch_size,
            "progress": self.progress,
        }


def _extremes(
    own: Mapping[str, Mapping[str, Sequence[tuple[int, ...]]]], glad: Mapping[tuple[int, ...], float]
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The most positive and the most negative continuation of each sample whose continuations differ in valence."""
    found = {}
    for sample, both in own.items():
        texts = {tokens for polarity in POLARITIES for tokens in both[polarity]}
        ends = tuple(end(texts, key=glad.__getitem__) for end in (max, min)) if texts else ()
        if ends and glad[ends[0]] - glad[ends[1]] > _LEAST_DIFFERENCE:
            found[sample] = ends
    return found
