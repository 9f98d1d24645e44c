"""Tables: one list of rows, drawn as markdown, on the terminal, or on a page; and those of a benchmark's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Group

from leakmech.core.shown import table_html
from leakmech.reports.cells import cell, estimate, number, p_value, percent, signed, significant
from leakmech.reports.doubts import answer_doubts
from leakmech.reports.printed import FittedTable, latex, literal_text

Summary = Mapping[str, Any]
Column = Callable[[Mapping[str, Any]], str]
"""What a column says about a record."""


@dataclass(frozen=True)
class Table:
    """A titled table of finished texts; `notes` stand under it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    @classmethod
    def of(
        cls, title: str, records: Iterable[Mapping[str, Any]], columns: Mapping[str, Column], notes: Sequence[str] = ()
    ) -> Table:
        """A row for each record, with what every column says about it."""
        rows = [tuple(column(record) for column in columns.values()) for record in records]
        return cls(title, tuple(columns), rows, notes)

    def to_markdown(self) -> str:
        """GitHub-flavoured markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        table = "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)
        return "\n\n".join([f"**{self.title}**", table, *self.notes])

    def to_html(self) -> str:
        """For notebooks; every text is escaped."""
        return table_html(self.title, self.header, self.rows, self.notes)

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_latex(self) -> str:
        """A table in the style of booktabs, with caption and notes; every text is escaped."""
        return latex(self.title, self.header, self.rows, self.notes)

    def to_rich(self) -> Group:
        """For printing on a terminal: as many columns as it is wide enough for, and which are left out.

        Numbers are never folded, sentences are. Title and notes are as wide as the terminal, not as the table.
        """
        notes = [literal_text(note, style="table.caption") for note in self.notes]
        return Group(literal_text(self.title, style="table.title"), FittedTable(self.header, self.rows), *notes)


def value_of(name: str, show: Callable[[Any], str] = cell) -> Column:
    """The column that shows one value of a record."""
    return lambda record: show(record.get(name))


def estimate_of(name: str, show: Callable[[Any], str] = number) -> Column:
    """The column that shows one value of a record with its interval (:func:`~leakmech.reports.cells.estimate`)."""
    return lambda record: estimate(record, name, show)


# -- leakage ---------------------------------------------------------------------------------------------------------

_LEAKAGE: Mapping[str, Column] = {
    "condition": value_of("name"),
    "mu_EL [95 % CI]": estimate_of("mu_el"),
    "all pairs [95 % CI]": estimate_of("auc_el"),
    "contrast": value_of("contrast", signed),
    "W_EL p": value_of("w_el", p_value),
    "mu_L [95 % CI]": estimate_of("mu_l"),
    "topic": value_of("topic_rate", percent),
    "on task": value_of("on_task_rate", percent),
    "echo": value_of("echo_rate", percent),
    "empty": value_of("empty_rate", percent),
}
_CLEANING: Mapping[str, Column] = {
    "cleaning": value_of("name"),
    "mu_EL": value_of("mu_el", number),
    "all pairs": value_of("auc_el", number),
    "mean": value_of("mu_el_mean", number),
    **{name: _LEAKAGE[name] for name in ("W_EL p", "echo", "empty")},
}
_READINGS: Mapping[str, Column] = {
    "reading": value_of("name"),
    "mu_EL [95 % CI]": estimate_of("mu_el"),
    "mu_EL, least to most": lambda record: _range(record.get("mu_el_range"), number),
    "W_EL p": value_of("p", p_value),
    "p, least to most": lambda record: _range(record.get("w_el_range"), p_value),
}


def _right_sign(record: Mapping[str, Any]) -> str:
    """Stems with the right sign, and those without any, which count half in the share."""
    tied = record.get("n_tied")
    return f"{record['n_right']} of {record['n']}" + (f", {tied} tied" if tied else "")


_TILT: Mapping[str, Column] = {
    "log p": value_of("form"),
    "completions": value_of("completions"),
    "estimator": value_of("estimator"),
    "shift [95 % CI]": estimate_of("shift", partial(significant, digits=2, signed=True, zeros=True)),
    "d_z [95 % CI]": estimate_of("d_z"),
    "right sign": _right_sign,
    "swap p": value_of("p_swap", p_value),
    "neutral - control, d_z": estimate_of("context_shift_d_z", signed),
    "r with sampled": estimate_of("sampled_r"),
}
_ESTIMATORS: Mapping[str, Column] = {
    "estimator": value_of("name"),
    **{name: _LEAKAGE[name] for name in ("mu_EL [95 % CI]", "all pairs [95 % CI]", "W_EL p")},
    "contrast": _LEAKAGE["contrast"],
    "valence shift": estimate_of("valence_shift", signed),
    "topic-free all pairs": lambda record: estimate(record.get("topic_free") or {}, "auc_el"),
    "same EL": estimate_of("el_agreement"),
    "kappa": value_of("el_kappa", number),
    "Spearman": value_of("valence_spearman", number),
}
_ANSWERS: Mapping[str, Column] = {
    "answers": value_of("name"),
    "n": value_of("n"),
    "about the injection [95 % CI]": estimate_of("topic_rate", percent),
    "all pairs [95 % CI]": _LEAKAGE["all pairs [95 % CI]"],
    "contrast [95 % CI]": estimate_of("contrast", signed),
    "valence shift [95 % CI]": estimate_of("valence_shift", signed),
}
_ANSWERS_NOTE = (
    "outside 5 %: answers whose own injection is not among the nearest 5 % of its polarity; no shared word: answers "
    "without a content word of their injection that stem and control answers lack; stem + answer: the estimator reads "
    "both together, since an answer alone may be a fragment."
)


def leakage_table(summary: Summary) -> Table:
    """The main table: leakage by condition and overall, with intervals."""
    overall = summary["overall"]
    rows = [{"name": name} | summary["conditions"][name] for name in ("positive", "negative", "neutral")]
    rows.append({"name": "overall"} | overall | summary["by_cleaning"][summary["cleaning"]])
    if overall.get("topic_free") is not None:
        rows.append({"name": "topic-free"} | overall["topic_free"])
    if "whole" in summary:
        rows.append({"name": "stem + answer"} | summary["whole"])
    if "tilt" in summary:
        sign = summary["tilt"]["per_token"]
        rows.append({"name": "tilt, right sign", "mu_el": sign["right_sign"], "mu_el_ci": sign["right_sign_ci"]})
    if overall["noise_floor"] is not None:
        both = (("auc_el", "noise_floor"), ("mu_el", "noise_floor_mu_el"))
        ends = {f"{name}{end}": overall[f"{floor}{end}"] for name, floor in both for end in ("", "_ci")}
        rows.append({"name": "noise floor"} | ends)
    shifts = {name: estimate(overall, name, signed) for name in ("valence_shift", "asymmetry", "context_shift")}
    return Table.of(
        f"Expression leakage: {summary['model']} on {summary['dataset']} ({summary['n_samples']} samples "
        f"x 4 prompts x {summary['generations']} generations, seed {summary['seed']}{_form(summary)})",
        rows,
        {name: show for name, show in _LEAKAGE.items() if name != "on task" or "on_task_rate" in overall},
        [
            *answer_doubts(summary),
            "mu_EL: generation i against control generation i; all pairs: all K x K pairs, ties count half. overall = "
            "positive and negative; neutral: P[neutral] against control. 0.5 = as the control; charged sentences that "
            "only change the intensity of answers move it, too.",
            _contrast_note(summary),
            f"valence shift {shifts['valence_shift']} (positive - negative injection), d_z "
            f"{number(overall['valence_d_z'])}; asymmetry {shifts['asymmetry']} (> 0: negative injections move more); "
            f"context shift {shifts['context_shift']}",
            *_topic_notes(summary),
            *_on_task_notes(summary),
            *_tilt_notes(summary),
            *_arrangement_notes(summary),
        ],
    )


def _contrast_note(summary: Summary) -> str:
    """What the column about contrast means, with intervals; a run of an older version has none."""
    overall = summary["overall"]
    if "contrast" not in overall:
        return "contrast: is not in runs of older versions; leakmech score RUN makes one that has it"
    found = f"overall {estimate(overall, 'contrast', signed)}, p {p_value(overall['contrast_p_swap'])}"
    more = {"topic-free": overall.get("topic_free"), "stem + answer": summary.get("whole")}
    for name, own in more.items():
        found += f"; {name} {estimate(own, 'contrast', signed)}" if own else ""
    return (
        "contrast: all pairs on the own label minus all pairs of the other polarity's prompts on that label; 0 = "
        f"polarity does nothing, whatever intensity does. {found} (p: polarities swapped within samples)"
    )


def _arrangement_notes(summary: Summary) -> list[str]:
    """What a reader must know of injections that are not the samples' own."""
    if summary.get("arrangement") == "sarcasm":
        return ["sarcasm: positive, negative and own label are those of the wording; what is meant is the opposite"]
    if "relatedness" in summary:
        near = {name: number(value) for name, value in summary["relatedness"].items()}
        return [
            f"graded: injections are those of other samples of the set, mean cosine with the stem {near['own']} before "
            f"and {near['given']} after the exchange ({near['least']} to {near['most']})"
        ]
    return []


def _form(summary: Summary) -> str:
    """How prompts were put, where that is known (it is not for texts that were generated elsewhere)."""
    form = summary.get("prompt_form")
    return f", {form} form" if form else ""


def _topic_notes(summary: Summary) -> list[str]:
    """What the column and the row about topic mean, or why there are none; nothing for a run that never asked."""
    told = summary.get("topic")
    if told is None:
        return []
    if "reason" in told:
        return _untold(told)
    free, words, share = summary["overall"]["topic_free"], told["by_words"], percent(told["share"], decimals=0)
    return [
        "topic: share of the scored answers that are about the injection (its own is among the nearest "
        f"{share} of the injections of its polarity). topic-free: the answers that are not (n {free['n']}): "
        f"valence shift {estimate(free, 'valence_shift', signed)}, d_z {number(free['d_z'])}; without the "
        f"{percent(words['topic_rate'])} that have a word of the injection instead: all pairs "
        f"{estimate(words['topic_free'], 'auc_el')}",
        *_curve_note(told.get("curve")),
    ]


def _on_task_notes(summary: Summary) -> list[str]:
    """What the column about the task means, or why it is empty; nothing for a run that did not ask."""
    told = summary.get("on_task")
    if told is None:
        return []
    if "reason" in told:
        return [f"on task: not told ({told['reason']})"]
    control, again = summary["conditions"]["control"]["on_task_rate"], estimate(told, "control_again_rate", percent)
    return [
        "on task: share of the scored answers that the model could have given without the injection (log p after the "
        f"control prompt is not below {number(told['quantile'])} nats a token, the {told['share']:.0%} quantile of "
        f"control answers): control {percent(control)} by construction, control sampled again {again}. To be read "
        "beside leakage, no filter: an answer that leaks affect is less probable after the control prompt, too."
    ]


def _untold(told: Summary) -> list[str]:
    """Why topic is not told, where it is not."""
    return [f"topic: not told ({told['reason']})"] if "reason" in told else []


def _curve_note(curve: Sequence[Summary] | None) -> list[str]:
    """How much the topic-free number hangs on the threshold."""
    if not curve:
        return []
    shares = ", ".join(percent(row["share"], decimals=0).removesuffix(" %") for row in curve)
    values = ", ".join(number(row["auc_el"]) for row in curve)
    return [f"topic-free all pairs where the nearest {shares} % count as about the injection: {values}"]


def answers_table(summary: Summary) -> Table | None:
    """Leakage of all answers, of those without topic by every rule, and of stem and answer; None for an older run."""
    if "topic" not in summary:
        return None
    rows, title = answer_choices(summary), "Positive and negative answers, by which of them are counted"
    return Table.of(title, rows, _ANSWERS, [_ANSWERS_NOTE, *_untold(summary["topic"])])


def answer_choices(summary: Summary) -> list[dict[str, Any]]:
    """What :func:`answers_table` has rows about, each with its ``name``; topic as far as it is told."""
    told, n = summary["topic"], sum(summary["conditions"][name]["n_scored"] for name in ("positive", "negative"))
    rows = [summary["overall"] | {"name": "all", "n": n}]
    for row in told.get("curve", ()):
        chosen = " (headline)" if row["share"] == told["share"] else ""
        rows.append({**row, "name": f"outside {percent(row['share'], decimals=0)}{chosen}"})
    if "by_words" in told:
        rows.append({**told["by_words"], **told["by_words"]["topic_free"], "name": "no shared word"})
    if "whole" in summary:
        rows.append(summary["whole"] | {"name": "stem + answer", "n": n})
    return rows


def _tilt_notes(summary: Summary) -> list[str]:
    """What the row about tilt means; nothing for a run without it."""
    if "tilt" not in summary:
        return []
    own = summary["tilt"]["per_token"]
    return [
        f"tilt, right sign: share of {own['n']} stems at which the positive injection, more than the negative one, "
        f"raises the odds of the model's own glad completions over its sad ones; d_z {estimate(own, 'd_z')}."
    ]


def tilt_table(summary: Summary) -> Table | None:
    """Affective tilt in both forms, with and without shared words, by estimator; None for a run without it."""
    if "tilt" not in summary:
        return None
    told = summary["tilt"]
    names = {"per_token": "per token", "summed": "summed"}
    parts = [("all", told["estimator"], told), ("no shared words", told["estimator"], told["without_shared_words"])]
    parts += [("all", name, own) for name, own in told["by_estimator"].items() if name != told["estimator"]]
    rows = [
        {"form": name, "completions": completions, "estimator": estimator} | own[form]
        for completions, estimator, own in parts
        for form, name in names.items()
    ]
    left_out = [f"{len(ids)} with {reason}" for reason, ids in told["left_out"].items() if ids]
    null = told["per_token"]["d_z_swap_null"]
    ends = "" if null is None else f" (95 % of d_z in {number(null[0])} to {number(null[1])})"
    return Table.of(
        f"Affective tilt: {told['n_samples']} stems x {told['completions_per_stem']:.1f} completions",
        rows,
        _TILT,
        [
            "tilt: covariance of valence and log p over what the base model writes after the control prompt; shift: "
            "positive - negative injection, per sample. No completion can be about an injection.",
            f"swap p: polarity labels exchanged within samples{ends}. no shared words: without the "
            f"{told['without_shared_words']['n_dropped']} completions that have a content word of an injection. "
            f"sampled: {told['sampled']}. Stems left out: {', '.join(left_out) or 'none'}.",
        ],
    )


def cleaning_table(summary: Summary) -> Table:
    """The headline under each cleaning policy, with echo and empty rates."""
    rows = _marked(summary["by_cleaning"], summary["cleaning"])
    notes = ["mean: the probabilities of a prompt's answers are averaged first, then compared."]
    return Table.of("The same generations under each cleaning policy", rows, _CLEANING, notes)


def paper_table(summary: Summary) -> Table | None:
    """The numbers as the paper may have counted them; None for a run of a version that did not."""
    found = summary.get("paper")
    if found is None:
        return None
    one, means = found["one_generation"], found["means"]
    rows = [
        {"name": f"one generation a prompt ({one['n_draws']} draws)", **one, "p": one["w_el_median"]},
        {"name": f"means of {summary['generations']} generations", **means, "p": means["w_el"]},
    ]
    notes = [
        f"mu_EL and W_EL from the same N = {found['n_verdicts']} verdicts (samples x 2), cleaning paper; p of one "
        "generation: median over the draws. The paper does not say which reading is its own, and its text cannot tell "
        "them apart; its p values fit N = 120 and 400, one verdict a charged prompt.",
        f"mu_L of all three injections {estimate(found, 'mu_l')}, of the charged ones "
        f"{estimate(found, 'mu_l_charged')}.",
    ]
    if "reason" in found:
        notes.insert(0, f"Not computed: {found['reason']}.")
    return Table.of("As the paper counts", rows, _READINGS, notes)


def _range(ends: Sequence[float] | None, show: Callable[[Any], str]) -> str:
    return show(None) if ends is None else f"{show(ends[0])} to {show(ends[1])}"


def estimator_table(summary: Summary) -> Table | None:
    """The same generations as each expression estimator sees them; None if there is only one."""
    if "by_estimator" not in summary:
        return None
    first = summary["estimator"]
    agreements = {row["second"]: row for row in summary["estimator_agreement"] if row["first"] == first}
    values = {name: own["overall"] | agreements.get(name, {}) for name, own in summary["by_estimator"].items()}
    return Table.of(
        "The same generations under each expression estimator",
        _marked(values, first),
        _ESTIMATORS,
        [
            f"same EL: share of index pairs with the same verdict as {first}; kappa: that agreement beyond chance "
            "(Cohen); Spearman: rank correlation of valences. Ties count as no leakage in mu_EL and half in all pairs."
        ],
    )


def _marked(values: Mapping[str, Mapping[str, Any]], headline: str) -> list[dict[str, Any]]:
    """Records with their names, that of the headline marked."""
    return [{"name": name + (" (headline)" if name == headline else ""), **own} for name, own in values.items()]


def summary_tables(summary: Summary) -> list[Table]:
    """Every table of a run, the main one first."""
    tables = [
        leakage_table(summary),
        tilt_table(summary),
        cleaning_table(summary),
        paper_table(summary),
        estimator_table(summary),
    ]
    return [table for table in tables if table is not None]
