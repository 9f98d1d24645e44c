"""Where mitigations meet: one model, the same prompts, the same noise, the same measures for all of them.

A *cell* is one mitigation on one split: benchmark runs on the leakage set and on the sets of relevant affect, and what
it damages. Cells lie in ``cells/<split>/<name>-<hash>/`` of the run directory; the hash covers everything that decides
their numbers, so a finished cell is never measured again and a changed mitigation never gets another one's numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.progress import Progress, no_progress
from leakmech.core.store import content_hash, slug, write_jsonl
from leakmech.datasets.facts import Fact
from leakmech.datasets.questions import load_questions
from leakmech.datasets.samples import POLARITIES, Condition, PromptSet, load_dataset
from leakmech.generation.variants import ModelVariant
from leakmech.models.load import LoadedModel
from leakmech.prompts.arrangement import Arrangement
from leakmech.prompts.render import Prompting, Renderer, ResolvedForm
from leakmech.runs.directory import RunDirectory
from leakmech.runs.run import Run
from leakmech.scoring.expression import Estimator, estimator_names, load_estimator
from leakmech.scoring.leakage import LeakageScores, main_ratios
from leakmech.scoring.records import leakage_scores
from leakmech.scoring.semantic import SentenceEncoder, load_encoder
from leakmech.side_effects.answers import Answers
from leakmech.side_effects.capability import Capability
from leakmech.side_effects.equivalence import Margins
from leakmech.side_effects.facts import CHANCE, no_better_than_chance
from leakmech.side_effects.fluency import AnswerQuality, fluency
from leakmech.side_effects.measure import Measurements, Reached, SideEffects, SideEffectSuite
from leakmech.side_effects.requests import RequestAnswers, request_retention
from leakmech.side_effects.selectivity import (
    Pair,
    clipped,
    flat,
    fluency_part,
    leakage_reduction,
    reduction_part,
    retention,
    selectivity,
    shift_part,
)
from leakmech.side_effects.speed import run_seconds
from leakmech.side_effects.texts import control_continuations, neutral_continuations
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.benchmark.settings import BenchConfig
from leakmech.studies.mitigation.changed import requests_under, variant_under
from leakmech.studies.mitigation.charges import charges, facts_under, removals
from leakmech.studies.mitigation.columns import (
    damage_columns,
    leakage_columns,
    number_or_none,
    tilt_columns,
)
from leakmech.studies.mitigation.expected import expected, in_words
from leakmech.studies.mitigation.mitigation import Mitigation, bench_under
from leakmech.studies.mitigation.pooled import pooled_answers, pooled_frame, pooled_summary
from leakmech.studies.mitigation.prompting import ORACLE
from leakmech.studies.mitigation.reach import MEASURED_ON, changes_the_model, out_of_reach
from leakmech.studies.mitigation.sample_sets import set_folder

TABLE_VERSION = 2
"""Of ``tables/mitigations.csv``; since 2 selectivity charges all of :mod:`leakmech.studies.mitigation.charges`."""
ARRANGED_CONDITIONS: tuple[Condition, ...] = ("control", *POLARITIES)
"""Of the prompts of other arrangements: what leakage and its removal are computed from."""
BASE = Mitigation("base", "base", note="the model as it is")

_IN_PLAIN_FORM = "answers as they are tokenised after their stem; requests and questions in chat form"
"""How side effects are measured where prompts are plain texts; older cells were measured otherwise, and not by this."""
_FLUENCY = "against answers with and without the injection"
"""How fluency is charged; older cells of version 2 were charged against the first alone, and not by this."""


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
    """Other arrangements of the leakage set, in which :mod:`leakmech.studies.mitigation.arranged` measures leakage."""
    facts: tuple[Fact, ...] = ()
    """Facts that the model is asked for."""
    version: int = TABLE_VERSION
    """What a row holds and what selectivity is: comparisons that began with version 1 go on with it."""
    seeds: int = 1
    """Generation seeds whose runs are pooled; with several, side effects but fluency are left to the cells of one."""
    home: str | None = None
    """The split whose folders hold the benchmark runs, if it is another."""
    draws: int = 2_000
    """Bootstrap resamples."""
    progress: Progress = no_progress
    say: Callable[[str], None] | None = None
    """Takes lines about the precision to be expected, before it is known."""

    # -- cells ---------------------------------------------------------------------------------------------------

    def key(self, mitigation: Mitigation) -> str:
        """Hash of everything that decides the numbers of a cell."""
        return content_hash(*self._terms, mitigation.identity)

    @cached_property
    def _terms(self) -> tuple[str, ...]:
        """What decides the numbers of all cells: model, settings, margins and data sets."""
        settings = {**self.config.identity(), "relevant": self.relevant, "damage": self.damage, "draws": self.draws}
        if self.version > 1:
            settings |= {"version": self.version, "facts": content_hash(*map(str, self.facts)), "fluency": _FLUENCY}
        settings |= {"decoding": self.config.decoding.resolved(self.loaded.model).to_dict()}
        settings |= {"side_effects": _IN_PLAIN_FORM} if self.prompt_form == "plain" else {}
        sets = [load_dataset(name).content_hash for name in (self.config.dataset, *self.relevant)]
        described = json.dumps(settings, sort_keys=True), json.dumps(self.margins.to_dict())
        return (self.loaded.weights_hash, *described, *sets)

    def cell(self, mitigation: Mitigation) -> str:
        """Name of a cell: its split, its mitigation, and a hash of everything that decides its numbers."""
        key = self.key(mitigation)
        key = key if self.seeds == 1 else content_hash(key, str(self.seeds))
        return f"{self.split}/{slug(mitigation.name)}-{key[:8]}"

    def folder(self, mitigation: Mitigation) -> Path:
        """Where the benchmark runs of a cell lie."""
        name = f"{self.home or self.split}/{slug(mitigation.name)}-{self.key(mitigation)[:8]}"
        return self.files.cell(name)

    def bench(
        self, mitigation: Mitigation, dataset: str, *, number: int = 0, arrangement: Arrangement | None = None
    ) -> BenchResult:
        """The benchmark under a mitigation on one of the sets, with one of the seeds; what is there is kept.

        In another `arrangement` leakage alone is measured, without tilt.
        """
        key = (self.key(mitigation), mitigation.name, dataset, number, arrangement)
        if key not in self._opened:
            self._opened[key] = self._bench(mitigation, dataset, number, arrangement)
        return self._opened[key]

    @cached_property
    def _opened(self) -> dict[tuple[str, str, str, int, Arrangement | None], BenchResult]:
        """Benchmarks that are finished, so that their files are read once."""
        return {}

    def _bench(self, mitigation: Mitigation, dataset: str, number: int, arrangement: Arrangement | None) -> BenchResult:
        config, leakage = self.config, dataset == self.config.dataset
        if not leakage:  # of relevant affect, where the shift between the polarities is all that counts
            config = config.model_copy(update={"dataset": dataset, "limit": None, "conditions": POLARITIES})
        elif arrangement is not None:
            config = config.model_copy(update={"arrangement": arrangement, "conditions": ARRANGED_CONDITIONS})
        elif self.version > 1 and number == 0:  # tilt draws nothing after injections, so that one seed tells all
            config = self._with_tilt(mitigation)
        which = f"-{arrangement}" if arrangement else f"-seed{number}" if number else ""
        out = self.folder(mitigation) / f"{set_folder(dataset, (self.config.dataset, *self.relevant))}{which}"
        config = config.model_copy(update={"seed": config.seed + number})
        return bench_under(mitigation, config, model=self.loaded, out=out, topic=leakage, progress=self.progress)

    def frame(self, mitigation: Mitigation, dataset: str | None = None) -> pd.DataFrame:
        """One row per generation of all seeds."""
        return pooled_frame(self._runs(mitigation, dataset or self.config.dataset), self.config.generations)

    def _runs(self, mitigation: Mitigation, dataset: str) -> list[BenchResult]:
        return [self.bench(mitigation, dataset, number=number) for number in range(self.seeds)]

    def _with_tilt(self, mitigation: Mitigation) -> BenchConfig:
        """The benchmark on the leakage set with tilt, on the completions of the base model's run."""
        config = self.config
        if mitigation.configure(config).contrast is not None or not set(POLARITIES) <= set(config.conditions):
            return config
        base = self.folder(BASE) / set_folder(config.dataset, (config.dataset,))
        return config.model_copy(update={"tilt": True, "tilt_from": None if mitigation == BASE else str(base)})

    def row(self, run: Run, mitigation: Mitigation) -> dict[str, Any]:
        """All numbers of a cell, flat; they are measured if they are not there yet."""
        return run.cell(self.cell(mitigation), lambda: self._measure(mitigation))

    def scores(self, mitigation: Mitigation, dataset: str | None = None) -> LeakageScores:
        """Scores on one of the sets; the leakage set by default."""
        return leakage_scores(self.frame(mitigation, dataset), self.config.cleaning)

    # -- measuring -----------------------------------------------------------------------------------------------

    def _measure(self, mitigation: Mitigation) -> dict[str, Any]:
        result = self.bench(mitigation, self.config.dataset)
        told = result.summary if self.seeds == 1 else pooled_summary(self.frame(mitigation), self.config)
        row: dict[str, Any] = {
            "name": mitigation.name,
            "kind": mitigation.kind,
            "split": self.split,
            **leakage_columns(told),
            "note": mitigation.note,
        }
        row |= {"seeds": self.seeds} if self.seeds > 1 else {}
        effects = self._effects(mitigation)
        row |= self._parts(mitigation, effects) if self.version == 1 else self._charges(mitigation, result, effects)
        row |= self._shifts_of_relevant(mitigation)
        row |= damage_columns(effects)
        if self.damage and self.seeds == 1:
            row |= self._requests(mitigation)
            row["not_applicable"] = ", ".join(out_of_reach(mitigation))
        seconds = run_seconds(self.bench(BASE, self.config.dataset).summary), run_seconds(result.summary)
        row["speed_ratio"] = number_or_none(seconds[0] / seconds[1])
        return row

    def _parts(self, mitigation: Mitigation, effects: SideEffects) -> dict[str, Any]:
        """Leakage reduction, retention of the headline, fluency, and the selectivity of version 1."""
        leakage, headline = self._pair(mitigation), self._pair(mitigation, self.relevant[0])
        parts = [reduction_part(leakage), shift_part("retention", headline), fluency_part(*_quality(effects))]
        return flat(selectivity(parts, charge=clipped, **self.drawn))

    def _charges(self, mitigation: Mitigation, result: BenchResult, effects: SideEffects) -> dict[str, Any]:
        """All that selectivity charges, leakage reduction, tilt, and the three parts of fluency."""
        quality = _quality(effects)
        leakage, tilts = self._against_oracle(mitigation)
        known = self.known(mitigation) if self.facts else None
        found = charges(
            leakage=leakage,
            tilts=tilts,
            relevant=[self._pair(mitigation, name) for name in self.relevant],
            facts=(self.known(BASE), known) if self.facts else None,
            fluency=fluency_part(*quality, self.free_quality),
            cleaning=self.config.cleaning,
        )
        row = flat(selectivity(found.parts, **self.drawn))
        written = fluency(*quality, free=self.free_quality, **self.drawn)
        row |= flat({f"fluency_{name}": getattr(written, name) for name in ("perplexity", "repetition", "length")})
        row |= flat({"leakage_reduction": leakage_reduction(self._pair(mitigation), **self.drawn)})
        row |= tilt_columns(result.summary) | {"facts_accuracy": None if known is None else known.accuracy}
        return row | {"removal_of": found.removal_of, "not_charged": found.not_charged}

    def removals(self, mitigation: Mitigation) -> dict[str, Any]:
        """Removal and removal of tilt alone, without intervals; nothing in version 1."""
        if self.version == 1:
            return {}
        _, parts = removals(*self._against_oracle(mitigation), cleaning=self.config.cleaning)
        return {part.name: number_or_none(part.total()) for part in parts}

    def _against_oracle(self, mitigation: Mitigation) -> tuple[list[pd.DataFrame], list[BenchResult]]:
        """Scores, and benchmarks with tilt, of the base model, of a mitigation and of the oracle."""
        models = BASE, mitigation, ORACLE
        return [self.frame(one) for one in models], [self.bench(one, self.config.dataset) for one in models]

    def known(self, mitigation: Mitigation) -> Capability | None:
        """What the model knows of the facts under a mitigation; None for contrastive decoding."""
        folder = self.folder(mitigation)
        return facts_under(
            mitigation, self.config, self.facts, loaded=self.loaded, folder=folder, progress=self.progress
        )

    def about_selectivity(self) -> dict[str, Any]:
        """What a summary says of the parts of selectivity; nothing in version 1."""
        if self.version == 1:
            return {}
        widths = self._expected()
        told: dict[str, Any] = {
            "expected": dict(zip(widths["part"], map(number_or_none, widths["half_width"]), strict=True))
        }
        known = self.known(BASE) if self.facts else None
        if known is not None:
            asked = {"n": len(self.facts), "base_accuracy": known.accuracy, "chance": CHANCE}
            told["facts_asked"] = asked | {"not_compared": no_better_than_chance(known)}
        return told

    def expect(self, run: Run) -> None:
        """Tell the half-widths that follow from the base model's runs, before any other row is measured."""
        if self.version > 1:
            frame = self._expected()
            run.save_table(f"expected_{self.split}", frame)
            if self.say is not None:
                self.say(f"{self.split}: {in_words(frame)}")

    def _expected(self) -> pd.DataFrame:
        relevant = [self.scores(BASE, name) for name in self.relevant]
        known = self.known(BASE) if self.facts else None
        base = self.bench(BASE, self.config.dataset)
        return expected(self.frame(BASE), base, relevant, known, cleaning=self.config.cleaning)

    def _shifts_of_relevant(self, mitigation: Mitigation) -> dict[str, Any]:
        """Valence shift on every set of relevant affect, and its retention on those after the headline."""
        row: dict[str, Any] = {}
        for name in self.relevant[1:]:
            kept = retention(self._pair(mitigation, name), **self.drawn)
            row |= flat({f"retention_{slug(Path(name).stem)}": kept})
        for name in self.relevant:
            shift = main_ratios(self.scores(mitigation, name))["valence_shift"].value
            row[f"valence_shift_{slug(Path(name).stem)}"] = number_or_none(shift)
        return row

    def _pair(self, mitigation: Mitigation, dataset: str | None = None) -> Pair:
        return Pair(self.scores(BASE, dataset), self.scores(mitigation, dataset))

    @property
    def drawn(self) -> dict[str, Any]:
        """How intervals are drawn."""
        return {"seed": self.config.seed, "draws": self.draws}

    def _requests(self, mitigation: Mitigation) -> dict[str, Any]:
        """Retention on direct requests for emotional text; nothing where the mitigation cannot act on them."""
        if "retention_requests" in out_of_reach(mitigation):
            return {}
        answers = self._answer(mitigation)
        found = request_retention(self.base_requests, answers, seed=self.config.seed, draws=self.draws)
        ends = {"": found.value, "_low": found.low, "_high": found.high}
        rows = ({"id": name, "answers": list(texts)} for name, texts in zip(answers.ids, answers.texts, strict=True))
        write_jsonl(self.folder(mitigation) / "requests.jsonl", rows)
        return {f"retention_requests{end}": number_or_none(value) for end, value in ends.items()}

    @cached_property
    def base_requests(self) -> RequestAnswers:
        return self._answer(BASE)

    def _answer(self, mitigation: Mitigation) -> RequestAnswers:
        renderer = self._renderer(mitigation)
        return requests_under(mitigation, self.config, self.loaded, renderer=renderer, estimator=self.estimator)

    @cached_property
    def estimator(self) -> Estimator:
        """The estimator of the headline."""
        return load_estimator(estimator_names(self.config.estimator)[0], encoder=self.encoder)

    @cached_property
    def encoder(self) -> SentenceEncoder:
        return load_encoder(self.config.encoder)

    def _effects(self, mitigation: Mitigation) -> SideEffects:
        answers = self._answers(mitigation)
        if not self.damage or self.seeds > 1:
            return SideEffects(
                (), self.margins, Measurements(), quality=self.suite.quality(answers, progress=self.progress)
            )
        changes = changes_the_model(mitigation)
        changed = variant_under(mitigation, self.config, self.loaded) if changes else None
        renderer = self._renderer(mitigation) if "instruction" in mitigation.settings else None
        missed = out_of_reach(mitigation)
        reached: list[Reached] = [name for name, column in MEASURED_ON.items() if column not in missed]
        return self.suite.measure(changed, answers, renderer=renderer, reached=reached, progress=self.progress)

    @cached_property
    def free_quality(self) -> AnswerQuality:
        """What the base model answers without an injection: what moves towards it loses no fluency."""
        return self.suite.quality_of(self._answers(ORACLE), progress=self.progress)

    def _answers(self, mitigation: Mitigation) -> Answers:
        return pooled_answers(self._runs(mitigation, self.config.dataset), self.config.generations)

    # -- what side effects are measured with ---------------------------------------------------------------------

    @cached_property
    def samples(self) -> PromptSet:
        """The leakage set."""
        return load_dataset(self.config.dataset).take(self.config.limit)

    @cached_property
    def suite(self) -> SideEffectSuite:
        """Measures of generations, and of the model itself if damage is measured."""
        renderer, generations = self._renderer(BASE), self.bench(BASE, self.config.dataset).files.generations()
        return SideEffectSuite(
            base=ModelVariant(self.loaded),
            renderer=renderer,
            samples=self.samples,
            base_answers=self._answers(BASE),
            controls=control_continuations(self.samples, generations, renderer) if self.damage else (),
            neutral=neutral_continuations(renderer.tokenizer) if self.damage else (),
            questions=load_questions() if self.damage else (),
            encoder=self.encoder,
            margins=self.margins,
            seed=self.config.seed,
            draws=self.draws,
        )

    def _renderer(self, mitigation: Mitigation) -> Renderer:
        return Renderer(self.loaded.tokenizer, Prompting.of(mitigation.configure(self.config)))

    @property
    def prompt_form(self) -> ResolvedForm:
        """The form of the prompts; requests and questions are put in chat form wherever there is a template."""
        return self._renderer(BASE).resolved_form


def _quality(effects: SideEffects) -> tuple[AnswerQuality, AnswerQuality]:
    if effects.quality is None:
        raise AssertionError("quality is always measured")
    return effects.quality
