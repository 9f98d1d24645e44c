"""What a model wrote in a benchmark run, as the measures of damage need it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from leakmech.core.errors import UsageError
from leakmech.datasets.samples import CONDITIONS
from leakmech.runs.result import Result
from leakmech.scoring.records import MISSING, Record


@dataclass(frozen=True, eq=False)
class Answers:
    """Generations of one model, one entry each, sorted by sample, condition and generation."""

    samples: tuple[str, ...]
    conditions: tuple[str, ...]
    generations: tuple[int, ...]
    texts: tuple[str, ...]
    """Whole generations."""
    answers: tuple[str, ...]
    """Their scored sentences under the run's cleaning policy; empty where cleaning left nothing."""
    n_tokens: Float[np.ndarray, " answers"]
    """Lengths of whole generations; NaN where they are not known (texts from elsewhere)."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def prompts(self) -> tuple[tuple[str, str], ...]:
        """Give (sample, condition) of each entry."""
        return tuple(zip(self.samples, self.conditions, strict=True))

    @property
    def units(self) -> tuple[str, ...]:
        """Give their samples, which are what is resampled, each once and sorted by id."""
        return tuple(sorted(set(self.samples)))

    @classmethod
    def of_records(
        cls, records: Iterable[Record], *, generations: int | None = None, conditions: Sequence[str] = CONDITIONS
    ) -> Answers:
        """Collect generations as they stand in ``generations/*.jsonl``, of each prompt the first `generations` ones.

        None keeps all, also the noise floor's second set of control generations. Records without a text are left out.
        """
        kept = [
            record
            for record in records
            if record["condition"] in conditions
            and (generations is None or record["generation"] < generations)
            and record["finish_reason"] != MISSING
        ]
        if not kept:
            raise UsageError(f"answers: no generation of the conditions {', '.join(conditions)}")
        kept.sort(key=lambda r: (r["sample"], CONDITIONS.index(r["condition"]), r["generation"]))
        lengths: list[Any] = [record["n_tokens"] for record in kept]
        return cls(
            samples=tuple(record["sample"] for record in kept),
            conditions=tuple(record["condition"] for record in kept),
            generations=tuple(record["generation"] for record in kept),
            texts=tuple(record["text"] for record in kept),
            answers=tuple(record["first_sentence"] for record in kept),
            n_tokens=np.array([np.nan if length is None else length for length in lengths], dtype=np.float64),
        )

    @classmethod
    def of_run(cls, run: str | Path | Result, *, conditions: Sequence[str] = CONDITIONS) -> Answers:
        """Collect the generations of a finished benchmark run, without the second set of control generations."""
        result = run if isinstance(run, Result) else Result.load(run).of_kind("bench")
        records = result.files.generations()
        return cls.of_records(records, generations=result.summary["generations"], conditions=conditions)


def require_same_prompts(base: Answers, changed: Answers) -> None:
    """Refuse answers to other prompts."""
    ours, theirs = set(base.prompts), set(changed.prompts)
    if ours != theirs:
        example = "/".join(min(ours ^ theirs))
        raise UsageError(f"base and changed model: answered different prompts, e.g. only one of them {example!r}")
