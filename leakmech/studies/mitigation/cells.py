"""Where mitigations meet: one model, the same prompts, the same noise, the same measures for all of them.

A *cell* is one mitigation on one split: benchmark runs on the leakage set and on the sets of relevant affect, and what
it damages. Cells lie in ``cells/<split>/<name>-<hash>/`` of the run directory; the hash covers everything that decides
their numbers, so a finished cell is never measured again and a changed mitigation never gets another one's numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from leakmech.core.progress import Progress, no_progress
from leakmech.core.store import content_hash, slug, write_jsonl
from leakmech.datasets.emotional_requests import load_emotional_requests
from leakmech.datasets.questions import load_questions
from leakmech.datasets.samples import POLARITIES, PromptSet, load_dataset
from leakmech.generation.hf_engine import HFEngine
from leakmech.generation.variants import Change, Continuation, ModelVariant
from leakmech.interventions.applied import Applied
from leakmech.interventions.base import Intervention
from leakmech.interventions.files import load_interventions
from leakmech.interventions.hooks import apply
from leakmech.models.load import LoadedModel, load_adapter
from leakmech.prompts.arrangement import Arrangement
from leakmech.prompts.render import Prompting, Renderer, ResolvedForm
from leakmech.runs.directory import RunDirectory
from leakmech.runs.run import Run
from leakmech.scoring.expression import Estimator, estimator_names, load_estimator
from leakmech.scoring.leakage import LeakageScores
from leakmech.scoring.records import leakage_scores
from leakmech.scoring.semantic import SentenceEncoder, load_encoder
from leakmech.scoring.sentence import Cleaner
from leakmech.side_effects.answers import Answers
from leakmech.side_effects.equivalence import Margins
from leakmech.side_effects.measure import Measurements, Reached, SideEffects, SideEffectSuite
from leakmech.side_effects.requests import RequestAnswers, answer_requests, request_retention
from leakmech.side_effects.selectivity import Pair, leakage_reduction, retention, selectivity
from leakmech.side_effects.speed import run_seconds
from leakmech.side_effects.texts import neutral_continuations, plain_ids, prompt_continuations
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.benchmark.settings import BenchConfig
from leakmech.studies.mitigation.mitigation import Mitigation, bench_under
from leakmech.studies.mitigation.reach import MEASURED_ON, changes_the_model, out_of_reach

BASE = Mitigation("base", "base", note="the model as it is")

_IN_PLAIN_FORM = "answers as they are tokenised after their stem; requests and questions in chat form"
"""How side effects are measured where prompts are plain texts; older cells were measured otherwise, and not by this."""


@dataclass(frozen=True, eq=False)
class Cells:
    """What all mitigations of a comparison share; it is kept in the run directory `files`."""

    loaded: LoadedModel
    """The base model."""
    config: BenchConfig
    """The benchmark on the leakage set."""
    relevant: tuple[str, ...]
    """Data sets of relevant affect, the headline first."""
    files: RunDirectory
    split: str = "test"
    """``tune`` or ``test``: a name for tables and folders."""
    margins: Margins = field(default_factory=Margins)
    """Margins within which a side effect counts as none."""
    damage: bool = True
    """Whether side effects are measured (fluency always is), and direct requests for emotional text."""
    arrangements: tuple[Arrangement, ...] = ()
    """Other arrangements of the leakage set (``after``, ``middle``, …), in which leakage is measured as well."""
    draws: int = 2_000
    """Bootstrap resamples."""
    progress: Progress = no_progress

    # -- cells ---------------------------------------------------------------------------------------------------

    def key(self, mitigation: Mitigation) -> str:
        """Hash of everything that decides the numbers of a cell."""
        return content_hash(*self._terms, mitigation.identity)

    @cached_property
    def _terms(self) -> tuple[str, ...]:
        """What decides the numbers of all cells: model, settings, margins and data sets."""
        settings = {**self.config.identity(), "relevant": self.relevant, "damage": self.damage, "draws": self.draws}
        settings |= {"arrangements": self.arrangements} if self.arrangements else {}
        settings |= {"decoding": self.config.decoding.resolved(self.loaded.model).to_dict()}
        settings |= {"side_effects": _IN_PLAIN_FORM} if self.prompt_form == "plain" else {}
        sets = [load_dataset(name).content_hash for name in (self.config.dataset, *self.relevant)]
        described = json.dumps(settings, sort_keys=True), json.dumps(self.margins.to_dict())
        return (self.loaded.weights_hash, *described, *sets)

    def cell(self, mitigation: Mitigation) -> str:
        """Name of a cell: its split, its mitigation, and a hash of everything that decides its numbers."""
        return f"{self.split}/{slug(mitigation.name)}-{self.key(mitigation)[:8]}"

    def folder(self, mitigation: Mitigation) -> Path:
        """The folder of a cell."""
        return self.files.cell(self.cell(mitigation))

    def bench(self, mitigation: Mitigation, dataset: str) -> BenchResult:
        """The benchmark under a mitigation on one of the sets; continued or read if it is there."""
        config, leakage = self.config, dataset == self.config.dataset
        if not leakage:  # of relevant affect, where the shift between the polarities is all that counts
            config = config.model_copy(update={"dataset": dataset, "limit": None, "conditions": POLARITIES})
        out = self.folder(mitigation) / slug(Path(dataset).stem)
        return bench_under(mitigation, config, model=self.loaded, out=out, topic=leakage, progress=self.progress)

    def arranged(self, mitigation: Mitigation, arrangement: Arrangement) -> BenchResult:
        """The benchmark under a mitigation on the leakage set in another arrangement."""
        config = self.config.model_copy(update={"arrangement": arrangement})
        out = self.folder(mitigation) / f"{slug(Path(config.dataset).stem)}-{arrangement}"
        return bench_under(mitigation, config, model=self.loaded, out=out, progress=self.progress)

    def row(self, run: Run, mitigation: Mitigation) -> dict[str, Any]:
        """All numbers of a cell, flat; they are measured if they are not there yet."""
        return run.cell(self.cell(mitigation), lambda: self._measure(mitigation))

    def scores(self, mitigation: Mitigation, dataset: str | None = None) -> LeakageScores:
        """Scores on one of the sets; the leakage set by default."""
        result = self.bench(mitigation, dataset or self.config.dataset)
        return leakage_scores(result.scores, self.config.cleaning)

    # -- measuring -----------------------------------------------------------------------------------------------

    def _measure(self, mitigation: Mitigation) -> dict[str, Any]:
        result = self.bench(mitigation, self.config.dataset)
        overall = result.summary["overall"]
        row: dict[str, Any] = {
            "name": mitigation.name,
            "kind": mitigation.kind,
            "split": self.split,
            "auc_el": overall["auc_el"],
            "auc_el_low": overall["auc_el_ci"][0],
            "auc_el_high": overall["auc_el_ci"][1],
            **_contrast_columns(overall),
            "valence_shift": overall["valence_shift"],
            **{f"auc_el_{polarity}": result.summary["conditions"][polarity]["auc_el"] for polarity in POLARITIES},
            **_topic_columns(overall),
            "note": mitigation.note,
        }
        effects = self._effects(mitigation, result)
        row |= self._parts(mitigation, effects)
        row |= self._arrangements(mitigation)
        row |= self._damage(effects)
        if self.damage:
            row |= self._requests(mitigation)
            row["not_applicable"] = ", ".join(out_of_reach(mitigation))
        seconds = run_seconds(self.bench(BASE, self.config.dataset).summary), run_seconds(result.summary)
        row["speed_ratio"] = _number(seconds[0] / seconds[1])
        return row

    def _parts(self, mitigation: Mitigation, effects: SideEffects) -> dict[str, Any]:
        """Leakage reduction, retention on every set, fluency and selectivity."""
        options = {"seed": self.config.seed, "draws": self.draws}
        leakage = Pair(self.scores(BASE), self.scores(mitigation))
        headline, *others = (
            (name, Pair(self.scores(BASE, name), self.scores(mitigation, name))) for name in self.relevant
        )
        quality = effects.quality
        if quality is None:
            raise AssertionError("quality is always measured")
        row = selectivity(leakage, headline[1], quality, **options).to_dict()
        for name, pair in others:
            found = retention(pair, **options)
            ends = {"": found.value, "_low": found.low, "_high": found.high}
            row |= {f"retention_{slug(Path(name).stem)}{end}": value for end, value in ends.items()}
        for name in self.relevant:
            overall = self.bench(mitigation, name).summary["overall"]
            row[f"valence_shift_{slug(Path(name).stem)}"] = overall["valence_shift"]
        return {key: _number(value) for key, value in row.items()}

    def _arrangements(self, mitigation: Mitigation) -> dict[str, Any]:
        """Leakage with injections elsewhere."""
        row: dict[str, Any] = {}
        for arrangement in self.arrangements:
            base, changed = (self.arranged(one, arrangement) for one in (BASE, mitigation))
            scores = Pair(*(leakage_scores(result.scores, self.config.cleaning) for result in (base, changed)))
            overall, options = changed.summary["overall"], {"seed": self.config.seed, "draws": self.draws}
            row[f"valence_shift_{arrangement}"] = _number(overall["valence_shift"])
            free = overall.get("topic_free") or {}
            row[f"topic_free_valence_shift_{arrangement}"] = _number(free.get("valence_shift"))
            if arrangement != "opposed":  # where there is only the shift
                row[f"auc_el_{arrangement}"] = _number(overall["auc_el"])
                row[f"leakage_reduction_{arrangement}"] = _number(leakage_reduction(scores, **options).value)
        return row

    def _requests(self, mitigation: Mitigation) -> dict[str, Any]:
        """Retention on direct requests for emotional text; nothing where the mitigation cannot act on them."""
        if "retention_requests" in out_of_reach(mitigation):
            return {}
        answers = self._answer(mitigation)
        found = request_retention(self.base_requests, answers, seed=self.config.seed, draws=self.draws)
        ends = {"": found.value, "_low": found.low, "_high": found.high}
        rows = ({"id": name, "answers": list(texts)} for name, texts in zip(answers.ids, answers.texts, strict=True))
        write_jsonl(self.folder(mitigation) / "requests.jsonl", rows)
        return {f"retention_requests{end}": _number(value) for end, value in ends.items()}

    @cached_property
    def base_requests(self) -> RequestAnswers:
        return self._answer(BASE)

    def _answer(self, mitigation: Mitigation) -> RequestAnswers:
        config = mitigation.configure(self.config)
        decoding = config.decoding.resolved(self.loaded.model)
        loaded, interventions = self._changed_model(mitigation)
        with mitigation.around(loaded.model), apply(loaded.model, interventions) as applied:
            return answer_requests(
                HFEngine.of(loaded),
                load_emotional_requests(),
                renderer=self._renderer(mitigation),
                estimator=self.estimator,
                generations=config.generations,
                decoding=decoding,
                cleaner=Cleaner(config.echo_similarity),
                cleaning=config.cleaning,
                applied=applied,
                seed=config.seed,
            )

    @cached_property
    def estimator(self) -> Estimator:
        """The estimator of the headline."""
        return load_estimator(estimator_names(self.config.estimator)[0], encoder=self.encoder)

    @cached_property
    def encoder(self) -> SentenceEncoder:
        return load_encoder(self.config.encoder)

    def _effects(self, mitigation: Mitigation, result: BenchResult) -> SideEffects:
        answers = Answers.of_run(result)
        if not self.damage:
            return SideEffects(
                (), self.margins, Measurements(), quality=self.suite.quality(answers, progress=self.progress)
            )
        changed = self._variant(mitigation) if changes_the_model(mitigation) else None
        renderer = self._renderer(mitigation) if "instruction" in mitigation.settings else None
        missed = out_of_reach(mitigation)
        reached: list[Reached] = [name for name, column in MEASURED_ON.items() if column not in missed]
        return self.suite.measure(changed, answers, renderer=renderer, reached=reached, progress=self.progress)

    @staticmethod
    def _damage(effects: SideEffects) -> dict[str, Any]:
        """The columns of ``tables/mitigations.csv``, and everything else under its own name; None: not measured."""
        found = {effect.name: effect for effect in effects.effects}
        headline = {"kl": "kl", "perplexity_ratio": "perplexity_neutral", "capability": "capability"}
        row: dict[str, Any] = dict.fromkeys(headline)
        for column, name in headline.items():
            if name in found:
                effect = found[name]
                row[column] = _number(effect.changed if column == "capability" else effect.effect)
        for name, effect in found.items():
            row |= {
                f"{name}_effect": _number(effect.effect),
                f"{name}_low": _number(effect.low),
                f"{name}_high": _number(effect.high),
                f"{name}_verdict": effect.verdict,
            }
        row["damaged"] = ", ".join(effects.damaged)
        return row

    # -- what side effects are measured with ---------------------------------------------------------------------

    @cached_property
    def samples(self) -> PromptSet:
        """The leakage set."""
        return load_dataset(self.config.dataset).take(self.config.limit)

    @cached_property
    def suite(self) -> SideEffectSuite:
        """Measures of generations, and of the model itself if damage is measured."""
        renderer = self._renderer(BASE)
        return SideEffectSuite(
            base=ModelVariant(self.loaded),
            renderer=renderer,
            samples=self.samples,
            base_answers=Answers.of_run(self.bench(BASE, self.config.dataset)),
            controls=self._controls(renderer) if self.damage else (),
            neutral=neutral_continuations(renderer.tokenizer) if self.damage else (),
            questions=load_questions() if self.damage else (),
            encoder=self.encoder,
            margins=self.margins,
            seed=self.config.seed,
            draws=self.draws,
        )

    def _controls(self, renderer: Renderer) -> list[Continuation]:
        """The base model's first control generation of every sample, after its prompt."""
        prompts = {sample.id: renderer.prompt(sample, "control") for sample in self.samples}
        tokens = {}
        for record in self.bench(BASE, self.config.dataset).files.generations():
            if record["condition"] == "control" and record["generation"] == 0:
                tokens[record["prompt_id"]] = plain_ids(renderer.tokenizer, record["text"])
        return prompt_continuations(prompts.values(), renderer, tokens=tokens)

    def _renderer(self, mitigation: Mitigation) -> Renderer:
        return Renderer(self.loaded.tokenizer, Prompting.of(mitigation.configure(self.config)))

    @property
    def prompt_form(self) -> ResolvedForm:
        """The form of the prompts; requests and questions are put in chat form wherever there is a template."""
        return self._renderer(BASE).resolved_form

    def _variant(self, mitigation: Mitigation) -> ModelVariant:
        """The model as the mitigation changes its forward pass."""
        loaded, interventions = self._changed_model(mitigation)
        return ModelVariant(loaded, _change(loaded, mitigation, interventions))

    def _changed_model(self, mitigation: Mitigation) -> tuple[LoadedModel, tuple[Intervention, ...]]:
        """The model with the mitigation's adapter, and the interventions that it runs under."""
        config = mitigation.configure(self.config)
        loaded = load_adapter(self.loaded, config.adapter) if config.adapter else self.loaded
        interventions = mitigation.interventions
        if config.intervention and not interventions:
            interventions = load_interventions(config.intervention)
        return loaded, interventions


def _contrast_columns(overall: Mapping[str, Any]) -> dict[str, Any]:
    """Own-label minus wrong-label EL with its interval; None in a benchmark of an older version."""
    low, high = overall.get("contrast_ci") or (None, None)
    return {"contrast": overall.get("contrast"), "contrast_low": low, "contrast_high": high}


def _topic_columns(overall: Mapping[str, Any]) -> dict[str, Any]:
    """How many answers are about the injection, and the leakage of the others; None if topic is not told."""
    free = overall.get("topic_free") or {}
    names = ("auc_el", "contrast", "valence_shift", "d_z")
    return {"topic_rate": overall.get("topic_rate"), **{f"topic_free_{name}": free.get(name) for name in names}}


def _change(loaded: LoadedModel, mitigation: Mitigation, interventions: tuple[Intervention, ...]) -> Change | None:
    if not interventions and mitigation.hook is None:
        return None

    @contextmanager
    def change() -> Iterator[Applied]:
        with mitigation.around(loaded.model), apply(loaded.model, interventions) as applied:
            yield applied

    return change


def _number(value: Any) -> Any:
    """`value`, or None for NaN, which JSON does not know."""
    return None if isinstance(value, float) and value != value else value
