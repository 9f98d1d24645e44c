"""The benchmark: plan -> generate -> score -> summarise, in a run directory that any interruption leaves usable.

Order on disk: ``run.json`` and ``prompts.jsonl`` first, then ``generations/`` grows batch by batch, then
``scores.parquet``, and ``summary.json`` last: its presence says that the run is complete.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from leakmech.config import BenchConfig
from leakmech.errors import InterruptedRunError, RunDirectoryError, UsageError
from leakmech.generation.decode import Clock, Decoder, Generation, Row
from leakmech.generation.engines import auto_batch_size, generate, parse_batch_size, plan
from leakmech.interventions.base import Intervention, interventions_key
from leakmech.interventions.checks import as_interventions, refuse_misfits
from leakmech.interventions.files import load_interventions
from leakmech.interventions.fold import fold
from leakmech.interventions.hooks import apply
from leakmech.interventions.positions import PromptSpans
from leakmech.measurement import Measurement
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel, load_adapter, load_model
from leakmech.progress import Progress, no_progress
from leakmech.prompts.arrangement import arrange, injection_place
from leakmech.prompts.locate import locate
from leakmech.prompts.render import Prompt, Renderer
from leakmech.prompts.samples import load_dataset
from leakmech.provenance import environment
from leakmech.runs import FORMAT_VERSION, BenchResult, RunDirectory, load_result, refuse_other_run
from leakmech.scoring.sentence import Cleaner, PromptText
from leakmech.store import append_jsonl, content_hash, read_json, write_json, write_jsonl

_IN_MEMORY = "in memory"


def bench(
    model: Any = None,
    *,
    tokenizer: Any = None,
    interventions: Intervention | Sequence[Intervention] = (),
    out: str | Path | None = None,
    progress: Progress = no_progress,
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
        Where to report progress; silent by default (:class:`leakmech.progress.RichProgress` draws bars).
    **settings
        Fields of :class:`leakmech.config.BenchConfig`, e.g. ``dataset="hexl", generations=10, seed=0``.

    Returns
    -------
    BenchResult
        ``.summary`` (dict), ``.scores`` (data frame, one row per generation), ``.to_markdown()``.

    Raises
    ------
    UsageError
        A name, file, key or value is wrong; nothing has been written.
    InterruptedRunError
        Ctrl-C; what is finished is in `out` and the same call continues it.

    References
    ----------
    Köprü et al. (2025), arXiv 2508.01708.
    """
    by_name = model is None or isinstance(model, str | Path)
    if model is not None:
        settings["model"] = str(model) if by_name else _object_name(model)
    chosen = as_interventions(interventions)
    if chosen:
        if settings.get("intervention"):
            raise UsageError("bench: give interventions as values or as a file, not both")
        settings["intervention"] = f"{_IN_MEMORY} ({interventions_key(chosen)})"
    config = BenchConfig.parse(settings, where="bench")
    return run_benchmark(
        config,
        model=None if by_name else model,
        tokenizer=tokenizer,
        interventions=chosen,
        out=out,
        progress=progress,
    )


def run_benchmark(
    config: BenchConfig,
    *,
    model: Any = None,
    tokenizer: Any = None,
    interventions: tuple[Intervention, ...] = (),
    out: str | Path | None = None,
    progress: Progress = no_progress,
) -> BenchResult:
    """:func:`bench` for a finished configuration; `model` and `interventions` go before what it names."""
    run = RunDirectory(Path(out) if out else Path("runs") / _default_name(config))
    refuse_other_run(run, config)
    started = time.perf_counter()
    if config.intervention and not interventions:
        if config.intervention.startswith(_IN_MEMORY):
            raise UsageError(f"{run.path}: its interventions were given as values; continue it with the same values")
        interventions = load_interventions(config.intervention)
    samples = arrange(load_dataset(config.dataset), config.arrangement).take(config.limit)
    measurement = Measurement.load(config, samples)
    loaded = load_model(
        model if model is not None else config.model,
        tokenizer=tokenizer,
        device=None if config.device == "auto" else config.device,
        dtype=None if config.dtype == "auto" else config.dtype,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
    )
    loaded = _adapted(loaded, config, interventions)
    timing = {"load_s": time.perf_counter() - started}
    benchmark = _Benchmark(config, run, loaded, measurement, progress, interventions)
    return benchmark.complete(timing, started)


def _adapted(base: LoadedModel, config: BenchConfig, interventions: tuple[Intervention, ...]) -> LoadedModel:
    """The model with its adapter and, where they are to be folded, its interventions."""
    loaded = load_adapter(base, config.adapter) if config.adapter else base
    if not interventions:
        if config.fold:
            raise UsageError("--fold: there are no interventions to fold; name their file with --intervention")
        return loaded
    fitted = any(intervention.model_hash for intervention in interventions)
    # What was fitted on a model may be tried on the same model with an adapter.
    hashes = {base.weights_hash, loaded.weights_hash} if fitted else None
    refuse_misfits(interventions, layout_of(loaded.model), model_hashes=hashes)
    return replace(loaded, model=fold(loaded.model, interventions)) if config.fold else loaded


@dataclass(frozen=True)
class _Benchmark:
    """One run with everything loaded."""

    config: BenchConfig
    run: RunDirectory
    loaded: LoadedModel
    measurement: Measurement
    progress: Progress
    interventions: tuple[Intervention, ...] = ()

    @cached_property
    def renderer(self) -> Renderer:
        c = self.config
        return Renderer(
            self.loaded.tokenizer,
            form=c.prompt_form,
            system=c.system,
            instruction=c.instruction,
            place=injection_place(c.arrangement),
        )

    @cached_property
    def prompts(self) -> dict[str, Prompt]:
        return {prompt.id: prompt for prompt in self.renderer.prompts(self.measurement.samples)}

    @cached_property
    def cleaner(self) -> Cleaner:
        return self.measurement.cleaner

    @cached_property
    def rows(self) -> list[Row]:
        """Every generation of the run; the control prompts' second K are the noise floor."""
        k = self.config.generations
        spans = self._spans()
        rows = []
        for prompt in self.prompts.values():
            tokens = tuple(self.renderer.token_ids(prompt.rendered))
            n = 2 * k if self.config.noise_floor and prompt.condition == "control" else k
            rows += [Row(prompt.id, i, tokens, spans.get(prompt.id)) for i in range(n)]
        return plan(rows)

    def _spans(self) -> dict[str, PromptSpans]:
        """Where injection and stem stand, by prompt, if hooks must know it."""
        if self.config.fold or not any(intervention.spans for intervention in self.interventions):
            return {}
        return {found.id: PromptSpans.of(found) for found in locate(list(self.prompts.values()), self.renderer)}

    def complete(self, timing: dict[str, float], started: float) -> BenchResult:
        """Do what is missing and return the result."""
        self._open()
        if not self.run.prompts_file.exists():
            write_jsonl(self.run.prompts_file, (prompt.to_dict() for prompt in self.prompts.values()))
        if self.run.is_complete():
            return load_result(self.run.path)
        with self._resumable():
            clock, n_generated = self._generate()
            scoring_started = time.perf_counter()
            summary = self._summarise()
        timing |= {
            "generate_s": clock.total,
            "generations_per_second": n_generated / clock.total if clock.total else 0.0,
            "share_outside_forward": clock.share_outside,
            "score_s": time.perf_counter() - scoring_started,
            "total_s": time.perf_counter() - started,
        }
        summary["timing"] = {key: round(value, 4) for key, value in timing.items()}
        write_json(self.run.summary_file, summary)
        return BenchResult(self.run.path, summary)

    # -- opening -----------------------------------------------------------------------------------------------

    def _fingerprint(self) -> dict[str, str]:
        """Hashes of everything that decides a generation; a changed model never gets another model's answers."""
        rendered = content_hash(*(f"{p.id}\x1f{p.rendered}" for p in self.prompts.values()))
        interventions = {"interventions": interventions_key(self.interventions)} if self.interventions else {}
        return {
            **interventions,
            "weights": self.loaded.weights_hash,
            "tokenizer": self.loaded.tokenizer_hash,
            "template": self.loaded.template_hash,
            "dtype": str(self.loaded.dtype).removeprefix("torch."),
            "prompts": rendered,
            **self.measurement.fingerprint(),
        }

    def _open(self) -> None:
        """Create the run directory, or check that it holds this very run."""
        fingerprint = self._fingerprint()
        if self.run.run_file.exists():
            stored = read_json(self.run.run_file)["fingerprint"]
            changed = [key for key in {**stored, **fingerprint} if stored.get(key) != fingerprint.get(key)]
            if changed:
                raise RunDirectoryError(
                    f"{self.run.path}: holds a run with other {', '.join(changed)}; choose another --out to keep both"
                )
            return
        write_json(
            self.run.run_file,
            {
                "format_version": FORMAT_VERSION,
                "kind": "bench",
                "command": self.config.command,
                "config": self.config.identity(),
                "fingerprint": fingerprint,
                "batch_size": parse_batch_size(self.config.batch_size) or self._auto_batch_size(),
                "model": self.loaded.info(),
                "interventions": [str(intervention) for intervention in self.interventions],
                "prompt_form": self.renderer.resolved_form,
                **self.measurement.provenance(),
                "environment": environment(),
            },
        )

    def _auto_batch_size(self) -> int:
        longest = max(len(row.prompt_tokens) for row in self.rows)
        n_tokens = self.config.decoding.max_new_tokens
        return auto_batch_size(self.loaded.model, longest_prompt=longest, max_new_tokens=n_tokens)

    def _batch_size(self) -> int:
        """What the user asks for, else what the run began with: in another batch bfloat16 would round otherwise."""
        return parse_batch_size(self.config.batch_size) or int(read_json(self.run.run_file)["batch_size"])

    @contextmanager
    def _resumable(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            done = sum(1 for _ in self.run.generations())
            raise InterruptedRunError(
                f"interrupted: {done} of {len(self.rows)} generations are saved; "
                f"continue with: leakmech bench --out {self.run.path}"
            ) from None

    # -- generating --------------------------------------------------------------------------------------------

    def _generate(self) -> tuple[Clock, int]:
        """Generate what is missing, batch by batch; the time it took and the number of new generations."""
        done = {(record["prompt_id"], record["generation"]) for record in self.run.generations()}
        self._drop_foreign(done)
        texts = {
            p.id: PromptText(stem=p.stem, injection=p.injection, instruction=p.instruction)
            for p in self.prompts.values()
        }
        with ExitStack() as hooks:
            hooked = self.interventions and not self.config.fold
            decoder = Decoder(
                self.loaded.model,
                self.loaded.tokenizer,
                decoding=self.config.decoding,
                seed=self.config.seed,
                stop=(lambda prompt_id, text: self.cleaner.first_sentence_complete(text, texts[prompt_id]))
                if self.config.stop_at_first_sentence
                else None,
                applied=hooks.enter_context(apply(self.loaded.model, self.interventions)) if hooked else None,
            )
            if len(done) < len(self.rows):
                with self.progress("generating", total=len(self.rows), done=len(done)) as advance:
                    for ended in generate(decoder, self.rows, batch_size=self._batch_size(), done=done):
                        append_jsonl(self.run.shard, (self._record(g, texts[g.prompt_id]) for g in ended))
                        advance(len(ended))
        return decoder.clock, len(self.rows) - len(done)

    def _drop_foreign(self, done: set[tuple[str, int]]) -> None:
        wanted = {(row.prompt_id, row.generation) for row in self.rows}
        foreign = done - wanted
        if foreign:
            raise RunDirectoryError(f"{self.run.path}: holds generations of other prompts, e.g. {sorted(foreign)[0]}")

    def _record(self, generation: Generation, text: PromptText) -> dict[str, Any]:
        prompt = self.prompts[generation.prompt_id]
        return {
            "prompt_id": prompt.id,
            "sample": prompt.sample,
            "condition": prompt.condition,
            "generation": generation.generation,
            "text": generation.text,
            "first_sentence": self.cleaner.clean(generation.text, text, self.config.cleaning).text,
            "n_tokens": len(generation.tokens),
            "finish_reason": generation.finish_reason,
        }

    def _summarise(self) -> dict[str, Any]:
        """Every number of ``summary.json`` but the timing."""
        c = self.config
        found = self.measurement.measure(
            self.run,
            instruction_text=self.renderer.instruction_text,
            generations=c.generations,
            n_rows=len(self.rows),
            progress=self.progress,
        )
        return {
            "model": c.model,
            "n_prompts": len(self.prompts),
            "decoding": c.decoding.to_dict(),
            "prompt_form": self.renderer.resolved_form,
            "dtype": str(self.loaded.dtype).removeprefix("torch."),
            "device": str(self.loaded.device),
            **found,
        }


def _default_name(config: BenchConfig) -> str:
    def slug(name: str) -> str:
        return "".join(c if c.isalnum() or c in "-." else "-" for c in Path(name).name.removeprefix("embedded:"))

    changed = f"-{slug(config.intervention)}{'-folded' if config.fold else ''}" if config.intervention else ""
    return f"{slug(config.model)}-{slug(config.dataset)}{changed}-seed{config.seed}"


def _object_name(model: Any) -> str:
    name = getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__
    if not isinstance(name, str):
        raise UsageError(f"model: expected a name or a Hugging Face model, found {type(model).__name__}")
    return name
