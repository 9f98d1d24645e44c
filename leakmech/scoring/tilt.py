"""Affective tilt: how far a prompt shifts the odds between the model's own glad and sad completions of the stem.

Completions y of a stem are sampled once from the base model after the *control* prompt; v(y) is the valence of the
sentence of y that is scored. A prompt x (with an injection, under an intervention, of another model) tilts them by

    tilt(x) = Cov_y(v(y), log p(y | x)) = 1/(n - 1) sum_y (v(y) - mean v) log p(y | x),

in two forms: with log p summed over the tokens of y (to first order the change of the expected valence of what the
model would have said anyway: d/d lambda of E[v] where p is tilted by (p(y | x) / p(y | control))^lambda), and per token
(log p / number of tokens of y), where long completions do not drown the others. The mean runs over *samples*, so a text
that was drawn twice counts twice.

The completions cannot be about an injection, since the model had seen none. Nothing is sampled after injected prompts,
and tilt has a gradient. The **tilt shift** of a sample is tilt(positive) - tilt(negative); neutral - control is what
any further sentence does. Null: polarity labels swapped within samples, which turns the sign of the shift. Some
completions happen to have a word of an injection, which it could copy: numbers without them stand beside.

A stem with fewer than five different completions, or whose completions have one and the same valence, has no tilt: it
is named and left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from leakmech.datasets.samples import INJECTIONS, Condition
from leakmech.scoring.inference import swap_test
from leakmech.scoring.leakage import PerSample
from leakmech.scoring.statistics import (
    DRAWS,
    LEVEL,
    Interval,
    bootstrap,
    bootstrap_dz,
    bootstrap_ratio,
    cohens_dz,
    divide,
    json_number,
)

Form = Literal["per_token", "summed"]
FORMS: tuple[Form, ...] = get_args(Form)
STEPS = (4, 8, 12, 16)
"""Numbers of completions at which the effect is told."""
FEWEST_DISTINCT = 5
"""A stem with fewer different completions has no tilt."""
TOO_FEW = f"fewer than {FEWEST_DISTINCT} different completions"
NO_SPREAD = "completions of one valence"

_ROUNDING = 1e-9


def shift_column(estimator: str | None = None) -> str:
    """The column of ``tables/tilt.csv`` with the shift per token by an estimator; None: the headline's."""
    return "per_token_shift" if estimator is None else f"{estimator}/per_token_shift"


def affective_tilt(
    log_p: Float[Tensor, "*batch completions"],
    valence: Float[Tensor, "*batch completions"],
    *,
    counted: Bool[Tensor, "*batch completions"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Covariance over completions of valence and log-likelihood, with n - 1; it has a gradient in both.

    Parameters
    ----------
    log_p
        Log-likelihood of each completion after the prompt, in nats (summed, or per token); finite.
    valence
        Valence of each completion; finite. Shapes are broadcast.
    counted
        Which completions count; all by default.

    Returns
    -------
    Tensor
        In nats times valence (or nats a token). NaN for fewer than two completions.
    """
    return (tilt_weights(valence, counted=counted) * log_p).sum(-1)


def tilt_weights(
    valence: Float[Tensor, "*batch completions"], *, counted: Bool[Tensor, "*batch completions"] | None = None
) -> Float[Tensor, "*batch completions"]:
    """What each log-likelihood counts in :func:`affective_tilt`: centred valence over n - 1; they sum to 0."""
    there = torch.ones_like(valence) if counted is None else counted.to(valence.dtype)
    n = there.sum(-1, keepdim=True)
    return there * (valence - (there * valence).sum(-1, keepdim=True) / n) / (n - 1)


def why_no_tilt(
    n_distinct: int, valence: Float[np.ndarray, " completions"], *, fewest: int = FEWEST_DISTINCT
) -> str | None:
    """Why a stem with these completions has no tilt; None where it has one."""
    if n_distinct < fewest:
        return TOO_FEW
    return None if valence.max() - valence.min() > _ROUNDING else NO_SPREAD


@dataclass(frozen=True, eq=False)
class TiltData:
    """Completions of every stem and how probable each prompt makes them; missing completions are NaN, 0 or -1.

    Attributes
    ----------
    samples, conditions
        Names along the first axes.
    text_numbers
        Number of each completion's text among the texts of its stem; equal texts share it, -1: no completion.
    n_tokens
        Tokens of each completion.
    log_p
        Summed log-likelihoods, in nats.
    valence
        By estimator, the headline's first.
    shares_word
        Which completions have a content word of the positive or negative injection that the stem lacks.
    """

    samples: tuple[str, ...]
    conditions: tuple[Condition, ...]
    text_numbers: Int[np.ndarray, "samples completions"]
    n_tokens: Int[np.ndarray, "samples completions"]
    log_p: Float[np.ndarray, "samples conditions completions"]
    valence: Mapping[str, Float[np.ndarray, "samples completions"]]
    shares_word: Bool[np.ndarray, "samples completions"]

    @property
    def there(self) -> Bool[np.ndarray, "samples completions"]:
        """Which completions there are."""
        return self.text_numbers >= 0

    @property
    def headline(self) -> str:
        """Name of the first estimator."""
        return next(iter(self.valence))

    def n_distinct(self, counted: Bool[np.ndarray, "samples completions"]) -> Int[np.ndarray, " samples"]:
        """Number of different texts among those that count."""
        return np.array([len(set(own[kept])) for own, kept in zip(self.text_numbers, counted, strict=True)])

    def reasons(
        self, estimator: str, counted: Bool[np.ndarray, "samples completions"], *, fewest: int = FEWEST_DISTINCT
    ) -> tuple[str | None, ...]:
        """Why each stem has no tilt; None where it has."""
        stems = zip(self.n_distinct(counted).tolist(), self.valence[estimator], counted, strict=True)
        return tuple(why_no_tilt(n, own[kept], fewest=fewest) for n, own, kept in stems)

    def tilts(
        self,
        form: Form,
        *,
        estimator: str | None = None,
        counted: Bool[np.ndarray, "samples completions"] | None = None,
        fewest: int = FEWEST_DISTINCT,
    ) -> Float[np.ndarray, "samples conditions"]:
        """Tilt of every prompt; NaN where the stem has none."""
        estimator, counted = estimator or self.headline, self.there if counted is None else counted & self.there
        log_p = self.log_p if form == "summed" else self.log_p / np.maximum(self.n_tokens, 1)[:, None]
        found = affective_tilt(
            torch.from_numpy(np.where(counted[:, None], log_p, 0.0)),
            torch.from_numpy(np.where(counted, self.valence[estimator], 0.0))[:, None],
            counted=torch.from_numpy(counted)[:, None],
        ).numpy()
        left_out = np.array([reason is not None for reason in self.reasons(estimator, counted, fewest=fewest)])
        return np.where(left_out[:, None], np.nan, found)

    def shift(
        self, tilts: Float[np.ndarray, "samples conditions"], one: Condition, other: Condition
    ) -> PerSample | None:
        """Difference of tilt between two conditions; None where the run has not both."""
        if one not in self.conditions or other not in self.conditions:
            return None
        return tilts[:, self.conditions.index(one)] - tilts[:, self.conditions.index(other)]


def tilt_statistics(
    data: TiltData, *, sampled: PerSample, seed: int, draws: int = DRAWS, level: float = LEVEL
) -> dict[str, Any]:
    """Every number about tilt, ready for JSON; None stands for what cannot be computed.

    Parameters
    ----------
    data
        Completions and likelihoods.
    sampled
        Valence shift of each sample from generations, to hold the tilt shift against.
    seed, draws, level
        Of the bootstrap over samples, and of the swaps.

    Returns
    -------
    dict
        ``per_token`` and ``summed`` (:func:`shift_statistics`, with ``by_condition`` against control and
        ``context_shift``, and the correlation with `sampled`), for all completions by the headline estimator;
        ``without_shared_words``, ``by_estimator`` and ``by_completions`` (the effect for the first 4, 8, … ones) of the
        same; ``left_out`` by reason.
    """
    options = {"seed": seed, "draws": draws, "level": level}
    apart = ~data.shares_word
    return {
        "n_samples": len(data.samples),
        "completions_per_stem": float(data.there.sum(axis=1).mean()),
        "distinct_per_stem": float(data.n_distinct(data.there).mean()),
        **{form: _form_statistics(data, form, sampled, **options) for form in FORMS},
        "left_out": _left_out(data, data.headline, data.there),
        "without_shared_words": {
            "n_dropped": int((data.shares_word & data.there).sum()),
            **{form: shift_statistics(_shift(data, data.tilts(form, counted=apart)), **options) for form in FORMS},
            "left_out": _left_out(data, data.headline, data.there & apart),
        },
        "by_estimator": {
            name: {
                **{form: shift_statistics(_shift(data, data.tilts(form, estimator=name)), **options) for form in FORMS},
                "left_out": _left_out(data, name, data.there),
            }
            for name in data.valence
        },
        "by_completions": [_at_step(data, n, **options) for n in STEPS if n <= data.there.shape[1]],
    }


def shift_statistics(shift: PerSample, *, seed: int, draws: int = DRAWS, level: float = LEVEL) -> dict[str, Any]:
    """Tilt shift over samples: mean, d_z, share above 0 (a shift of 0 counts half), each with an interval, and the
    swap null.

    ``p_swap`` is one-sided, towards the injection; if labels are swapped at random, 95 % of d_z lie in
    ``d_z_swap_null``. Where no shift differs from 0, it is 1.
    """
    known = shift[np.isfinite(shift)]
    options = {"seed": seed, "draws": draws, "level": level}
    found = _mean_and_dz("shift", shift, **options)
    above = np.where(np.isfinite(shift), (np.sign(shift) + 1) / 2, np.nan)
    found |= {
        "d_z": found.pop("shift_d_z"),
        "d_z_ci": found.pop("shift_d_z_ci"),
        "n": len(known),
        "n_right": int((known > 0).sum()),
        "n_tied": int((known == 0).sum()),
        "right_sign": json_number(float(divide(np.nansum(above), len(known)))),
        "right_sign_ci": _mean_interval(above, **options),
        "p_swap": None,
        "d_z_swap_null": None,
    }
    if len(known) > 1:
        columns = np.stack([np.ones_like(known), known, known**2], axis=1)
        test = swap_test(columns, columns * [1, -1, 1], _dz_of_sums, seed=seed, draws=draws, alternative="greater")[0]
        found["p_swap"] = json_number(test.p) if known.any() else 1.0
        found["d_z_swap_null"] = Interval(test.null_low, test.null_high).to_json()
    return found


def _form_statistics(data: TiltData, form: Form, sampled: PerSample, **options: Any) -> dict[str, Any]:
    tilts = data.tilts(form)
    shift = _shift(data, tilts)
    found = shift_statistics(shift, **options)
    from_control = {name: data.shift(tilts, name, "control") for name in INJECTIONS}
    found["by_condition"] = {
        name: None if own is None else _mean_and_dz("shift", own, **options) for name, own in from_control.items()
    }
    context = from_control["neutral"]
    nothing = {f"context_shift{end}": None for end in ("", "_ci", "_d_z", "_d_z_ci")}
    found |= nothing if context is None else _mean_and_dz("context_shift", context, **options)
    r, ends = correlation(shift, sampled, **options)
    return found | {"sampled_r": r, "sampled_r_ci": ends}


def _shift(data: TiltData, tilts: Float[np.ndarray, "samples conditions"]) -> PerSample:
    shift = data.shift(tilts, "positive", "negative")
    if shift is None:
        raise AssertionError("tilt needs the positive and the negative prompts")
    return shift


def _at_step(data: TiltData, n: int, **options: Any) -> dict[str, Any]:
    """The effect if only the first `n` completions had been drawn."""
    first = data.there & (np.arange(data.there.shape[1]) < n)
    row: dict[str, Any] = {"completions": n}
    for form in FORMS:
        whole = _shift(data, data.tilts(form))
        shift = np.where(np.isnan(whole), np.nan, _shift(data, data.tilts(form, counted=first, fewest=2)))
        ends = bootstrap_dz(shift, **options).to_json()
        row |= {
            f"{form}_d_z": json_number(cohens_dz(shift)),
            f"{form}_d_z_ci": ends,
            "n": int(np.isfinite(shift).sum()),
        }
    return row


def _left_out(data: TiltData, estimator: str, counted: Bool[np.ndarray, "samples completions"]) -> dict[str, list[str]]:
    """Names of the samples without tilt, by reason."""
    reasons = data.reasons(estimator, counted)
    return {
        reason: [name for name, own in zip(data.samples, reasons, strict=True) if own == reason]
        for reason in (TOO_FEW, NO_SPREAD)
    }


# -- over samples ------------------------------------------------------------------------------------------------------


def _mean_and_dz(name: str, values: PerSample, **options: Any) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    return {
        name: json_number(float(known.mean())) if len(known) else None,
        f"{name}_ci": _mean_interval(values, **options),
        f"{name}_d_z": json_number(cohens_dz(values)),
        f"{name}_d_z_ci": bootstrap_dz(values, **options).to_json(),
    }


def _mean_interval(values: PerSample, **options: Any) -> list[float] | None:
    return bootstrap_ratio(values, np.ones_like(values), **options).to_json()


def _dz_of_sums(sums: Float[np.ndarray, "rows 3"]) -> Float[np.ndarray, "rows 1"]:
    n, first, second = (sums[:, [column]] for column in range(3))
    squares = np.maximum(second - divide(first**2, n), 0.0)
    return divide(divide(first, n), np.sqrt(squares / (n - 1)))


def correlation(
    one: PerSample, other: PerSample, *, seed: int, draws: int = DRAWS, level: float = LEVEL
) -> tuple[float | None, list[float] | None]:
    """Pearson's r over the samples that have both values, with its bootstrap interval; None for fewer than three."""
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < 3:
        return None, None
    x, y = (values[both] - values[both].mean() for values in (one, other))
    columns = np.stack([np.ones_like(x), x, y, x**2, y**2, x * y], axis=1)
    interval = bootstrap(columns, _r_of_sums, seed=seed, draws=draws, level=level)[0]
    return json_number(float(_r_of_sums(columns.sum(axis=0, keepdims=True))[0, 0])), interval.to_json()


def _r_of_sums(sums: Float[np.ndarray, "rows 6"]) -> Float[np.ndarray, "rows 1"]:
    n, x, y, xx, yy, xy = (sums[:, [column]] for column in range(6))
    variances = [np.maximum(square - divide(first**2, n), 0.0) for first, square in ((x, xx), (y, yy))]
    return divide(xy - divide(x * y, n), np.sqrt(variances[0] * variances[1]))


def text_numbers(texts: Sequence[str]) -> list[int]:
    """A number for each text, the same for equal ones."""
    place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return [place[text] for text in texts]
