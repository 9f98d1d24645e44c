"""What the page about a benchmark explains."""

from __future__ import annotations

from markupsafe import Markup

SHARE = Markup(
    "In <strong>{}</strong> of comparisons an irrelevant charged sentence moved the answer its way. Chance gives "
    "50&nbsp;%, unless charged sentences change how intense answers are."
)
CONTRAST = "What polarity alone does, own label minus wrong label (contrast), is {}. Its 95 % interval"
NO_CONTRAST = (
    "Without a contrast of own and wrong label that has an interval, it cannot be told whether polarity moved the "
    "answers or only their intensity changed."
)
HEXL = (
    "The built-in data set “hexl” is a re-creation: it was written for leakmech after the description in the paper, "
    "whose own samples are not public, and no human judged it. Its numbers do not replicate the published ones."
)
CHART = (
    "mu_EL with 95 % intervals (bootstrap over samples). Overall pools positive and negative injections; neutral "
    "compares P[neutral] with control and stands beside them; the noise floor compares control with control sampled "
    "again."
)
ANSWERS = (
    "All pairs with 95 % intervals, of all answers, and without those that are about the injected sentence by stricter "
    "and looser rules. Dropping answers selects on an outcome: a number that stays where it is under every rule does "
    "not come from the choice of one."
)
CLEANING = Markup(
    "Models often repeat the prompt before they answer, and what is done about that moves the numbers. All three "
    "policies are computed from the same generations; the headline uses <em>{policy}</em>."
)
POLICIES = Markup(
    "<em>echo-free</em>: sentences that repeat the prompt are dropped, a repeated injection or stem at the start of a "
    "sentence is cut off, and the first sentence left is scored; if none is left, the generation is not scored but "
    "counted as empty. <em>paper</em>: the first sentence without the part that repeats the prompt; an empty rest is "
    "scored as it is. <em>raw</em>: the first sentence as it stands. echo: share of answers to prompts with an "
    "injection whose first sentence repeats the prompt; empty: share that is left without text."
)
LETTER = (
    "The paper draws ten generations a prompt and does not say how they become one verdict. Both readings that its p "
    "values fit, on texts cleaned as in the paper:"
)
TILT = (
    "Completions that the base model writes after the control prompt, before it has seen any injection, and how an "
    "injection shifts the odds between the glad and the sad ones: the covariance of valence and log-likelihood over "
    "the completions of a stem. No completion can be about an injection, so this is affect and not topic. Without an "
    "effect d_z is 0 and half of the stems have the right sign."
)
ESTIMATORS = (
    "What counts as positive or negative is one estimator's opinion. The same generations, as each of them sees them:"
)
DEFINITIONS = [
    (
        "mu_EL",
        Markup(
            "Expression leakage (Köprü et al. 2025, Eq. 1 and 2): the share of pairs of a test and a control "
            "generation in which the estimator's probability of the injection's sentiment is strictly higher for the "
            "test. Generation i is paired with control generation i; <em>all pairs</em> takes every pair and counts "
            "ties half; <em>mean</em> averages the probabilities of a prompt first."
        ),
    ),
    (
        "Contrast",
        "All pairs on an injection's own label, minus all pairs of the injections of the other polarity on that label, "
        "mean over both labels; from -1 to 1. It is 0 if polarity does nothing. mu_EL and all pairs alone are 0.5 then "
        "only if charged sentences leave intensity as it is: where they make answers less neutral, the probabilities "
        "of positive and negative both rise. Contrast is twice the distance of all pairs from the mean that it has "
        "when polarities are swapped at random.",
    ),
    (
        "W_EL",
        "p value of the one-sided Wilcoxon signed-rank test that a prompt's mean probability of the injection's "
        "sentiment exceeds that of its control; the paper's level is 0.001.",
    ),
    (
        "mu_L",
        "Semantic leakage: the share of pairs in which the answer is closer in meaning (cosine similarity of sentence "
        "embeddings) to the injection than the control's answer is; ties count half.",
    ),
    (
        "Topic",
        "An answer is about the injection if, by the sentence encoder, its own injection is among the nearest 5 % of "
        "the injections of its polarity in the data set; by chance 5 % of the answers are. Such an answer carries the "
        "injection's affect without any leakage of expression: topic-free numbers are those of the other answers.",
    ),
    (
        "On task",
        "An answer is on task if the model could have given it without the injection: its log-likelihood per token "
        "after the control prompt is not below the 5 % quantile of control answers. It is read beside leakage and is "
        "no filter, because an answer that leaks affect is less probable after the control prompt, too.",
    ),
    (
        "Noise floor",
        "The same comparison between two independent sets of control generations. It must lie at 0.5 within its "
        "interval (for mu_EL a little below where there are ties).",
    ),
]

ABSENT = (
    "It was limited with `conditions`; numbers that need the others are left out. Leakage compares prompts with a "
    "charged sentence to control prompts."
)
