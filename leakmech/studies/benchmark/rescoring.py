"""Scores of texts that were generated elsewhere, in a run directory like that of a benchmark.

The texts come from a file (:mod:`leakmech.studies.benchmark.external`) or from another run, which is then scored again:
with other estimators, another cleaning policy, another threshold. Statistics and files are those of ``leakmech bench``,
so that ``show``, ``samples``, ``report`` and ``compare`` read either.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from leakmech.core.errors import DatasetError, InterruptedRunError, RunDirectoryError
from leakmech.core.progress import Progress, no_progress
from leakmech.core.rows import user_rows
from leakmech.core.store import content_hash, read_json, write_json, write_jsonl
from leakmech.datasets.samples import CONDITIONS, PromptSet, load_dataset
from leakmech.prompts.arrangement import arrange, injection_place
from leakmech.prompts.render import Prompt, Prompting, Renderer
from leakmech.runs.directory import BenchResult, RunDirectory, load_result, open_run, refuse_other_run
from leakmech.scoring.records import MISSING
from leakmech.scoring.sentence import PromptText
from leakmech.studies.benchmark.external import ExternalGenerations, read_generations
from leakmech.studies.benchmark.measurement import Measurement
from leakmech.studies.benchmark.settings import ScoreConfig


def score(
    source: str | Path,
    *,
    out: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    progress: Progress = no_progress,
    **settings: Any,
) -> BenchResult:
    """Score texts that were generated elsewhere, with the statistics and the files of a benchmark run.

    Parameters
    ----------
    source
        A JSONL or CSV file with one generation a row (``sample, condition, generation, text``), or the directory of a
        finished run, whose settings are then the defaults.
    out
        Run directory; default ``runs/<name of the source>-scored``. A finished one of the same texts and settings is
        returned as it is.
    columns
        What the file calls a field, e.g. ``{"text": "completion"}``.
    progress
        Where to report progress; silent by default.
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
        Ctrl-C; the same call starts again.
    """
    started = time.perf_counter()
    source = Path(source)
    if source.is_dir():
        settings = _settings_of_run(source) | settings
    elif "model" not in settings:
        settings = settings | {"model": source.stem}
    config = ScoreConfig.parse(settings, where="score")
    run = RunDirectory(Path(out) if out else Path("runs") / f"{source.stem}-scored")
    if source.is_dir() and run.path.resolve() == source.resolve():
        raise RunDirectoryError(f"{run.path}: is the run that is read; choose another --out")
    refuse_other_run(run, config)
    samples = arrange(load_dataset(config.dataset), config.arrangement)
    given = _read(source, samples, config, columns)
    measurement = Measurement.load(config, given.samples)
    prompts = _prompts(given.samples, config)
    inserted = read_json(RunDirectory(source).run_file).get("inserted_text") if source.is_dir() else None
    instruction_text = ". ".join(part for part in (_renderer(config).instruction_text, inserted) if part)
    origin = {"source": str(source), "columns": dict(columns or {})} | ({"inserted_text": inserted} if inserted else {})
    _open(run, origin=origin, given=given, measurement=measurement)
    if run.is_complete():
        return load_result(run.path)
    try:
        write_jsonl(run.prompts_file, (prompt.to_dict() | {"rendered": None} for prompt in prompts.values()))
        write_jsonl(run.shard, _records(given, prompts, measurement, instruction_text=instruction_text))
        summary = measurement.measure(
            run,
            instruction_text=instruction_text,
            generations=given.generations,
            n_rows=len(given.texts),
            progress=progress,
        )
    except KeyboardInterrupt:
        raise InterruptedRunError(f"interrupted: {run.path} is not finished; the same command starts again") from None
    summary = {
        "model": config.model,
        "n_prompts": len(prompts),
        "n_missing": given.n_missing,
        "n_silent_samples": given.n_silent_samples,
        **summary,
        "timing": {"total_s": round(time.perf_counter() - started, 4)},
    }
    write_json(run.summary_file, summary)
    return BenchResult(run.path, summary)


def _settings_of_run(path: Path) -> dict[str, Any]:
    """The settings of a finished run that scoring shares with it."""
    load_result(path)
    stored = read_json(RunDirectory(path).run_file)["config"]
    return {key: value for key, value in stored.items() if key in ScoreConfig.model_fields}


def _read(
    source: Path, samples: PromptSet, config: ScoreConfig, columns: Mapping[str, str] | None
) -> ExternalGenerations:
    """The generations of a file or of another run."""
    wanted = samples.take(config.limit)
    rows: Iterable[tuple[int, dict[str, Any]]] = user_rows(source)
    if source.is_dir():
        if read_json(RunDirectory(source).run_file)["fingerprint"]["dataset"] != wanted.content_hash:
            raise DatasetError(f"{source}: is about another data set than {config.dataset!r} as it is now")
        rows = enumerate(map(_with_gaps, RunDirectory(source).generations()), start=1)
    return read_generations(
        rows,
        wanted,
        name=source,
        known=[sample.id for sample in samples],
        columns=columns,
        allow_missing=config.allow_missing,
    )


def _with_gaps(record: dict[str, Any]) -> dict[str, Any]:
    """A run's record with None for the text of a generation that is missing there."""
    return record | {"text": None} if record["finish_reason"] == MISSING else record


def _renderer(config: ScoreConfig) -> Renderer:
    """Writes prompts as users write them; how another program rendered them is not known."""
    place = injection_place(config.arrangement)
    return Renderer(None, Prompting("plain", instruction=config.instruction, place=place))


def _prompts(samples: PromptSet, config: ScoreConfig) -> dict[tuple[str, str], Prompt]:
    renderer = _renderer(config)
    return {(s.id, condition): renderer.unrendered(s, condition) for s in samples for condition in CONDITIONS}


def _open(run: RunDirectory, *, origin: dict[str, Any], given: ExternalGenerations, measurement: Measurement) -> None:
    """Write ``run.json``, or check that the directory holds this very run."""
    rows = (json.dumps([*key, text]) for key, text in given.texts.items())
    fingerprint = {"generations": content_hash(*rows), **measurement.fingerprint()}
    open_run(run, measurement.config, fingerprint, **origin, **measurement.provenance())


def _records(
    given: ExternalGenerations,
    prompts: Mapping[tuple[str, str], Prompt],
    measurement: Measurement,
    *,
    instruction_text: str,
) -> Iterator[dict[str, Any]]:
    """The texts as lines of a run's shard; lengths in tokens are not known."""
    cleaner, policy = measurement.cleaner, measurement.config.cleaning
    for (sample, condition, generation), text in given.texts.items():
        prompt = prompts[sample, condition]
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
