"""The samples that a report embeds: which ones, and their texts and scores as JSON for the page's script.

A run may hold thousands of samples, and a page has to stay small. If not all fit, half of those embedded are the ones
that leak most and half are random, so that a reader sees the extremes and what is usual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from leakmech.core.errors import RunDirectoryError
from leakmech.core.seeds import numpy_generator
from leakmech.core.store import read_jsonl_shard
from leakmech.core.text import shortened
from leakmech.datasets.samples import Condition
from leakmech.reports.examples import SampleTexts, mark, sample_texts
from leakmech.reports.page import Section, embedded_json
from leakmech.runs.result import Result
from leakmech.scoring.leakage import LABELS, mean_valence, valence_shifts
from leakmech.scoring.records import Record, column, leakage_scores
from leakmech.scoring.sentence import Cleaning
from leakmech.scoring.topic import is_on_injection

MAX_SAMPLES = 200
MAX_DATA_BYTES = 2_500_000
MAX_TEXT_LENGTH = 2_000
_SELECTION_SEED = 0
_SHOWN_ORDER: tuple[Condition, ...] = ("control", "neutral", "positive", "negative")


@dataclass(frozen=True)
class SampleBrowser(Section):
    """The embedded samples as JSON, a sentence that says which ones they are, and their run."""

    kind = "samples"
    json: Markup
    selection: str
    run: Path


def sample_browser(
    result: Result, *, heading: str = "Samples", max_samples: int = MAX_SAMPLES, max_bytes: int = MAX_DATA_BYTES
) -> SampleBrowser:
    """The samples that the page embeds: all of them, or as many as fit, chosen by :func:`choose_samples`."""
    texts = sample_texts(result)
    scores = leakage_scores(result.scores, result.summary["cleaning"])
    shifts = valence_shifts(scores)["valence_shift"]
    valences = {condition: mean_valence(scores, condition) for condition in _SHOWN_ORDER}
    number = min(max_samples, len(texts))
    wanted = {scores.samples[index] for index in choose_samples(shifts, number)}
    generations, prompts = _generations(result, wanted), _prompts(result, wanted)
    while True:
        chosen = choose_samples(shifts, number)
        samples = [
            _sample_entry(
                texts[scores.samples[index]],
                prompts=prompts,
                shift=shifts[index],
                valences={condition: valences[condition][index] for condition in _SHOWN_ORDER},
                generations=generations[scores.samples[index]],
            )
            for index in chosen
        ]
        data = embedded_json({"labels": LABELS, "samples": samples})
        if len(data) <= max_bytes or number <= 2:
            return SampleBrowser(data, _selection(number, len(texts)), result.path, heading=heading)
        number = max(2, min(number - 1, int(number * max_bytes / len(data))))


def choose_samples(shifts: Float[np.ndarray, " samples"], number: int) -> list[int]:
    """Indices of `number` samples in their own order: half are those that shift most, either way.

    The other half is drawn from the rest with a fixed seed; a smaller `number` gives a subset of the
    samples of a larger one.
    """
    by_size = np.argsort(-np.abs(np.nan_to_num(shifts)), kind="stable")
    if number >= len(shifts):
        return list(range(len(shifts)))
    priority = numpy_generator("report", _SELECTION_SEED).permutation(len(shifts))
    largest = by_size[: (number + 1) // 2]
    rest = sorted(set(range(len(shifts))) - set(largest.tolist()), key=lambda index: priority[index])
    return sorted([*largest.tolist(), *rest[: number - len(largest)]])


def _selection(number: int, n_samples: int) -> str:
    cut = f" Texts longer than {MAX_TEXT_LENGTH:,} characters are cut."
    if number == n_samples:
        return f"All {n_samples} samples with all their generations.{cut}"
    largest = (number + 1) // 2
    return (
        f"{number} of {n_samples:,} samples, to keep this page small: the {largest} whose valence shifts most, either "
        f"way, and {number - largest} drawn at random from the rest (seed {_SELECTION_SEED}). The first kind is chosen "
        f"for being extreme; the tables above are over all samples.{cut}"
    )


def _generations(result: Result, wanted: set[str]) -> dict[str, dict[str, list[list[Any]]]]:
    """``[sample][condition]``: scored text, full text if it is another, remark, P and topic of each generation.

    The last is 1 if the answer is about its injection, 0 if not, and None where that is not told.
    """
    policy = result.summary["cleaning"]
    scores = result.scores
    frame = scores.loc[~scores["resampled"] & scores["sample"].isin(list(wanted))]
    full = {
        (record["prompt_id"], record["generation"]): record["text"]
        for record in result.files.generations()
        if record["sample"] in wanted
    }
    absent = [key for key in zip(frame["prompt_id"], frame["generation"], strict=True) if key not in full]
    if absent:
        raise RunDirectoryError(
            f"{result.files.shard}: lacks {len(absent)} generations that are scored; delete "
            f"{result.files.summary_file} and continue with: {result.record.how_to_continue()}"
        )
    found: dict[str, dict[str, list[list[Any]]]] = {}
    for row in frame.to_dict("records"):
        scored, text = row["first_sentence"], full[row["prompt_id"], row["generation"]].strip()
        values = [row[label] for label in LABELS]
        entry = [
            _cut(scored),
            None if text == scored else _cut(text),
            mark(row, policy=policy),
            None if np.isnan(values).any() else [round(value, 3) for value in values],
            _is_on_injection(row, policy),
        ]
        found.setdefault(row["sample"], {}).setdefault(row["condition"], []).append(entry)
    return found


def _is_on_injection(row: Record, policy: Cleaning) -> int | None:
    rank = row.get(column(policy, f"topic_{row['condition']}"))
    return None if rank is None or np.isnan(rank) else int(is_on_injection(rank))


def _prompts(result: Result, wanted: set[str]) -> dict[tuple[str, str], str]:
    """What the model was given, by sample and condition; nothing for texts that were generated elsewhere."""
    rows = read_jsonl_shard(result.files.prompts_file)
    return {
        (row["sample"], row["condition"]): _cut(row["rendered"])
        for row in rows
        if row["sample"] in wanted and row.get("rendered")
    }


def _sample_entry(
    texts: SampleTexts,
    *,
    prompts: Mapping[tuple[str, str], str],
    shift: float,
    valences: Mapping[Condition, float],
    generations: Mapping[str, Sequence[Sequence[Any]]],
) -> dict[str, Any]:
    conditions = [
        {
            "name": condition,
            "injection": texts.injections.get(condition),
            "prompt": prompts.get((texts.id, condition)),
            "valence": _rounded(valences[condition]),
            "generations": generations[condition],
        }
        for condition in _SHOWN_ORDER
        if condition in texts.conditions
    ]
    return {"id": texts.id, "stem": texts.stem, "shift": _rounded(shift), "conditions": conditions}


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT_LENGTH else shortened(text, MAX_TEXT_LENGTH) + " …"
