"""From generations to a table of scores, and from that table to the arrays that statistics need.

The table has one row per generation. For each cleaning policy it holds the scored text, the estimator's output and the
cosine similarity of the text to each of the sample's injections, in columns such as ``paper_positive``; the plain
columns ``negative, neutral, positive, similarity`` are those of the run's headline policy (``similarity``: to the
row's own injection). ``paper_topic_positive`` is the rank of the sample's positive injection among all positive ones
(:mod:`leakmech.scoring.topic`), ``names_injection`` says whether the headline text has a word of its injection, and
``whole_positive`` is P of stem and headline text together, since a text such as "impressive." is a fragment. A row that
a policy does not score is NaN there. Where a run has several estimators, all of these are the first one's; those of
another are in columns such as ``vader/paper_positive``. If likelihoods were asked for, ``log_p_control`` is log p of
the answer after the control prompt, in nats a token, and ``on_task`` whether that is enough
(:mod:`leakmech.scoring.on_task`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from leakmech.core.errors import RunDirectoryError
from leakmech.datasets.samples import CONDITIONS, INJECTIONS, POLARITIES, Condition, PromptSet, Sample
from leakmech.prompts.bodies import Place, body_of
from leakmech.scoring.leakage import LABELS, LeakageScores, PerGeneration, PerSample, valence_shifts
from leakmech.scoring.on_task import control_quantile, is_on_task
from leakmech.scoring.sentence import CLEANINGS, Cleaner, Cleaning, PromptText
from leakmech.scoring.similarity import cosine_similarity
from leakmech.scoring.topic import Injections, on_injection, shares_content_word, without_topic

if TYPE_CHECKING:
    from leakmech.scoring.expression import Estimator
    from leakmech.scoring.semantic import SentenceEncoder

MISSING = "missing"  # finish reason of a generation that a file from elsewhere does not hold
_FOR_EVERY_POLICY = frozenset(
    ("sample", "condition", "generation", "resampled", "echo", "reasoned", "unanswered", "names_injection")
) | {"log_p_control", "finish_reason"}
_SAMPLES_PER_CHUNK = 50  # keeps embeddings in memory for one chunk only

ControlLikelihoods = Mapping[tuple[str, int], float]
"""By prompt id and generation, log p of an answer after the control prompt of its sample, in nats a token."""

Record = Mapping[str, Any]
"""A generation as ``generations/*.jsonl`` holds it."""


@dataclass(frozen=True)
class Scorer:
    """What is needed to score generations."""

    cleaner: Cleaner
    estimators: tuple[Estimator, ...]
    """At least one, with different names; the plain columns are the first one's."""
    encoder: SentenceEncoder
    instruction: str
    """The instruction that every prompt began with; repeating it is an echo too."""
    headline: Cleaning
    """The cleaning policy of the plain columns."""
    generations: int
    """K; control generations from K on are the noise floor's second set."""
    injections: Injections | None = None
    """Of the whole data set, to rank a sample's own among; None where topic is not told."""
    policies: tuple[Cleaning, ...] = CLEANINGS
    """The cleaning policies that are scored, the headline's among them."""
    with_whole: bool = True
    """Whether stem and answer are also scored together."""
    place: Place = "before"
    """Where injections stand, which decides what else prompts say."""

    def score(
        self, samples: PromptSet, records: Iterable[Record], *, on_scored: Callable[[int], None] | None = None
    ) -> pd.DataFrame:
        """Score the generations of all samples, chunk by chunk; rows are ordered by sample, condition, generation.

        `records` may have any order; `on_scored` is told the number of rows after each chunk.
        """
        by_sample: dict[str, list[Record]] = {sample.id: [] for sample in samples}
        for record in records:
            by_sample[record["sample"]].append(record)
        return pd.concat(self.chunks(samples, by_sample.__getitem__, on_scored=on_scored), ignore_index=True)

    def chunks(
        self,
        samples: PromptSet,
        records_of: Callable[[str], Sequence[Record]],
        *,
        on_scored: Callable[[int], None] | None = None,
    ) -> Iterator[pd.DataFrame]:
        """As :meth:`score`, the table in parts; `records_of` gives the generations of a sample."""
        order = {condition: i for i, condition in enumerate(CONDITIONS)}
        chunk = list(samples)
        for start in range(0, len(chunk), _SAMPLES_PER_CHUNK):
            rows = [
                (sample, record)
                for sample in chunk[start : start + _SAMPLES_PER_CHUNK]
                for record in sorted(records_of(sample.id), key=lambda r: (order[r["condition"]], r["generation"]))
            ]
            yield self._score_rows(rows)
            if on_scored:
                on_scored(len(rows))

    def _score_rows(self, rows: Sequence[tuple[Sample, Record]]) -> pd.DataFrame:
        """Score some rows; every text, injections included, is embedded in one call, so that equal texts tie."""
        columns: dict[str, Any] = {
            name: [record[name] for _, record in rows]
            for name in ("prompt_id", "sample", "condition", "generation", "n_tokens", "finish_reason")
        }
        answers = [self.cleaner.spoken(record["text"]) for _, record in rows]
        columns |= {name: [getattr(answer, name) for answer in answers] for name in ("reasoned", "unanswered")}
        columns["resampled"] = [record["generation"] >= self.generations for _, record in rows]
        prompts = [self._prompt_text(sample, record["condition"]) for sample, record in rows]
        columns["echo"] = [self.cleaner.is_echo(r["text"], p) for (_, r), p in zip(rows, prompts, strict=True)]

        cleaned = {
            policy: [self.cleaner.clean(r["text"], p, policy) for (_, r), p in zip(rows, prompts, strict=True)]
            for policy in self.policies
        }
        texts = [c.text for policy in self.policies for c in cleaned[policy]]
        whole = [f"{p.stem} {c.text}" for p, c in zip(prompts, cleaned[self.headline], strict=True)]
        injected = {condition: [sample.injection(condition) or "" for sample, _ in rows] for condition in INJECTIONS}
        embeddings = np.split(self.encoder(sum(injected.values(), texts)), len(self.policies) + len(INJECTIONS))
        probabilities = [np.split(estimator(texts), len(self.policies)) for estimator in self.estimators]
        missing = np.array([record["finish_reason"] == MISSING for _, record in rows])
        for i, policy in enumerate(self.policies):
            unscored = missing | ~np.array([c.scored for c in cleaned[policy]])
            found: dict[str, Any] = {}
            for position, estimator in enumerate(self.estimators):
                name = estimator.name if position else None
                for k, label in enumerate(LABELS):
                    found[column(policy, label, estimator=name)] = probabilities[position][i][:, k]
            for condition, own in zip(INJECTIONS, embeddings[len(self.policies) :], strict=True):
                found[column(policy, f"similarity_{condition}")] = cosine_similarity(embeddings[i], own)
                if self.injections is not None:
                    ranks = self.injections.ranks(embeddings[i], own, injected[condition], condition)
                    found[column(policy, f"topic_{condition}")] = ranks
            if policy == self.headline and self.with_whole:
                found |= self._of_whole(whole)
            columns[column(policy, "text")] = [c.text for c in cleaned[policy]]
            columns |= {name: np.where(unscored, np.nan, values) for name, values in found.items()}
        columns["names_injection"] = self._names_injection(rows, [c.text for c in cleaned[self.headline]])
        return self._with_headline(pd.DataFrame(columns))

    def _names_injection(self, rows: Sequence[tuple[Sample, Record]], texts: Sequence[str]) -> list[bool]:
        """Whether a text has a content word of its injection that stem and control answers lack."""
        controls: dict[str, list[str]] = {}
        for (sample, record), text in zip(rows, texts, strict=True):
            if record["condition"] == "control":
                controls.setdefault(sample.id, [sample.stem]).append(text)
        return [
            shares_content_word(text, injection, besides=controls.get(sample.id, [sample.stem])) if injection else False
            for (sample, record), text in zip(rows, texts, strict=True)
            for injection in [sample.injection(record["condition"])]
        ]

    def _of_whole(self, texts: Sequence[str]) -> dict[str, Any]:
        """Columns of P of stem and answer together, one set an estimator."""
        return {
            _whole_column(label, estimator=estimator.name if position else None): values
            for position, estimator in enumerate(self.estimators)
            for label, values in zip(LABELS, np.asarray(estimator(texts)).T, strict=True)
        }

    def _prompt_text(self, sample: Sample, condition: Condition) -> PromptText:
        inserted = body_of(sample, condition, self.place).inserted
        return PromptText(sample.stem, sample.injection(condition), self.instruction, inserted)

    def _with_headline(self, frame: pd.DataFrame) -> pd.DataFrame:
        frame["first_sentence"] = frame[column(self.headline, "text")]
        for label in LABELS:
            frame[label] = frame[column(self.headline, label)]
        frame["similarity"] = np.nan
        for condition in INJECTIONS:
            own = frame["condition"] == condition
            frame.loc[own, "similarity"] = frame.loc[own, column(self.headline, f"similarity_{condition}")]
        return frame


def column(policy: Cleaning, name: str, *, estimator: str | None = None) -> str:
    """Name of a policy's column: ``column("echo-free", "positive") == "echo_free_positive"``.

    `estimator` is the name of one that is not the run's first: ``vader/echo_free_positive``.
    """
    own = f"{policy.replace('-', '_')}_{name}"
    return own if estimator is None else f"{estimator}/{own}"


def _whole_column(label: str, *, estimator: str | None) -> str:
    return f"whole_{label}" if estimator is None else f"{estimator}/whole_{label}"


def needed_columns(policy: Cleaning) -> Callable[[str], bool]:
    """Says of a column whether a statistic of `policy` needs it; those of other policies are most of the table."""
    own = (column(policy, ""), _whole_column("", estimator=None))
    return lambda name: name in _FOR_EVERY_POLICY or name.rpartition("/")[2].startswith(own)


def leakage_scores(frame: pd.DataFrame, policy: Cleaning, *, estimator: str | None = None) -> LeakageScores:
    """The arrays of one cleaning policy, samples in the order of the table.

    Conditions that the run does not have at all are NaN throughout; a missing generation is an error. `estimator` names
    one that is not the run's first.
    """
    array = _Arrays(frame)
    labels = [column(policy, label, estimator=estimator) for label in LABELS]
    return LeakageScores(
        samples=array.samples,
        probabilities={condition: array(condition, labels) for condition in CONDITIONS},
        resampled_control=array("control", labels, resampled=True) if array.has_resampled else None,
        similarity_test={c: array(c, [column(policy, f"similarity_{c}")])[..., 0] for c in INJECTIONS},
        similarity_control={c: array("control", [column(policy, f"similarity_{c}")])[..., 0] for c in INJECTIONS},
    )


def whole_scores(frame: pd.DataFrame, *, estimator: str | None = None) -> LeakageScores:
    """As :func:`leakage_scores`, of stem and answer together, under the headline policy."""
    array = _Arrays(frame)
    labels = [_whole_column(label, estimator=estimator) for label in LABELS]
    return LeakageScores(array.samples, {condition: array(condition, labels) for condition in CONDITIONS})


class _Arrays:
    """Columns of a table as arrays of shape (samples, generations, columns)."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.samples = tuple(frame["sample"].unique())
        self._frame = frame
        self._resampled = frame["resampled"].to_numpy(bool)
        self._of = {condition: (frame["condition"] == condition).to_numpy(bool) for condition in CONDITIONS}
        self._n_generations = int(frame["generation"].to_numpy()[~self._resampled].max()) + 1

    @property
    def has_resampled(self) -> bool:
        """Is there a second set of control generations?"""
        return bool(self._resampled.any())

    def __call__(
        self, condition: Condition, names: Sequence[str], *, resampled: bool = False
    ) -> Float[np.ndarray, "samples generations columns"]:
        """Those of one condition; NaN for one that the run does not have at all."""
        shape = len(self.samples), self._n_generations, len(names)
        if not (self._of[condition] & ~self._resampled).any():
            return np.full(shape, np.nan)
        rows = self._frame.loc[self._of[condition] & (self._resampled == resampled), list(names)]
        if len(rows) != shape[0] * shape[1]:
            expected = shape[0] * shape[1]
            raise RunDirectoryError(f"{condition}: {len(rows)} generations instead of {expected}; continue the run")
        return rows.to_numpy(float).reshape(shape)


def topic_ranks(frame: pd.DataFrame, policy: Cleaning) -> dict[Condition, PerGeneration]:
    """By condition, how near an answer's own injection is to it among all; of a control answer the nearer polarity's.

    Conditions that the run does not have are NaN.
    """
    by_class = {name: _by_condition(frame, column(policy, f"topic_{name}"), absent=np.nan) for name in INJECTIONS}
    nearer = np.fmin(*(by_class[name]["control"] for name in POLARITIES))
    return {"control": nearer, **{name: by_class[name][name] for name in INJECTIONS}}


def with_on_task(frame: pd.DataFrame, log_p: ControlLikelihoods) -> pd.DataFrame:
    """The table with the columns ``log_p_control`` and ``on_task``; NaN where nothing was scored."""
    keys = zip(frame["prompt_id"], frame["generation"], strict=True)
    values = np.array([log_p.get(key, np.nan) for key in keys], dtype=float)
    control = (frame["condition"] == "control").to_numpy() & ~frame["resampled"].to_numpy()
    told = np.isfinite(values) & np.isfinite(quantile := control_quantile(values[control]))
    verdicts = pd.array(is_on_task(values, quantile), dtype="boolean")
    verdicts[~told] = pd.NA
    return frame.assign(log_p_control=values, on_task=verdicts)


def control_likelihoods(frame: pd.DataFrame) -> ControlLikelihoods:
    """What :func:`with_on_task` was given."""
    return dict(zip(zip(frame["prompt_id"], frame["generation"], strict=True), frame["log_p_control"], strict=True))


def log_p_by_condition(frame: pd.DataFrame) -> tuple[dict[Condition, PerGeneration], PerGeneration | None]:
    """``log_p_control`` by condition, and of the control answers that were sampled again, if there are any."""
    again = frame.loc[frame["resampled"]]
    shape = frame["sample"].nunique(), -1
    repeated = again["log_p_control"].to_numpy().reshape(shape) if len(again) else None
    return _by_condition(frame, "log_p_control", absent=np.nan), repeated


def topic_free_scores(frame: pd.DataFrame, policy: Cleaning) -> LeakageScores | None:
    """Scores without answers about the injection; None where topic is not told."""
    if column(policy, "topic_positive") not in frame:
        return None
    return without_topic(leakage_scores(frame, policy), on_injection(topic_ranks(frame, policy)))


def sampled_shift(frame: pd.DataFrame, policy: Cleaning) -> tuple[str, PerSample]:
    """Valence shift of each sample, without answers about the injection where topic is told, and what it is."""
    left = topic_free_scores(frame, policy)
    if left is None:
        return "valence shift", valence_shifts(leakage_scores(frame, policy))["valence_shift"]
    return "topic-free valence shift", valence_shifts(left)["valence_shift"]


def naming_injection(frame: pd.DataFrame) -> dict[Condition, Bool[np.ndarray, "samples generations"]]:
    """By condition, which answers have a content word of their injection that stem and control answers lack."""
    return _by_condition(frame, "names_injection", absent=False)


def _by_condition(frame: pd.DataFrame, name: str, *, absent: Any) -> dict[Condition, Any]:
    """A column of the table, shape (samples, generations)."""
    main = frame.loc[~frame["resampled"]]
    shape = main["sample"].nunique(), int(main["generation"].to_numpy().max()) + 1
    found: dict[Condition, Any] = {}
    for condition in CONDITIONS:
        values = main.loc[main["condition"] == condition, name].to_numpy()
        found[condition] = values.reshape(shape) if len(values) else np.full(shape, absent)
    return found


def echo_rates(frame: pd.DataFrame, policy: Cleaning) -> dict[str, Any]:
    """Share of generations whose first sentence repeats the prompt, and whose scored text is empty.

    Over all prompts with an injection (``echo_rate``, ``empty_rate``) and per condition; generations that a file from
    elsewhere lacks do not count. Where a model reasons, also
    the share of generations that do, and that never come to an answer (``reasoning_rate``, ``unanswered_rate``).
    """
    main = frame.loc[~frame["resampled"] & (frame["finish_reason"] != MISSING)]
    condition = main["condition"].to_numpy()
    flags = {"echo": main["echo"].to_numpy(bool), "empty": (main[column(policy, "text")] == "").to_numpy(bool)}

    if "reasoned" in frame and bool(main["reasoned"].any()):
        flags |= {"reasoning": main["reasoned"].to_numpy(bool), "unanswered": main["unanswered"].to_numpy(bool)}

    def share(flag: Bool[np.ndarray, " rows"]) -> float | None:
        return float(flag.mean()) if len(flag) else None

    rates: dict[str, Any] = {f"{name}_rate": share(flag[condition != "control"]) for name, flag in flags.items()}
    for name, flag in flags.items():
        rates[f"{name}_rates"] = {c: share(flag[condition == c]) for c in CONDITIONS}
    return rates
