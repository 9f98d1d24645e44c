"""From generations to a table of scores, and from that table to the arrays that statistics need.

The table has one row per generation. For each cleaning policy it holds the scored text, the estimator's output and the
cosine similarity of the text to each of the sample's injections, in columns such as ``paper_positive``; the plain
columns ``negative, neutral, positive, similarity`` are those of the run's headline policy (``similarity``: to the
row's own injection). A row that a policy does not score is NaN there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from leakmech.errors import RunDirectoryError
from leakmech.prompts.samples import CONDITIONS, INJECTIONS, Condition, PromptSet, Sample
from leakmech.scoring.expression import LABELS, Estimator, embed_and_score
from leakmech.scoring.leakage import LeakageScores
from leakmech.scoring.semantic import SentenceEncoder, cosine_similarity
from leakmech.scoring.sentence import CLEANINGS, Cleaner, Cleaning, PromptText

_SAMPLES_PER_CHUNK = 50  # keeps embeddings in memory for one chunk only

Record = Mapping[str, Any]
"""A generation as it stands in ``generations/*.jsonl``."""


@dataclass(frozen=True)
class Scorer:
    """What is needed to score generations.

    Parameters
    ----------
    cleaner, estimator, encoder
        See :mod:`leakmech.scoring.sentence`, :mod:`~leakmech.scoring.expression`, :mod:`~leakmech.scoring.semantic`.
    instruction
        The instruction that stood before every prompt; repeating it is an echo too.
    headline
        The cleaning policy behind the plain columns.
    generations
        K; control generations from K on are the noise floor's second set.
    """

    cleaner: Cleaner
    estimator: Estimator
    encoder: SentenceEncoder
    instruction: str
    headline: Cleaning
    generations: int

    def score(
        self, samples: PromptSet, records: Iterable[Record], *, on_scored: Callable[[int], None] | None = None
    ) -> pd.DataFrame:
        """Score the generations of all samples, chunk by chunk.

        Parameters
        ----------
        samples
            The data set; rows come out in its order, then by condition and generation.
        records
            All generations of the run, in any order.
        on_scored
            Progress callback with a number of rows.
        """
        by_sample: dict[str, list[Record]] = {sample.id: [] for sample in samples}
        for record in records:
            by_sample[record["sample"]].append(record)
        order = {condition: i for i, condition in enumerate(CONDITIONS)}
        frames = []
        chunk = list(samples)
        for start in range(0, len(chunk), _SAMPLES_PER_CHUNK):
            rows = [
                (sample, record)
                for sample in chunk[start : start + _SAMPLES_PER_CHUNK]
                for record in sorted(by_sample[sample.id], key=lambda r: (order[r["condition"]], r["generation"]))
            ]
            frames.append(self._score_rows(rows))
            if on_scored:
                on_scored(len(rows))
        return pd.concat(frames, ignore_index=True)

    def _score_rows(self, rows: Sequence[tuple[Sample, Record]]) -> pd.DataFrame:
        """Score some rows; every text, injections included, is embedded in one call, so that equal texts tie."""
        columns: dict[str, Any] = {
            name: [record[name] for _, record in rows]
            for name in ("prompt_id", "sample", "condition", "generation", "n_tokens", "finish_reason")
        }
        columns["resampled"] = [record["generation"] >= self.generations for _, record in rows]
        prompts = [self._prompt_text(sample, record["condition"]) for sample, record in rows]
        columns["echo"] = [self.cleaner.is_echo(r["text"], p) for (_, r), p in zip(rows, prompts, strict=True)]

        cleaned = {
            policy: [self.cleaner.clean(r["text"], p, policy) for (_, r), p in zip(rows, prompts, strict=True)]
            for policy in CLEANINGS
        }
        injections = [[sample.injection(condition) or "" for sample, _ in rows] for condition in INJECTIONS]
        texts = [c.text for policy in CLEANINGS for c in cleaned[policy]] + [t for column in injections for t in column]
        embeddings, probabilities = embed_and_score(texts, estimator=self.estimator, encoder=self.encoder)
        n = len(rows)
        injection_rows = [embeddings[(len(CLEANINGS) + i) * n :][:n] for i in range(len(INJECTIONS))]
        for i, policy in enumerate(CLEANINGS):
            part = slice(i * n, (i + 1) * n)
            unscored = ~np.array([c.scored for c in cleaned[policy]])
            columns |= self._policy_columns(policy, cleaned[policy], probabilities[part], unscored)
            for condition, rows_of_injection in zip(INJECTIONS, injection_rows, strict=True):
                similarity = cosine_similarity(embeddings[part], rows_of_injection)
                columns[column(policy, f"similarity_{condition}")] = np.where(unscored, np.nan, similarity)
        frame = pd.DataFrame(columns)
        return self._with_headline(frame)

    def _prompt_text(self, sample: Sample, condition: Condition) -> PromptText:
        return PromptText(stem=sample.stem, injection=sample.injection(condition), instruction=self.instruction)

    @staticmethod
    def _policy_columns(policy: Cleaning, cleaned: Sequence[Any], probabilities: Any, unscored: Any) -> dict[str, Any]:
        columns: dict[str, Any] = {column(policy, "text"): [c.text for c in cleaned]}
        for i, label in enumerate(LABELS):
            columns[column(policy, label)] = np.where(unscored, np.nan, probabilities[:, i])
        return columns

    def _with_headline(self, frame: pd.DataFrame) -> pd.DataFrame:
        frame["first_sentence"] = frame[column(self.headline, "text")]
        for label in LABELS:
            frame[label] = frame[column(self.headline, label)]
        frame["similarity"] = np.nan
        for condition in INJECTIONS:
            own = frame["condition"] == condition
            frame.loc[own, "similarity"] = frame.loc[own, column(self.headline, f"similarity_{condition}")]
        return frame


def column(policy: Cleaning, name: str) -> str:
    """Name of a policy's column: ``column("echo-free", "positive") == "echo_free_positive"``."""
    return f"{policy.replace('-', '_')}_{name}"


def leakage_scores(frame: pd.DataFrame, policy: Cleaning) -> LeakageScores:
    """The arrays of one cleaning policy, samples in the order of the table.

    Raises
    ------
    RunDirectoryError
        Some generation of some prompt is missing.
    """
    samples = tuple(dict.fromkeys(frame["sample"].tolist()))
    main, resampled = frame.loc[~frame["resampled"]], frame.loc[frame["resampled"]]
    n_generations = int(main["generation"].to_numpy().max()) + 1

    def array(part: pd.DataFrame, condition: Condition, names: Sequence[str]) -> Float[np.ndarray, "s k n"]:
        rows = part.loc[part["condition"] == condition, [column(policy, name) for name in names]]
        if len(rows) != len(samples) * n_generations:
            expected = len(samples) * n_generations
            raise RunDirectoryError(f"{condition}: {len(rows)} generations instead of {expected}; continue the run")
        return rows.to_numpy(float).reshape(len(samples), n_generations, -1)

    return LeakageScores(
        samples=samples,
        probabilities={condition: array(main, condition, LABELS) for condition in CONDITIONS},
        resampled_control=array(resampled, "control", LABELS) if len(resampled) else None,
        similarity_test={c: array(main, c, [f"similarity_{c}"])[..., 0] for c in INJECTIONS},
        similarity_control={c: array(main, "control", [f"similarity_{c}"])[..., 0] for c in INJECTIONS},
    )


def echo_rates(frame: pd.DataFrame, policy: Cleaning) -> dict[str, Any]:
    """Share of generations whose first sentence repeats the prompt, and whose scored text is empty.

    Over all prompts with an injection (``echo_rate``, ``empty_rate``) and per condition.
    """
    main = frame.loc[~frame["resampled"]]
    condition = main["condition"].to_numpy()
    flags = {"echo": main["echo"].to_numpy(bool), "empty": (main[column(policy, "text")] == "").to_numpy(bool)}
    rates: dict[str, Any] = {f"{name}_rate": float(flag[condition != "control"].mean()) for name, flag in flags.items()}
    for name, flag in flags.items():
        rates[f"{name}_rates"] = {c: float(flag[condition == c].mean()) for c in CONDITIONS}
    return rates
