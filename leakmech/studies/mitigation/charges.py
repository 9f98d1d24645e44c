"""What selectivity is made of for one mitigation: parts from finished benchmark runs, facts and answers.

    removal             of the topic-free valence shift (of the plain one where topic is not told), same draws
    removal_tilt        of the tilt shift per token, on completions that the base model wrote once
    retention           of the valence shift on the first set of relevant affect (matched)
    retention_self      on the second one (self-reports)
    retention_facts     of right answers to facts
    fluency             of the answers on the leakage set

A part that cannot be computed is left out, and the row says why. (:mod:`leakmech.side_effects.selectivity` has the
formulas.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from leakmech.core.progress import Progress
from leakmech.core.store import read_jsonl_shard, write_jsonl
from leakmech.datasets.facts import Fact
from leakmech.datasets.samples import PromptSet
from leakmech.models.load import LoadedModel
from leakmech.scoring.records import leakage_scores, sampled_shift
from leakmech.scoring.sentence import Cleaning
from leakmech.side_effects.capability import Capability
from leakmech.side_effects.facts import answer_facts, facts_part, no_better_than_chance
from leakmech.side_effects.selectivity import Pair, Part, removal_part, shift_part
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.benchmark.run import prompts_of
from leakmech.studies.benchmark.settings import BenchConfig
from leakmech.studies.mitigation.changed import changed_model
from leakmech.studies.mitigation.mitigation import Mitigation

NO_LIKELIHOOD = "contrastive decoding draws from several prompts, of which no likelihood is known"
RETENTIONS = ("retention", "retention_self")
"""Columns of the first two sets of relevant affect."""
_ROWS = 16  # that step together where the model rewrites facts


@dataclass(frozen=True, eq=False)
class Charges:
    """Parts of one row's selectivity, and why others are missing."""

    parts: tuple[Part, ...]
    missing: dict[str, str]
    removal_of: str
    """What `removal` is about: the topic-free valence shift, or the valence shift."""

    @property
    def not_charged(self) -> str:
        """What a table says of the missing ones."""
        return "; ".join(f"{name}: {reason}" for name, reason in self.missing.items())


def charges(
    *,
    leakage: Sequence[pd.DataFrame],
    tilts: Sequence[BenchResult],
    relevant: Sequence[Pair],
    facts: tuple[Capability | None, Capability | None] | None,
    fluency: Part,
    cleaning: Cleaning,
) -> Charges:
    """Collect the parts of a row.

    Parameters
    ----------
    leakage
        Scores on the leakage set of the base model, of the row and of the oracle, one row per generation.
    tilts
        Their benchmarks in which tilt is measured, where it can be.
    relevant
        Scores on the sets of relevant affect, the headline first.
    facts
        What the base model and the row know of facts (None where no likelihood is known); None if facts are not asked.
    fluency
        The part about fluency.
    cleaning
        The policy of the scores.
    """
    missing: dict[str, str] = {}
    of, parts = removals(leakage, tilts, cleaning=cleaning)
    if len(parts) == 1:
        missing["removal_tilt"] = NO_LIKELIHOOD
    parts += [shift_part(name, pair) for name, pair in zip(RETENTIONS, relevant, strict=False)]
    if len(relevant) < len(RETENTIONS):
        missing["retention_self"] = "there is no second set of relevant affect"
    base, changed = facts or (None, None)
    if base is None or changed is None:
        missing["retention_facts"] = NO_LIKELIHOOD if facts else "facts are not asked"
    elif reason := no_better_than_chance(base):
        missing["retention_facts"] = reason
    else:
        parts.append(facts_part(base, changed))
    return Charges((*parts, fluency), missing, of)


def removals(
    leakage: Sequence[pd.DataFrame], tilts: Sequence[BenchResult], *, cleaning: Cleaning
) -> tuple[str, list[Part]]:
    """What removal is about, removal, and removal of tilt where it can be measured (arguments: :func:`charges`)."""
    of, removal = sampled_removal(leakage, cleaning)
    measured = all("tilt" in result.summary for result in tilts)
    return of, [removal, *([_removal_of_tilt(tilts)] if measured else [])]


def sampled_removal(leakage: Sequence[pd.DataFrame], cleaning: Cleaning) -> tuple[str, Part]:
    """What removal is about, and removal, from scores of the base model, of the row and of the oracle."""
    told, shifts = zip(*(sampled_shift(frame, cleaning) for frame in leakage), strict=True)
    return told[0], removal_part("removal", leakage_scores(leakage[0], cleaning).samples, *shifts)


def _removal_of_tilt(tilts: Sequence[BenchResult]) -> Part:
    samples = tuple(map(str, tilts[0].tilt_shifts().index))
    base, row, oracle = (result.tilt_shifts(samples).to_numpy() for result in tilts)
    return removal_part("removal_tilt", samples, base, row, oracle)


# -- facts -------------------------------------------------------------------------------------------------------------


def facts_under(
    mitigation: Mitigation,
    config: BenchConfig,
    facts: Sequence[Fact],
    *,
    loaded: LoadedModel,
    folder: Path,
    progress: Progress,
) -> Capability | None:
    """What a model knows of facts under a mitigation, or what is stored of it in ``facts.jsonl`` of `folder`.

    Prompts are rewritten as they are in a benchmark. None for contrastive decoding.
    """
    if mitigation.configure(config).contrast is not None:
        return None
    file = folder / "facts.jsonl"
    if not file.exists():
        found = _answered(mitigation, config, facts, loaded=loaded, out=folder / "facts", progress=progress)
        rows = zip(found.ids, found.correct.tolist(), found.margins.tolist(), found.scores.tolist(), strict=True)
        write_jsonl(file, ({"id": i, "correct": c, "margin": m, "log_p": s} for i, c, m, s in rows))
    stored = list(read_jsonl_shard(file))
    scores = np.array([row["log_p"] for row in stored], dtype=np.float64)
    return Capability(tuple(row["id"] for row in stored), scores, np.zeros(len(stored), dtype=int))


def _answered(
    mitigation: Mitigation,
    config: BenchConfig,
    facts: Sequence[Fact],
    *,
    loaded: LoadedModel,
    out: Path,
    progress: Progress,
) -> Capability:
    adapted, interventions = changed_model(mitigation, config, loaded)
    changes = {"conditions": ("neutral",), "generations": 1, "noise_floor": False, "batch_size": _ROWS, "tilt": False}
    samples = PromptSet("facts", tuple(fact.sample for fact in facts))
    reading = prompts_of(
        mitigation.configure(config).model_copy(update=changes),
        samples,
        loaded=adapted,
        interventions=interventions,
        out=out,
        progress=progress,
    )
    with mitigation.around(adapted.model):
        prompts = {name: read["neutral"] for name, read in reading.unanswered.items()}
        return answer_facts(reading.variant, facts, prompts=prompts, renderer=reading.renderer, progress=progress)
