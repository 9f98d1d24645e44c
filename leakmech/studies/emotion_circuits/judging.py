"""Replies as judges read them, and the numbers of a set of replies.

Judges see a reply and nothing else. Beside accuracy (the judged emotion is the commanded one; chance with seven classes
is 1/7) every number that a template would spoil:

    cut          accuracy of what is left without the first clause
    relevance    share of the other events that the reply is less like than its own, by cosine of sentence embeddings;
                 0.5 for one text for all events
    perplexity   of the reply under the base model after the event without a command
    words        mean length
    modal_share, distinct_2     :mod:`leakmech.studies.emotion_circuits.collapse`

Intervals resample scenarios.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from leakmech.core.progress import Progress, no_progress
from leakmech.core.text import normalised_words
from leakmech.datasets.emotions import EMOTIONS
from leakmech.generation.likelihood import log_likelihoods
from leakmech.generation.variants import Continuation, ModelVariant
from leakmech.scoring.emotion_judges import CLASSES, EmotionJudge, judged
from leakmech.scoring.semantic import SentenceEncoder
from leakmech.scoring.statistics import bootstrap_ratios, json_number
from leakmech.studies.emotion_circuits.collapse import collapse
from leakmech.studies.emotion_circuits.elicitation import Reply

_CLAUSE = re.compile(r"^[^,.;:!?…—]*[,.;:!?…—]+\s*")
OVERALL = "overall"
Row = dict[str, Any]


def judge_replies(
    replies: Sequence[Reply],
    *,
    judges: Sequence[EmotionJudge],
    encoder: SentenceEncoder,
    base: ModelVariant,
    events: Mapping[str, str],
    uncommanded: Mapping[str, tuple[int, ...]],
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """One row per reply; `events` has the text of each event and `uncommanded` the prompt without a command."""
    texts = [reply.text for reply in replies]
    cut = [_CLAUSE.sub("", text) for text in texts]
    found: dict[str, Any] = {
        "id": [reply.id for reply in replies],
        "scenario": [reply.event.rpartition("/")[0] for reply in replies],
        "event": [reply.event for reply in replies],
        "theme": [reply.theme for reply in replies],
        "valence": [reply.valence for reply in replies],
        "emotion": [reply.emotion for reply in replies],
        "text": texts,
    }
    for judge in judges:
        found[judge.name] = judged(judge(texts))
        found[f"cut_{judge.name}"] = [
            name if text.strip() else None for name, text in zip(judged(judge(cut)), cut, strict=True)
        ]
    read = [Continuation(r.id, r.event, uncommanded[r.event], r.tokens) for r in replies]
    likelihoods = log_likelihoods(base, read, batch_size=batch_size, progress=progress)
    found |= {
        "words": [len(normalised_words(text)) for text in texts],
        "tokens": likelihoods.n_tokens,
        "nats": -likelihoods.log_likelihood,
        "relevance": _relevance(replies, encoder, events),
    }
    return pd.DataFrame(found)


def _relevance(replies: Sequence[Reply], encoder: SentenceEncoder, events: Mapping[str, str]) -> np.ndarray:
    names = {name: place for place, name in enumerate(events)}
    own = np.array([names[reply.event] for reply in replies])
    cosines = encoder([reply.text for reply in replies]) @ encoder(list(events.values())).T
    at_own = cosines[np.arange(len(own)), own][:, None]
    if len(names) < 2:
        return np.full(len(own), np.nan)
    below = (cosines < at_own).sum(axis=1) + ((cosines == at_own).sum(axis=1) - 1) / 2
    return np.where([reply.text != "" for reply in replies], below / (len(names) - 1), np.nan)


# -- numbers of a set of replies -------------------------------------------------------------------------------------


def accuracy_rows(frame: pd.DataFrame, judges: Sequence[str], *, seed: int, draws: int) -> list[Row]:
    """Accuracy by emotion and overall, by each judge, of the whole reply and without its first clause."""
    rows = []
    for emotion in (*EMOTIONS, OVERALL):
        own: Any = frame if emotion == OVERALL else frame[frame["emotion"] == emotion]
        for judge in judges:
            right = (own[judge] == own["emotion"]).astype(float).to_numpy()
            cut = own[f"cut_{judge}"]
            right_cut = np.where(cut.isna(), np.nan, (cut == own["emotion"]).astype(float))
            (rate, ci), (rate_cut, _) = _rates(own["scenario"], [right, right_cut], seed=seed, draws=draws)
            rows.append({
                "emotion": emotion, "judge": judge, "rate": rate, "low": ci[0], "high": ci[1], "cut": rate_cut,
                "n": len(own), **_by_valence(own, right),
            })  # fmt: skip
    return rows


def difference_rows(ones: Any, others: Sequence[Any], judge: str, *, seed: int, draws: int) -> list[Row]:
    """Accuracy of one set of replies less the mean of others to the same events, by emotion and overall."""
    rows = []
    for emotion in (*EMOTIONS, OVERALL):
        own, theirs = (
            [f if emotion == OVERALL else f[f["emotion"] == emotion] for f in frames] for frames in ([ones], others)
        )
        right = [dict(zip(f["id"], (f[judge] == f["emotion"]).astype(float), strict=True)) for f in (*own, *theirs)]
        change = np.array([right[0][key] - np.mean([other[key] for other in right[1:]]) for key in right[0]])
        ((value, ci),) = _rates(own[0]["scenario"], [change], seed=seed, draws=draws)
        rows.append({"emotion": emotion, "difference": value, "low": ci[0], "high": ci[1], "n": len(change)})
    return rows


def quality_row(frame: Any, *, seed: int, draws: int) -> Row:
    """Perplexity, length and relevance, with intervals, and how far replies to each emotion collapse (means)."""
    rates = _rates(
        frame["scenario"],
        [frame["words"].to_numpy(float), frame["relevance"].to_numpy(float)],
        seed=seed,
        draws=draws,
    )
    (words, _), (relevance, relevance_ci) = rates
    nats = frame.groupby("scenario")[["nats", "tokens"]].sum().to_numpy(float)
    interval = bootstrap_ratios(nats[:, :1], nats[:, 1:], seed=seed, draws=draws)[0]
    mean = float(nats[:, 0].sum() / nats[:, 1].sum()) if nats[:, 1].sum() else float("nan")
    return {
        "perplexity": json_number(np.exp(mean)), "perplexity_low": json_number(np.exp(interval.low)),
        "perplexity_high": json_number(np.exp(interval.high)), "words": words, "relevance": relevance,
        "relevance_low": relevance_ci[0], "relevance_high": relevance_ci[1],
        "empty": float((frame["words"] == 0).mean()), **_collapse(frame),
    }  # fmt: skip


def collapse_rows(frame: Any) -> list[Row]:
    """How far the replies to each emotion collapse to one template."""
    return [
        {"emotion": emotion, **vars(collapse(frame.loc[frame["emotion"] == emotion, "text"].tolist()))}
        for emotion in EMOTIONS
    ]


def confusion(frame: Any, judge: str) -> pd.DataFrame:
    """Counts of commanded by judged emotions."""
    counts = pd.crosstab(frame["emotion"], frame[judge])
    return counts.reindex(index=[*EMOTIONS], columns=[*CLASSES], fill_value=0).reset_index()


def kappa(frame: Any, judges: Sequence[str]) -> dict[str, float | None]:
    """Cohen's kappa between each two judges."""
    return {
        f"{one} and {other}": json_number(cohen_kappa_score(frame[one], frame[other], labels=list(CLASSES)))
        for i, one in enumerate(judges)
        for other in judges[i + 1 :]
    }


def _collapse(frame: Any) -> Row:
    rows = collapse_rows(frame)
    return {name: float(np.mean([row[name] for row in rows])) for name in ("modal_share", "distinct_2")}


def _by_valence(own: pd.DataFrame, right: np.ndarray) -> Row:
    means: Any = pd.Series(right, index=own.index).groupby(own["valence"]).mean()
    return {f"rate_{valence}": float(value) for valence, value in means.items()}


def _rates(
    scenarios: pd.Series, values: Sequence[np.ndarray], *, seed: int, draws: int
) -> list[tuple[float | None, tuple[float | None, float | None]]]:
    """Means of values, NaN left out, with intervals over scenarios."""
    codes, names = pd.factorize(scenarios)
    sums = np.zeros((len(names), len(values)))
    counts = np.zeros_like(sums)
    for column, own in enumerate(values):
        there = ~np.isnan(own)
        np.add.at(sums[:, column], codes[there], own[there])
        np.add.at(counts[:, column], codes[there], 1.0)
    intervals = bootstrap_ratios(sums, counts, seed=seed, draws=draws)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums.sum(axis=0) / counts.sum(axis=0)
    return [
        (json_number(mean), (json_number(interval.low), json_number(interval.high)))
        for mean, interval in zip(means, intervals, strict=True)
    ]
