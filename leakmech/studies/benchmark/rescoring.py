"""Scores of texts that were generated elsewhere, in a run directory like that of a benchmark.

The texts come from a file (:mod:`leakmech.studies.benchmark.external`), from the log of an evaluation harness
(:mod:`leakmech.studies.benchmark.harness_logs`) or from another run, which is then scored again: with other estimators,
another cleaning policy, another threshold. Statistics and files are those of ``leakmech bench``, so that ``show``,
``samples``, ``report`` and ``compare`` read either.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from leakmech.core.errors import DatasetError, LeakmechWarning
from leakmech.core.progress import Shown, shown_progress
from leakmech.core.rows import user_rows
from leakmech.core.store import write_jsonl
from leakmech.datasets.samples import PromptSet
from leakmech.prompts.arrangement import injection_place
from leakmech.prompts.render import Prompt, Prompting, Renderer
from leakmech.prompts.table import PromptTable
from leakmech.runs.run import Run
from leakmech.scoring.records import MISSING, ControlLikelihoods, control_likelihoods
from leakmech.scoring.sentence import PromptText
from leakmech.studies.benchmark.external import ExternalGenerations, read_generations
from leakmech.studies.benchmark.measurement import Measurement, arranged_samples
from leakmech.studies.benchmark.reopen import Rescoring, defaults_of
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.benchmark.settings import ScoreConfig
from leakmech.studies.benchmark.tilt import summarise_tilt
from leakmech.studies.benchmark.tilt_files import copy_tilt

_DECIDE_SENTENCE = ("cleaning", "echo_similarity", "reasoning_markers", "instruction", "task")
"""Settings that say which sentence of an answer is scored."""


def score(
    source: str | Path | None = None,
    *,
    out: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    progress: Shown = None,
    **settings: Any,
) -> BenchResult:
    """Score texts that were generated elsewhere, with the statistics and the files of a benchmark run.

    Parameters
    ----------
    source
        A JSONL or CSV file with one generation a row (``sample, condition, generation, text``), a log of leakmech's
        task in lm-evaluation-harness (``--log_samples``) or inspect_ai (``.eval``, ``.json``), or the directory of a
        finished run; the settings of a log or run are then the defaults. None: what the run in `out` was made from.
    out
        Run directory; default ``runs/<name of the source>-scored``. A finished one of the same texts and settings is
        returned as it is.
    columns
        What the file calls a field, e.g. ``{"text": "completion"}``.
    progress
        A function that draws progress, True or False; None draws it in a notebook only.
    **settings
        Fields of :class:`leakmech.studies.benchmark.settings.ScoreConfig`, e.g. ``dataset="hexl",
        estimator="embedded,vader"``.

    Returns
    -------
    BenchResult
        As of :func:`leakmech.bench`.

    Raises
    ------
    UsageError
        A name, file, column or value is wrong; nothing has been written.
    InterruptedRunError
        Ctrl-C or SIGTERM; the same call starts again.
    """
    started = time.perf_counter()
    asked = Rescoring.of(source, out=out, columns=columns, settings=settings)
    finished = asked.as_it_was()
    if finished is not None:
        return finished
    config, path, scored = asked.config, asked.path, asked.scored
    samples = arranged_samples(config)
    given = _read(asked, samples)
    measurement = Measurement.load(config, given.samples, whole=samples)
    prompts = PromptTable(prompt_writer(config), given.samples, rendered=False)
    inserted = scored.record.fact("inserted_text") if scored is not None else None
    instruction_text = ". ".join(filter(None, (prompt_writer(config).instruction_text, inserted)))
    said = {"inserted_text": inserted} if inserted else {}
    origin = asked.facts() | said
    fingerprint = {"generations": given.content_hash, **measurement.fingerprint()}
    with Run.open(path, config, fingerprint, **origin, **measurement.provenance()) as run:
        if run.finished:
            return BenchResult.load(path)
        with run.interruptible(lambda: "no score is saved yet"):
            write_jsonl(run.files.prompts_file, (prompt.to_dict() | {"rendered": None} for prompt in prompts.values()))
            write_jsonl(run.files.shard, _records(given, prompts, measurement, instruction_text), checksums=True)
            n_rows, given = len(given.texts), replace(given, texts={})  # they are on disk now
            summary: dict[str, Any] = {"model": config.model, "n_prompts": len(prompts)}
            summary |= {"n_missing": given.n_missing, "n_silent_samples": given.n_silent_samples}
            summary |= measurement.measure(
                run.files,
                instruction_text=instruction_text,
                generations=given.generations,
                n_rows=n_rows,
                progress=shown_progress(progress),
                log_p_control=None if scored is None else _log_p_control(scored, config),
            )
            if scored is not None and _copied_tilt(scored, run, measurement, config):
                summary |= summarise_tilt(run.files, given.samples, run.files.scores(), config)
        return run.finish(summary, {"total_s": time.perf_counter() - started}, result=BenchResult)


def _read(asked: Rescoring, samples: PromptSet) -> ExternalGenerations:
    """The generations of a file, of the log of a harness or of another run."""
    source, scored, log, config = asked.source, asked.scored, asked.log, asked.config
    wanted = samples.take(config.limit)
    rows: Iterable[tuple[int, dict[str, Any]]] = user_rows(source) if log is None else log.rows
    if scored is not None:
        if scored.record.fingerprint["dataset"] != wanted.content_hash:
            raise DatasetError(f"{source}: is about another data set than {config.dataset!r} as it is now")
        rows = enumerate(map(_with_gaps, scored.files.generations()), start=1)
    return read_generations(
        rows,
        wanted,
        name=source,
        known=[sample.id for sample in samples],
        columns=asked.columns,
        allow_missing=config.allow_missing,
    )


def _log_p_control(scored: BenchResult, config: ScoreConfig) -> ControlLikelihoods | str:
    """The likelihoods that are stored with a run, or why there are none for what is scored now."""
    stored = scored.files.scores(("prompt_id", "generation", "log_p_control").__contains__)
    if "log_p_control" not in stored:
        return "likelihoods need the model: leakmech bench --on-task"
    if changed := _decide_otherwise(scored, config):
        return f"the likelihoods of {scored.path.name} are those of other sentences ({changed})"
    return control_likelihoods(stored)


def _decide_otherwise(scored: BenchResult, config: ScoreConfig) -> str:
    """Names of settings by which other sentences are scored than in the run that the texts come from."""
    before = ScoreConfig.model_validate(defaults_of(scored.path, scored))
    return ", ".join(name for name in _DECIDE_SENTENCE if getattr(before, name) != getattr(config, name))


def _copied_tilt(scored: BenchResult, run: Run, measurement: Measurement, config: ScoreConfig) -> bool:
    """Whether tilt was taken over: its completions end with the sentence that was scored then."""
    if scored.files.tilt_likelihoods_file.exists() and (changed := _decide_otherwise(scored, config)):
        warnings.warn(
            f"the tilt of {scored.path.name} is that of other sentences ({changed}) and is not taken over: leakmech "
            "bench --tilt",
            LeakmechWarning,
            stacklevel=3,
        )
        return False
    return copy_tilt(scored.files, run.files, measurement.estimators)


def _with_gaps(record: dict[str, Any]) -> dict[str, Any]:
    """A run's record with None for the text of a generation that is missing there."""
    return record | {"text": None} if record["finish_reason"] == MISSING else record


def prompt_writer(config: ScoreConfig) -> Renderer:
    """Writes prompts as users write them; how another program rendered them is not known."""
    place = injection_place(config.arrangement)
    return Renderer(None, Prompting("plain", instruction=config.instruction, place=place, task=config.task))


def _records(
    given: ExternalGenerations,
    prompts: Mapping[str, Prompt],
    measurement: Measurement,
    instruction_text: str,
) -> Iterator[dict[str, Any]]:
    """The texts as lines of a run's shard; lengths in tokens are not known."""
    cleaner, policy = measurement.cleaner, measurement.config.cleaning
    for (sample, condition, generation), text in given.texts.items():
        prompt = prompts[f"{sample}/{condition}"]
        whole = PromptText.of(prompt, instruction=instruction_text)
        yield {
            "prompt_id": prompt.id,
            "sample": sample,
            "condition": condition,
            "generation": generation,
            "text": text or "",
            "first_sentence": cleaner.clean(text or "", whole, policy).text,
            "n_tokens": None,
            "finish_reason": MISSING if text is None else "unknown",
        }
