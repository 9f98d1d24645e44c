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
    """Generations of one model, one entry each, sorted by sample, condition and generation.

    Attributes
    ----------
    samples, conditions, generations
        Where each belongs; samples in the order of the run's shard.
    texts
        The whole generation.
    answers
        Its scored sentence under the run's cleaning policy; empty where cleaning left nothing.
    n_tokens
        Length of the whole generation; NaN where it is not known (texts from elsewhere).
    """

    samples: tuple[str, ...]
    conditions: tuple[str, ...]
    generations: tuple[int, ...]
    texts: tuple[str, ...]
    answers: tuple[str, ...]
    n_tokens: Float[np.ndarray, " answers"]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def prompts(self) -> tuple[tuple[str, str], ...]:
        """(sample, condition) of each."""
        return tuple(zip(self.samples, self.conditions, strict=True))

    @property
    def units(self) -> tuple[str, ...]:
        """Their samples, each once, sorted by id: what is resampled."""
        return tuple(sorted(set(self.samples)))

    @classmethod
    def of_records(
        cls, records: Iterable[Record], *, generations: int | None = None, conditions: Sequence[str] = CONDITIONS
    ) -> Answers:
        """Answers of generations as they stand in ``generations/*.jsonl``.

        Parameters
        ----------
        records
            In any order. Those that a file from elsewhere does not hold are left out.
        generations
            K; later generations (the noise floor's second set of control prompts) are left out. None keeps all.
        conditions
            Those to keep.

        Raises
        ------
        UsageError
            Nothing is left.
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
        """Answers of a finished benchmark run, without the second set of control generations.

        Raises
        ------
        RunDirectoryError
            It is no run, or not finished.
        """
        result = run if isinstance(run, Result) else Result.load(run).of_kind("bench")
        records = result.files.generations()
        return cls.of_records(records, generations=result.summary["generations"], conditions=conditions)


def require_same_prompts(base: Answers, changed: Answers) -> None:
    """Refuse answers to other prompts.

    Raises
    ------
    UsageError
        The two have different samples or conditions.
    """
    ours, theirs = set(base.prompts), set(changed.prompts)
    if ours != theirs:
        example = "/".join(min(ours ^ theirs))
        raise UsageError(f"base and changed model: answered different prompts, e.g. only one of them {example!r}")
