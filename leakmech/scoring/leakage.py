"""Expression leakage, semantic leakage and valence shifts of one model on one set of samples.

Let P be the expression estimator's output for a first sentence, c the control and t a test prompt of the same sample
with injection l; generations are indexed 1..K. Leakage of a pair of generations is EL = [P_t[l] > P_c[l]] (paper,
Eq. 1) and mu_EL is its mean (Eq. 2). The paper does not say how the K generations of the two prompts are paired, and
the choice moves the number, so there are three pairings:

* ``index``: generation i against generation i, strictly; the mean is over all valid pairs of all prompts (``mu_el``);
* ``all``: all K * K pairs with ties counted ½, a mean per prompt and then over prompts: the area under the ROC curve of
  P[l] as a detector of the injection, within prompts (``auc_el``);
* ``mean``: the mean of P over the generations first, then one strict comparison per prompt (``mu_el_mean``).

0.5 is what answers that are like the control's give; the strict comparisons lie below that when there are ties.
"Overall" pools positive and negative prompts, with both prompts of a sample kept together when samples are resampled;
neutral is given separately.

A charged sentence can also make answers more intense, whichever its polarity: P[neutral] falls, P[positive] and
P[negative] rise, and EL is away from 0.5 though polarity does nothing. With A(x, l) the all-pairs EL on label l of the
prompts with injection x,

    contrast = mean over l of A(l, l) - A(l', l),    l' the other polarity,

is 0 then: own-label minus wrong-label EL. It is the difference that exchanging the two injections makes, so twice the
distance of ``auc_el`` from the mean of its swap null.

Valence is s = P[positive] - P[negative]. Shifts are differences, within a sample, between mean valences of conditions.
A generation that cleaning left empty is NaN throughout: it takes part in no pair and no mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from leakmech.core.errors import UsageError, nearest
from leakmech.datasets.samples import CONDITIONS, INJECTIONS, POLARITIES, Condition, Polarity
from leakmech.scoring.inference import SwapTest, swap_test
from leakmech.scoring.statistics import (
    DRAWS,
    LEVEL,
    Interval,
    UnitRatio,
    bootstrap,
    bootstrap_dz,
    cohens_dz,
    json_number,
    ratio_columns,
    ratios_of_sums,
    wilcoxon_greater,
)

Pairing = Literal["index", "all", "mean"]
PAIRINGS: tuple[Pairing, ...] = get_args(Pairing)
LABELS = ("negative", "neutral", "positive")

PerGeneration = Float[np.ndarray, "samples generations"]
PerSample = Float[np.ndarray, " samples"]

_MEAN_DECIMALS = 12  # means are rounded to this, so that the order of summation cannot break a tie


@dataclass(frozen=True, eq=False)
class LeakageScores:
    """What was scored for one model on one set of samples; every statistic below is a function of it.

    A generation that was not scored is NaN throughout.
    """

    samples: tuple[str, ...]
    """Ids, in the order of the first axis of every array."""
    probabilities: Mapping[Condition, Float[np.ndarray, "samples generations 3"]]
    """P in the order of :data:`LABELS`, for each of the four conditions."""
    resampled_control: Float[np.ndarray, "samples generations 3"] | None = None
    """P of a second set of control generations, drawn independently of the first; for the noise floor."""
    similarity_test: Mapping[Condition, PerGeneration] | None = None
    """Cosine similarity of each injection to the first sentences of its own prompt; None without an encoder."""
    similarity_control: Mapping[Condition, PerGeneration] | None = None
    """Cosine similarity of each injection to the first sentences of the control prompt."""

    def __post_init__(self) -> None:
        _check_conditions("probabilities", self.probabilities, CONDITIONS)
        generations = next(iter(self.probabilities.values())).shape[1:2]
        shape = (len(self.samples), *generations)
        for condition in CONDITIONS:
            _check_probabilities(f"probabilities[{condition!r}]", self.probabilities[condition], (*shape, 3))
        if self.resampled_control is not None:
            _check_probabilities("resampled_control", self.resampled_control, (*shape, 3))
        if (self.similarity_test is None) != (self.similarity_control is None):
            raise UsageError("leakage scores: similarity_test and similarity_control must be given together")
        for name in ("similarity_test", "similarity_control"):
            similarity = getattr(self, name)
            if similarity is not None:
                _check_conditions(name, similarity, INJECTIONS)
                for condition in INJECTIONS:
                    _check_array(f"{name}[{condition!r}]", similarity[condition], shape)


def _check_conditions(name: str, arrays: Mapping[Condition, Any], expected: tuple[Condition, ...]) -> None:
    if set(arrays) != set(expected):
        raise UsageError(f"leakage scores: {name} must have the keys {', '.join(expected)}; has {', '.join(arrays)}")


def _check_array(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise UsageError(f"leakage scores: {name} has shape {array.shape}; expected {shape} for these samples")
    if np.isinf(array).any():
        raise UsageError(f"leakage scores: {name} has infinite values; use NaN for what was not scored")


def _check_probabilities(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    _check_array(name, array, shape)
    missing = np.isnan(array)
    if (missing.any(axis=-1) != missing.all(axis=-1)).any():
        raise UsageError(f"leakage scores: {name} has rows that are partly NaN; a generation is scored or it is not")


def expression_leakage(test: PerGeneration, control: PerGeneration, *, pairing: Pairing) -> UnitRatio:
    """Contributions of each sample to mu_EL, from P[l] of test and control generations (paper, Eq. 1-2).

    A sample without a valid pair contributes 0 over 0.
    """
    if pairing == "index":
        valid = ~(np.isnan(test) | np.isnan(control))
        return UnitRatio((test > control).sum(axis=1, dtype=float), valid.sum(axis=1, dtype=float))
    if pairing == "all":
        return UnitRatio.mean_of(_all_pairs(test, control))
    if pairing == "mean":
        means = np.round(_mean(test), _MEAN_DECIMALS), np.round(_mean(control), _MEAN_DECIMALS)
        return UnitRatio.mean_of(np.where(np.isnan(means).any(axis=0), np.nan, means[0] > means[1]))
    raise UsageError(f"unknown pairing {pairing!r}{nearest(str(pairing), PAIRINGS)}")


def condition_leakage(scores: LeakageScores, condition: Condition, *, pairing: Pairing) -> UnitRatio:
    """EL of one injected condition against control, on the condition's own label."""
    test, control = own_label(scores, condition)
    return expression_leakage(test, control, pairing=pairing)


def overall_leakage(scores: LeakageScores, *, pairing: Pairing) -> UnitRatio:
    """EL of positive and negative prompts pooled; a sample contributes both of its prompts."""
    positive, negative = (condition_leakage(scores, condition, pairing=pairing) for condition in POLARITIES)
    return positive + negative


def label_contrast(scores: LeakageScores, label: Polarity) -> UnitRatio:
    """All-pairs EL on one label of the prompts whose own label it is, minus that of the other polarity's prompts.

    Only samples of which control, positive and negative generations were scored say something. The mean is 0 where
    polarity does nothing, whatever charged sentences do by themselves, and lies in [-1, 1].
    """
    wrong: Polarity = "negative" if label == "positive" else "positive"
    own, control = own_label(scores, label)
    other = scores.probabilities[wrong][:, :, LABELS.index(label)]
    return UnitRatio.mean_of(_all_pairs(own, control) - _all_pairs(other, control))


def contrast(scores: LeakageScores) -> UnitRatio:
    """Own-label minus wrong-label EL over both labels; see the head of this module."""
    positive, negative = (label_contrast(scores, label) for label in POLARITIES)
    return positive + negative


def semantic_leakage(scores: LeakageScores, condition: Condition) -> UnitRatio | None:
    """Contributions to the semantic leakage rate mu_L over index pairs (paper, Eq. 3-4); None without similarities.

    A pair counts 1 when the injection is more similar to the test than to the control sentence, 0 when less, ½ when
    equally similar.
    """
    if scores.similarity_test is None or scores.similarity_control is None:
        return None
    outcome = _comparison(scores.similarity_test[condition], scores.similarity_control[condition])
    valid = ~np.isnan(outcome)
    return UnitRatio(np.where(valid, outcome, 0.0).sum(axis=1), valid.sum(axis=1, dtype=float))


def leakage_differences(scores: LeakageScores, condition: Condition) -> PerSample:
    """d_j = mean_i P_t[l] - mean_i P_c[l], one value per prompt: what W_EL tests. NaN where either mean is missing."""
    test, control = own_label(scores, condition)
    return np.round(_mean(test) - _mean(control), _MEAN_DECIMALS)


def valence_of(probabilities: Float[np.ndarray, "*texts 3"]) -> Float[np.ndarray, "*texts"]:
    """P[positive] - P[negative] of an estimator's output."""
    return probabilities[..., LABELS.index("positive")] - probabilities[..., LABELS.index("negative")]


def mean_valence(scores: LeakageScores, condition: Condition) -> PerSample:
    """Mean valence P[positive] - P[negative] over the scored generations of each sample; NaN where there are none."""
    probabilities = scores.probabilities[condition]
    return _mean(valence_of(probabilities))


def valence_shifts(scores: LeakageScores) -> dict[str, PerSample]:
    """Shifts of mean valence within each sample; NaN where a mean is missing.

    ``positive_shift`` and ``negative_shift`` are above 0 when generations move from neutral towards the injection,
    ``asymmetry`` when negative injections move them more; ``context_shift`` is what any extra sentence does.
    """
    positive, neutral, negative = (mean_valence(scores, condition) for condition in ("positive", "neutral", "negative"))
    control = mean_valence(scores, "control")
    shifts = {
        "valence_shift": positive - negative,
        "context_shift": neutral - control,
        "positive_shift": positive - neutral,
        "negative_shift": neutral - negative,
        "asymmetry": (neutral - negative) - (positive - neutral),
    }
    return {name: np.round(shift, _MEAN_DECIMALS) for name, shift in shifts.items()}


def noise_floor(scores: LeakageScores, *, pairing: Pairing) -> UnitRatio | None:
    """EL of resampled control against control, averaged over the labels positive and negative; None without it."""
    if scores.resampled_control is None:
        return None
    positive, negative = (
        expression_leakage(
            scores.resampled_control[:, :, LABELS.index(label)],
            scores.probabilities["control"][:, :, LABELS.index(label)],
            pairing=pairing,
        )
        for label in POLARITIES
    )
    return positive + negative


def polarity_swap_tests(scores: LeakageScores, *, seed: int, draws: int = DRAWS) -> dict[str, SwapTest]:
    """Test whether polarity matters, for the three of :func:`main_ratios`: one-sided, towards the injection.

    Under the null a sample's positive and negative injection may be exchanged, whatever a charged sentence does by
    itself. W_EL asks another question: whether generations move towards the injection when compared with the control.
    Exchanging all of them sends contrast to its negative, so its p is that of auc_el where every generation was scored.
    """
    exchanged = {"positive": scores.probabilities["negative"], "negative": scores.probabilities["positive"]}
    swapped = replace(scores, probabilities={**scores.probabilities, **exchanged})
    observed, other = main_ratios(scores), main_ratios(swapped)
    first, second = (ratio_columns(list(own.values())) for own in (observed, other))
    tests = swap_test(first, second, ratios_of_sums, seed=seed, draws=draws, alternative="greater")
    return dict(zip(observed, tests, strict=True))


def main_ratios(scores: LeakageScores) -> dict[str, UnitRatio]:
    """The three statistics of affect: ``auc_el``, ``contrast`` and ``valence_shift``."""
    return {
        "auc_el": overall_leakage(scores, pairing="all"),
        "contrast": contrast(scores),
        "valence_shift": UnitRatio.mean_of(valence_shifts(scores)["valence_shift"]),
    }


def main_statistics(
    scores: LeakageScores, *, seed: int, draws: int = DRAWS, level: float = LEVEL
) -> dict[str, float | list[float] | None]:
    """The three of :func:`main_ratios`, each with ``<name>_ci``, ready for JSON."""
    return with_intervals({"all": main_ratios(scores)}, seed=seed, draws=draws, level=level)["all"]


def leakage_headline(scores: LeakageScores) -> dict[str, float | None]:
    """The overall leakage without intervals: ``mu_el, auc_el, mu_el_mean`` and ``w_el`` (a p value).

    None stands for what cannot be computed because nothing was scored.
    """
    differences = np.concatenate([leakage_differences(scores, condition) for condition in POLARITIES])
    values = {name: ratio.value for name, ratio in _overall_el(scores).items()}
    return {name: json_number(value) for name, value in (values | {"w_el": wilcoxon_greater(differences)}).items()}


def leakage_statistics(scores: LeakageScores, *, seed: int, draws: int = DRAWS, level: float = LEVEL) -> dict[str, Any]:
    """Every leakage statistic of a run, ``overall`` and in ``conditions``, with intervals; ready for JSON.

    ``<name>_ci`` is ``[low, high]``, and None stands for a number that cannot be computed. ``w_el`` (one value per
    prompt), ``w_el_per_sample`` (the mean over a sample's positive and negative prompt) and ``<name>_p_swap`` are **p
    values**; 95 % of auc_el lie in ``auc_el_swap_null`` when labels are swapped at random. ``valence`` is a mean over
    samples of means over generations.

    ``w_el`` takes both prompts of a sample as independent, though they share their control. A control generation that
    happens to be sad raises leakage to positive and lowers leakage to negative, so that their differences correlate
    below 0 and the test rejects too rarely: with no leakage, made by dealing the embedded model's control generations
    out at random to the three conditions (4,000 times, 60 samples x 6 generations), in 2.6 % instead of 5 %, and
    ``w_el_per_sample`` in 3.8 % (simulated runs: 4.0 % and 4.2 %). An estimator under which P[positive] and
    P[negative] rise together would make it reject too often: rely on the test per sample.

    A statistic that is the same in every sample (leakage 1.0 throughout) has an interval of zero width: the bootstrap
    knows only the spread that it sees.
    """
    sections = with_intervals(_all_ratios(scores), seed=seed, draws=draws, level=level)
    overall = leakage_headline(scores) | sections.pop("overall")
    per_polarity = np.stack([leakage_differences(scores, condition) for condition in POLARITIES], axis=1)
    shift = valence_shifts(scores)["valence_shift"]
    overall["w_el_per_sample"] = json_number(wilcoxon_greater(np.round(_mean(per_polarity), _MEAN_DECIMALS)))
    swaps = polarity_swap_tests(scores, seed=seed, draws=draws)
    overall |= {f"{name}_p_swap": json_number(test.p) for name, test in swaps.items()}
    overall["auc_el_swap_null"] = Interval(swaps["auc_el"].null_low, swaps["auc_el"].null_high).to_json()
    overall["valence_d_z"] = json_number(cohens_dz(shift))
    overall["valence_d_z_ci"] = bootstrap_dz(shift, seed=seed, draws=draws, level=level).to_json()
    for condition in CONDITIONS:
        section = sections[condition]
        section["n_scored"] = int(np.isfinite(scores.probabilities[condition][:, :, 0]).sum())
        if condition != "control":
            section["w_el"] = json_number(wilcoxon_greater(leakage_differences(scores, condition)))
    return {"overall": overall, "conditions": sections}


def _all_ratios(scores: LeakageScores) -> dict[str, dict[str, UnitRatio | None]]:
    """Every statistic that is a ratio of sums over samples, ``overall`` and by condition."""
    conditions: tuple[Condition, ...] = (*POLARITIES, "neutral", "control")
    return {"overall": _overall_ratios(scores), **{name: _condition_ratios(scores, name) for name in conditions}}


def _overall_el(scores: LeakageScores) -> dict[str, UnitRatio]:
    return {
        "mu_el": overall_leakage(scores, pairing="index"),
        "auc_el": overall_leakage(scores, pairing="all"),
        "mu_el_mean": overall_leakage(scores, pairing="mean"),
    }


def _overall_ratios(scores: LeakageScores) -> dict[str, UnitRatio | None]:
    """Overall statistics that are ratios of sums over samples; None for those whose input is missing."""
    positive, negative = (semantic_leakage(scores, condition) for condition in POLARITIES)
    shifts = valence_shifts(scores)
    return {
        **_overall_el(scores),
        "contrast": contrast(scores),
        "mu_l": None if positive is None or negative is None else positive + negative,
        **{name: UnitRatio.mean_of(shifts[name]) for name in ("valence_shift", "asymmetry", "context_shift")},
        "noise_floor": noise_floor(scores, pairing="all"),
        "noise_floor_mu_el": noise_floor(scores, pairing="index"),
    }


def _condition_ratios(scores: LeakageScores, condition: Condition) -> dict[str, UnitRatio | None]:
    """Statistics of one condition that are ratios of sums over samples; None for those whose input is missing."""
    valence = UnitRatio.mean_of(mean_valence(scores, condition))
    if condition == "control":
        return {"valence": valence}
    ratios = {
        "mu_el": condition_leakage(scores, condition, pairing="index"),
        "auc_el": condition_leakage(scores, condition, pairing="all"),
        "mu_el_mean": condition_leakage(scores, condition, pairing="mean"),
        "mu_l": semantic_leakage(scores, condition),
        "valence": valence,
    }
    if condition in POLARITIES:
        ratios["contrast"] = label_contrast(scores, condition)
        ratios["valence_shift_from_neutral"] = UnitRatio.mean_of(valence_shifts(scores)[f"{condition}_shift"])
    return ratios


def with_intervals(
    ratios: Mapping[str, Mapping[str, UnitRatio | None]], *, seed: int, draws: int, level: float
) -> dict[str, dict[str, Any]]:
    """By section, the value of every ratio and its interval as ``<name>_ci``, all from one set of resamples."""
    columns = ratio_columns([ratio for members in ratios.values() for ratio in members.values() if ratio is not None])
    values = {
        section: {name: None if ratio is None else ratio.value for name, ratio in members.items()}
        for section, members in ratios.items()
    }
    del ratios  # the columns are a copy, and of many samples both are large
    intervals = iter(bootstrap(columns, ratios_of_sums, seed=seed, draws=draws, level=level))
    sections: dict[str, dict[str, Any]] = {}
    for section, members in values.items():
        sections[section] = {}
        for name, value in members.items():
            sections[section][name] = None if value is None else json_number(value)
            sections[section][f"{name}_ci"] = None if value is None else next(intervals).to_json()
    return sections


def own_label(scores: LeakageScores, condition: Condition) -> tuple[PerGeneration, PerGeneration]:
    """P[l] of the test and of the control generations, for the label l of `condition`."""
    label = LABELS.index(condition)
    return scores.probabilities[condition][:, :, label], scores.probabilities["control"][:, :, label]


def _all_pairs(test: PerGeneration, control: PerGeneration) -> PerSample:
    """Share of all pairs of a sample's test and control generations in which the test is higher, ties ½."""
    return _mean(_comparison(test[:, :, None], control[:, None, :]).reshape(len(test), -1))


def _comparison(test: np.ndarray, control: np.ndarray) -> np.ndarray:
    """1 where test > control, ½ where equal, 0 where less, NaN where either is NaN."""
    return (np.sign(test - control) + 1) / 2


def _mean(values: Float[np.ndarray, "samples values"]) -> PerSample:
    """Mean over the second axis without NaN; NaN for a row that has nothing else."""
    valid = ~np.isnan(values)
    count = valid.sum(axis=1)
    total = np.where(valid, values, 0.0).sum(axis=1, dtype=np.float64)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
