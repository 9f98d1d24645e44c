"""The benchmark: plan -> generate -> score -> summarise, in a run directory that any interruption leaves usable.

Order on disk: ``run.json`` and ``prompts.jsonl`` first, then ``generations/`` grows batch by batch, then
``scores.parquet``, and ``summary.json`` last: its presence says that the run is complete.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from leakmech.core.errors import UsageError
from leakmech.core.progress import Progress, Shown, no_progress, shown_progress
from leakmech.core.store import append_jsonl, write_jsonl
from leakmech.datasets.samples import PromptSet
from leakmech.generation.decode import Generation
from leakmech.generation.decoding import Decoding, described_temperature
from leakmech.generation.engine import Engine, refuse_incapable
from leakmech.generation.engines import DEFAULT_ENGINE, Capabilities
from leakmech.generation.hf_engine import HFEngine
from leakmech.interventions.applied import Applied
from leakmech.interventions.base import Intervention, interventions_key
from leakmech.interventions.checks import as_interventions
from leakmech.interventions.files import load_interventions, refuse_other_form
from leakmech.interventions.hooks import apply
from leakmech.models.batching import parse_batch_size
from leakmech.models.configured import load_configured
from leakmech.models.device import dtype_name
from leakmech.models.load import LoadedModel, given_name
from leakmech.prompts.dates import dated
from leakmech.prompts.render import Prompting, Renderer
from leakmech.runs.directory import SCRIPT, RunDirectory, began
from leakmech.runs.run import Run, run_path
from leakmech.runs.settings import IN_MEMORY
from leakmech.runs.sources import SOURCES, source_stamps
from leakmech.scoring.sentence import FirstSentences, PromptTexts
from leakmech.studies.benchmark.cost import estimate
from leakmech.studies.benchmark.interim import MOST_GENERATIONS, NEEDED, Interim
from leakmech.studies.benchmark.measurement import Measurement, arranged_samples
from leakmech.studies.benchmark.model import Place, adapted
from leakmech.studies.benchmark.on_task import AnswersAfterControl
from leakmech.studies.benchmark.prompts import RunPrompts
from leakmech.studies.benchmark.reopen import as_it_was
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.benchmark.settings import BenchConfig, default_name
from leakmech.studies.benchmark.shard import Keys, keep_if_unchanged, refuse_foreign, whole_rows
from leakmech.studies.benchmark.tilt import TiltStage, summarise_tilt


def bench(
    model: Any = None,
    *,
    tokenizer: Any = None,
    interventions: Intervention | Sequence[Intervention] = (),
    out: str | Path | None = None,
    progress: Shown = None,
    interim: Callable[[str], None] | None = None,
    **settings: Any,
) -> BenchResult:
    """Measure expression leakage of a model, or continue the measurement in `out`.

    Parameters
    ----------
    model
        Hub id, local folder, ``embedded:<name>``, or a Hugging Face / PEFT model object. Default: the embedded model.
    tokenizer
        Tokenizer of a model object, if it does not name its own.
    interventions
        What the model runs under, as values; files are named with ``intervention="file.json"``. With ``fold=True`` they
        are baked into a copy's weights.
    out
        Run directory. One that holds the same run is continued; default ``runs/<model>-<dataset>-seed<seed>``.
    progress
        A function that draws progress, True or False; None draws it in a notebook only.
    interim
        Takes a line with the time that the run will take, and lines with interim estimates while it generates
        (:func:`leakmech.core.terminal.say` prints them); none are made by default.
    **settings
        Fields of :class:`leakmech.studies.benchmark.settings.BenchConfig`, e.g. ``dataset="hexl", generations=10,
        seed=0``.

    Returns
    -------
    BenchResult
        ``.summary`` (dict), ``.scores`` (data frame, one row per generation), ``.to_markdown()``.

    Raises
    ------
    UsageError
        A name, file, key or value is wrong; nothing has been written.
    InterruptedRunError
        Ctrl-C or SIGTERM; what is finished is in `out` and the same call continues it.

    References
    ----------
    Köprü et al. (2025), arXiv 2508.01708.
    """
    progress = shown_progress(progress)
    by_name = model is None or isinstance(model, str | Path)
    if model is not None:
        settings["model"] = str(model) if by_name else _object_name(model)
    chosen = as_interventions(interventions)
    if chosen:
        if settings.get("intervention"):
            raise UsageError("bench: give interventions as values or as a file, not both")
        settings["intervention"] = f"{IN_MEMORY} ({interventions_key(chosen)})"
    config = BenchConfig.parse(settings, where="bench")
    return run_benchmark(
        config,
        model=None if by_name else model,
        tokenizer=tokenizer,
        interventions=chosen,
        out=out,
        progress=progress,
        interim=interim,
    )


def run_benchmark(
    config: BenchConfig,
    *,
    model: Any = None,
    tokenizer: Any = None,
    interventions: tuple[Intervention, ...] = (),
    out: str | Path | None = None,
    progress: Progress = no_progress,
    interim: Callable[[str], None] | None = None,
    outside: Mapping[str, str] | None = None,
    topic: bool = True,
    engine_of: Callable[[LoadedModel], Engine] | None = None,
) -> BenchResult:
    """:func:`bench` for a finished configuration.

    `model` and `interventions` go before what the configuration names, `outside` names what else changes the model
    without changing its weights (hooks of the caller), so that a run is only continued under the same. `topic` is False
    for samples whose injections the answers should take up. `engine_of` gives the engine that draws, in place of the
    one that is configured; one that cannot do what the run needs is refused before anything is written.
    """
    if config.fold and not (config.intervention or interventions):
        raise UsageError("--fold: there are no interventions to fold; name their file with --intervention")
    path = run_path(out, default_name(config))
    Run.check(path, config)
    with dated(began(path)):
        started = time.perf_counter()
        in_script = model is not None or bool(interventions) or engine_of is not None
        if not (in_script or outside) and (finished := as_it_was(config, path)) is not None:
            return finished
        file = None if interventions else config.intervention
        if file:
            if file.startswith(IN_MEMORY):
                raise UsageError(f"{path}: its interventions were given as values; continue it with the same values")
            interventions = load_interventions(file)
        place = Place.of(config)
        samples = arranged_samples(config)
        measurement = Measurement.load(config, samples.take(config.limit), whole=samples, topic=topic)
        base = load_configured(place.settings(model), model, tokenizer)
        if file:
            refuse_other_form(file, Renderer(base.tokenizer, Prompting.of(config)).resolved_form)
        loaded = adapted(base, config, interventions, in_place=model is None and not config.tilt)
        timing = {"load_s": time.perf_counter() - started}
        engine_of = engine_of or place.engine
        files, engine = RunDirectory(path), engine_of(loaded)
        benchmark = _Benchmark(
            config, files, loaded, engine, measurement, progress, interim, interventions, outside or {}
        )
        if config.tilt:
            benchmark = replace(benchmark, tilt=benchmark.tilt_stage(base, engine_of))
        del base  # a copy that nobody needs any more is not kept in memory
        return benchmark.complete(timing, started, in_script=in_script)


def prompts_of(
    config: BenchConfig,
    samples: PromptSet,
    *,
    loaded: LoadedModel,
    interventions: tuple[Intervention, ...] = (),
    out: Path,
    progress: Progress = no_progress,
) -> RunPrompts:
    """What a run with these settings would read of `samples`; what is rewritten for it is kept in `out`."""
    return RunPrompts(config, RunDirectory(out), loaded, HFEngine.of(loaded), samples, progress, interventions)


@dataclass(frozen=True)
class _Benchmark:
    """One run with everything loaded."""

    config: BenchConfig
    files: RunDirectory
    loaded: LoadedModel
    engine: Engine
    measurement: Measurement
    progress: Progress
    say: Callable[[str], None] | None
    interventions: tuple[Intervention, ...]
    outside: Mapping[str, str]
    tilt: TiltStage | None = None

    def tilt_stage(self, base: LoadedModel, engine_of: Callable[[LoadedModel], Engine]) -> TiltStage:
        """What measures tilt, with the model that writes the completions."""
        outside, measured = bool(self.outside), self.measurement
        changed = outside or bool(self.interventions or self.config.adapter or self.config.prompt_rewrite)
        return TiltStage(self.reading, base, engine_of, measured.estimators, measured.cleaner, changed, outside)

    @cached_property
    def reading(self) -> RunPrompts:
        return RunPrompts(
            self.config, self.files, self.loaded, self.engine, self.measurement.samples, self.progress, self.hooked
        )

    @cached_property
    def decoding(self) -> Decoding:
        """The settings with the checkpoint's temperature in place of its name."""
        return self.config.decoding.resolved(self.loaded.model)

    @property
    def hooked(self) -> tuple[Intervention, ...]:
        return () if self.config.fold else self.interventions

    @cached_property
    def sentences(self) -> FirstSentences:
        """What is scored of the generations of each prompt."""
        texts = PromptTexts(self.reading.given, self.reading.instruction_text)
        return FirstSentences(texts, self.measurement.cleaner)

    def complete(self, timing: dict[str, float], started: float, *, in_script: bool) -> BenchResult:
        """Do what is missing and return the result."""
        with self._open(in_script) as run:
            if run.finished:
                return BenchResult.load(run.path)
            with run.interruptible(self._saved):
                write_jsonl(self.files.prompts_file, map(self.reading.record, self.reading.given.values()))
                timing |= self._generate() | self._tilted()
                scoring_started = time.perf_counter()
                summary = self._summarise()
            ended = time.perf_counter()
            timing |= {"score_s": ended - scoring_started, "total_s": ended - started}
            return run.finish(summary, timing, result=BenchResult)

    def _timing(self, n_generated: int, interim: Interim | None = None) -> dict[str, float]:
        clock = self.engine.clock
        return {
            "generate_s": clock.total,
            "generations_per_second": n_generated / clock.total if clock.total else 0.0,
            "share_outside_forward": clock.share_outside,
            **({} if interim is None else {"interim_s": interim.spent}),
        }

    # -- opening -----------------------------------------------------------------------------------------------

    def _fingerprint(self) -> dict[str, str]:
        """Hashes of everything that decides a generation; a changed model never gets another model's."""
        interventions = {"interventions": interventions_key(self.interventions)} if self.interventions else {}
        return {
            **interventions,
            **self.engine.identity(),
            **({"temperature": str(self.decoding.temperature)} if self.decoding != self.config.decoding else {}),
            **self.loaded.fingerprint(),
            **self.reading.fingerprint(),
            **self.outside,
            **self.measurement.fingerprint(),
            **(self.tilt.fingerprint() if self.tilt else {}),
        }

    def _open(self, in_script: bool) -> Run:
        hooks, contrast = bool(self.hooked or self.outside), self.config.contrast is not None
        refuse_incapable(self.engine, Capabilities(hooks=hooks, contrast=contrast))
        if self.tilt is not None:
            self.tilt.refuse()
        _ = self.reading.longest_read  # before anything is written
        origin: dict[str, Any] = {SCRIPT: True} if in_script else {}
        if not (in_script or self.outside):
            origin[SOURCES] = source_stamps(self.config)
        return Run.open(
            self.files.path,
            self.config,
            self._fingerprint(),
            batch_size=parse_batch_size(self.config.batch_size) or self.reading.auto_batch_size(),
            model=self.loaded.info(),
            interventions=[str(intervention) for intervention in self.interventions],
            **self.reading.provenance(),
            **self.measurement.provenance(),
            **origin,
        )

    def _saved(self) -> str:
        done = sum(1 for _ in self.files.generations(on_damage=lambda _: None))
        return f"{done} of {self.reading.n_rows} generations are saved"

    # -- generating --------------------------------------------------------------------------------------------

    def _generate(self) -> dict[str, float]:
        """Generate what is missing, batch by batch; the time that it took."""
        done, n_rows = whole_rows(self.files), self.reading.n_rows
        refuse_foreign(self.files, done, self.reading)
        self.engine.clock.reset()  # rewriting took time of its own
        if len(done) == n_rows:
            return self._timing(0)
        if self.say is not None and not done and self.config.engine == DEFAULT_ENGINE:
            expected = estimate(self.config, self.loaded)
            if expected is not None:
                self.say(expected)
        interim = self._interim(self.files.generations())
        hooks = apply(self.loaded.model, self.hooked) if self.hooked else nullcontext()
        with hooks as applied, self.progress("generating", total=n_rows, done=len(done)) as advance:
            for ended in self._ended(applied, done):
                records = list(map(self._record, ended))
                append_jsonl(self.files.shard, records)
                advance(len(ended))
                if interim is not None:
                    interim.add(records)
        keep_if_unchanged(self.files, self.loaded, done)
        return self._timing(n_rows - len(done), interim)

    def _ended(self, applied: Applied | None, done: Keys) -> Iterator[list[Generation]]:
        """Generations that are missing, as they end."""
        size = self.reading.batch_size()
        for rows in self.reading.rows_in_parts():
            yield from self.engine.complete(
                rows,
                self.decoding,
                seed=self.config.seed,
                stop=self.sentences.complete if self.config.stop_at_first_sentence else None,
                combination=self.config.contrast,
                applied=applied,
                batch_size=size,
                done=done,
            )

    def _interim(self, before: Iterable[dict[str, Any]]) -> Interim | None:
        """What says estimates while the run goes on; None if nobody listens, or the run lacks a condition for them."""
        if self.say is None or not set(self.config.conditions) >= NEEDED:
            return None
        k = min(self.config.generations, MOST_GENERATIONS)
        scorer = self.measurement.quick_scorer(instruction_text=self.reading.instruction_text, generations=k)
        interim = Interim(scorer, self.measurement.samples, n_rows=self.reading.n_rows, say=self.say)
        interim.begin(before)
        return interim

    def _record(self, generation: Generation) -> dict[str, Any]:
        prompt = self.reading.given[generation.prompt_id]
        return {
            "prompt_id": prompt.id,
            "sample": prompt.sample,
            "condition": prompt.condition,
            "generation": generation.generation,
            "text": generation.text,
            "first_sentence": self.sentences.clean(prompt.id, generation.text, self.config.cleaning).text,
            "n_tokens": len(generation.tokens),
            "finish_reason": generation.finish_reason,
        }

    def _tilted(self) -> dict[str, float]:
        """Make what tilt needs, if it is measured; the seconds that it took."""
        if self.tilt is None:
            return {}
        started = time.perf_counter()
        self.tilt.make()
        return {"tilt_s": time.perf_counter() - started}

    def _summarise(self) -> dict[str, Any]:
        """Every number of ``summary.json`` except the timing."""
        c, engine = self.config, self.engine.identity()
        found = self.measurement.measure(
            self.files,
            instruction_text=self.reading.instruction_text,
            generations=c.generations,
            n_rows=self.reading.n_rows,
            progress=self.progress,
            log_p_control=AnswersAfterControl(self.reading, self.sentences).log_p() if c.on_task else None,
        )
        if self.tilt is not None:
            found |= summarise_tilt(self.files, self.measurement.samples, self.files.scores(), c)
        return {
            "model": c.model,
            "n_prompts": len(self.reading.given),
            "decoding": self.decoding.to_dict(),
            **described_temperature(c.decoding, self.loaded.model),
            **self.reading.summary(),
            "prompt_form": self.reading.renderer.resolved_form,
            "dtype": dtype_name(self.loaded.dtype),
            "device": engine.get("engine_device", str(self.loaded.device)),
            **({"engine": engine} if engine else {}),
            **found,
        }


def _object_name(model: Any) -> str:
    name = getattr(getattr(model, "config", None), "_name_or_path", "") or given_name(model)
    if not isinstance(name, str):
        raise UsageError(f"model: expected a name or a Hugging Face model, found {type(model).__name__}")
    return name
