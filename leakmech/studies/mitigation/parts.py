"""What interventions are made of: directions of every layer, ranked components, their means, and a probe of relevance.

All of it comes from a diagnosis and from the samples that it fitted on; the samples that it reports on are not touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import RunDirectoryError
from leakmech.core.progress import Progress, no_progress
from leakmech.core.seeds import numpy_generator
from leakmech.core.store import content_hash
from leakmech.core.tables import read_table
from leakmech.datasets.samples import PromptSet
from leakmech.mechanism.activations.cache import activation_moments
from leakmech.mechanism.activations.means import MEANS_FILE, ComponentMeans, mean_over_tokens
from leakmech.mechanism.directions.data import SiteActivations
from leakmech.mechanism.directions.direction import Direction, make_direction
from leakmech.mechanism.directions.fits import fit_method
from leakmech.mechanism.sentiment import ActivationReader
from leakmech.models.components import Component, ComponentKind
from leakmech.models.layout import Layout, layout_of
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import Prompting, Renderer, ResolvedForm
from leakmech.studies.diagnosis.result import Diagnosis
from leakmech.studies.diagnosis.run import load_splits
from leakmech.studies.diagnosis.settings import DiagnoseConfig
from leakmech.studies.mitigation.focus import Focus, fit_focus
from leakmech.studies.mitigation.late_outputs import LateOutputs, late_outputs
from leakmech.studies.mitigation.late_streams import LateStreams, late_streams
from leakmech.studies.mitigation.relation_probe import ReadAt, RelationProbe, fit_relation_probe
from leakmech.studies.mitigation.residual_direction import ResidualDirections, residual_directions
from leakmech.studies.mitigation.unrelated_map import UnrelatedMaps, unrelated_maps

METHOD = "difference_of_means"
"""How directions are fitted that are taken out: what is left has equal means under both polarities."""

FOCUSED_HEADS = 20
"""Heads whose queries are mapped."""


@dataclass(frozen=True, eq=False)
class FittedParts:
    """Parts of interventions for one model; each is fitted when it is first asked for."""

    loaded: LoadedModel
    """The model that was diagnosed."""
    config: DiagnoseConfig
    """Settings of the diagnosis."""
    path: Path
    """Directory of the diagnosis."""
    relevant: PromptSet
    """Relevant affect to fit on, marked ``fit`` and ``tune``."""
    seed: int = 0
    """Seed of the baselines."""
    progress: Progress = no_progress
    judged_on: tuple[str, ...] = ()
    """Data sets that what is trained must share no text with."""

    @cached_property
    def layout(self) -> Layout:
        return layout_of(self.loaded.model)

    @cached_property
    def splits(self) -> dict[str, PromptSet]:
        """Samples that the diagnosis fitted on (``fit``), chose on (``tune``) and reported on (``test``)."""
        return load_splits(self.config)

    @property
    def _renderer(self) -> Renderer:
        return Renderer(self.loaded.tokenizer, self._prompting)

    @property
    def _prompting(self) -> Prompting:
        return Prompting.of(self.config)

    @property
    def _reading(self) -> dict[str, Any]:
        return {"seed": self.seed, "prompting": self._prompting, "progress": self.progress}

    @property
    def _both_kinds(self) -> dict[str, Any]:
        """Irrelevant affect to fit on and to hold against, beside the relevant one."""
        return {"irrelevant_fit": self.splits["fit"], "irrelevant_tune": self.splits["tune"], **self._reading}

    @property
    def prompt_form(self) -> ResolvedForm:
        """The form of the prompts that everything is fitted on."""
        return self._renderer.resolved_form

    @property
    def source_hash(self) -> str:
        """Hash of all that the parts are fitted on, except the model."""
        c = self.config
        samples = (self.splits["fit"].content_hash, self.splits["tune"].content_hash, self.relevant.content_hash)
        tables = [(self.path / "tables" / f"{name}.csv").read_bytes() for name in ("heads", "neurons")]
        if self._has_means:
            tables.append((self.path / "tables" / MEANS_FILE).read_bytes())
        return content_hash(*samples, c.target, *map(str, (c.prompt_form, c.system, c.instruction)), *tables)

    # -- directions --------------------------------------------------------------------------------------------------

    @cached_property
    def activations(self) -> SiteActivations:
        """Activations at the last token of the prompts to fit on."""
        return ActivationReader(
            self.loaded, self._renderer, site="resid_post", seed=self.seed, progress=self.progress
        ).read(self.splits["fit"])

    @cached_property
    def directions(self) -> list[Direction]:
        """Directions of read affect, one a layer."""
        return self._directions(self.activations)

    @cached_property
    def shuffled_directions(self) -> list[Direction]:
        """The same with the polarities of half of the samples exchanged: a baseline."""
        swap = numpy_generator("shuffled labels", self.seed).permutation(len(self.activations)) % 2 == 0
        return self._directions(self.activations.swapped(swap))

    @staticmethod
    def _directions(activations: SiteActivations) -> list[Direction]:
        fit = fit_method(METHOD, activations)
        return [make_direction(fit, METHOD, layer=layer, activations=activations) for layer in activations.layers]

    def random_vectors(self, n_layers: int, draw: int) -> Float[Tensor, "layer d_model"]:
        """Unit vectors of random direction: a baseline."""
        generator = numpy_generator(f"random directions {draw}", self.seed)
        drawn = generator.standard_normal((n_layers, self.layout.d_model))
        return torch.from_numpy(drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).float()

    @property
    def upper_layers(self) -> range:
        """The upper two thirds of the layers."""
        return range(self.layout.n_layers // 3, self.layout.n_layers)

    # -- components --------------------------------------------------------------------------------------------------

    def top_heads(self, n: int) -> list[Component]:
        """The heads that carry most of the affect shift."""
        return self._ranked("head", n)

    def top_neurons(self, n: int) -> list[Component]:
        """The neurons that carry most of the affect shift."""
        return self._ranked("neuron", n)

    def _ranked(self, kind: ComponentKind, n: int) -> list[Component]:
        frame = read_table(self.path / "tables" / f"{kind}s.csv")
        chosen = (frame["method"] == "attribution_patching") & (frame["target"] == self.config.target)
        if "split" in frame:  # rows of test have the scores of other samples
            chosen &= frame["split"] == "tune"
        rows = frame.loc[chosen].sort_values("rank").head(n)
        return [Component(int(layer), kind, int(part)) for layer, part in zip(rows["layer"], rows[kind], strict=True)]

    def random_like(self, components: Sequence[Component], draw: int) -> list[Component]:
        """Heads or neurons drawn at random, in each layer as many as of `components`: a baseline."""
        kind = components[0].kind
        per_layer = self.layout.n_heads if kind == "head" else self.layout.d_mlp
        generator = numpy_generator(f"random {kind} {draw}", self.seed)
        counts = Counter(component.layer for component in components)
        return [
            Component(layer, kind, int(place))
            for layer, count in sorted(counts.items())
            for place in sorted(generator.choice(per_layer, size=count, replace=False))
        ]

    @property
    def all_heads(self) -> list[Component]:
        places = product(range(self.layout.n_layers), range(self.layout.n_heads))
        return [Component(layer, "head", head) for layer, head in places]

    @property
    def _has_means(self) -> bool:
        return (self.path / "tables" / MEANS_FILE).exists()

    @cached_property
    def _exported(self) -> ComponentMeans:
        return ComponentMeans.load(self.path / "tables")

    @cached_property
    def _means(self) -> dict[Any, Float[Tensor, "layer width"]]:
        """Means over all tokens of control prompts, for diagnoses of versions that did not export means."""
        moments = activation_moments(
            self.loaded,
            self.splits["fit"],
            sites=("z", "mlp_post"),
            positions=("all",),
            conditions=("control",),
            covariance=False,
            prompting=self._prompting,
            progress=self.progress,
        )
        return {site: mean_over_tokens(found, "all") for site, found in moments.items()}

    def means(self, components: Sequence[Component]) -> dict[str, Float[Tensor, "component width"]]:
        """Mean activations of heads (output z) or of neurons (width 1) by class of positions, as edits take them."""
        if self._has_means:
            return self._exported.of(components, self.layout)
        return {"all": torch.stack([self._means[c.site][c.layer, c.features(self.layout)] for c in components])}

    @cached_property
    def late_outputs(self) -> LateOutputs:
        """What heads write at the last token of control prompts and after."""
        return late_outputs(self.loaded, self.splits["fit"], **self._reading)

    @cached_property
    def late_streams(self) -> LateStreams:
        """The stream of the upper layers at the last token of neutral prompts and after."""
        return late_streams(self.loaded, self.splits["fit"], layers=self.upper_layers, **self._reading)

    @cached_property
    def unrelated_maps(self) -> UnrelatedMaps:
        """What attention adds in the upper layers after irrelevant affect, and what of it must stay otherwise."""
        return unrelated_maps(self.loaded, self.relevant, layers=self.upper_layers, **self._both_kinds)

    @cached_property
    def residual_directions(self) -> ResidualDirections:
        """Leak directions of the upper layers without relevant affect."""
        return residual_directions(self.loaded, self.relevant, layers=self.upper_layers, **self._both_kinds)

    @cached_property
    def focus(self) -> Focus:
        """Maps of the queries of the first heads."""
        return fit_focus(self.loaded, self.relevant, self.top_heads(FOCUSED_HEADS), **self._both_kinds)

    # -- relevance ---------------------------------------------------------------------------------------------------

    @cached_property
    def relation_probe(self) -> RelationProbe:
        """The probe that says whether a stem has to do with its injection; it is told which part is the stem."""
        return self._relation_probe("stem")

    @cached_property
    def relation_gate(self) -> RelationProbe:
        """The same, read at the prompt's last token: told nothing."""
        return self._relation_probe("last_prompt")

    def _relation_probe(self, position: ReadAt) -> RelationProbe:
        return fit_relation_probe(self.loaded, self.relevant, position=position, **self._both_kinds)


def load_fitted(
    path: str | Path,
    loaded: LoadedModel,
    *,
    form: ResolvedForm,
    relevant: PromptSet,
    seed: int = 0,
    progress: Progress = no_progress,
    judged_on: Sequence[str] = (),
) -> FittedParts:
    """Parts from the diagnosis in `path`, which must be of this model and prompt form and have samples to choose on."""
    record = Diagnosis.load(path).record
    path = record.path
    if not record.fact("samples").get("tune"):
        raise RunDirectoryError(f"{path}: has no tune split, on which strengths are chosen; diagnose with --tune")
    if record.fact("model").get("base_hash") != loaded.base_hash:
        raise RunDirectoryError(f"{path}: diagnoses another model ({record.fact('model')['name']}) than {loaded.name}")
    config = DiagnoseConfig.parse(record.config, where=f"settings of {path}")
    parts = FittedParts(loaded, config, path, relevant, seed, progress, tuple(judged_on))
    if parts.prompt_form != form:
        raise RunDirectoryError(
            f"{path}: diagnoses prompts in {parts.prompt_form} form, here they are in {form} form; mitigate with "
            f"--prompt-form {parts.prompt_form}, or diagnose again"
        )
    for name in ("fit", "tune"):
        if parts.splits[name].content_hash != record.fingerprint[name]:
            raise RunDirectoryError(f"{path}: the samples of {name} have changed since; diagnose again")
    return parts
