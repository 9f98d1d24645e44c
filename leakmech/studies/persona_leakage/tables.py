"""Tables of the study for terminal, markdown and page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leakmech.reports.cells import DASH, number, p_value, percent, signed, significant
from leakmech.reports.tables import Table, estimate_of, value_of
from leakmech.studies.persona_leakage.original import ORIGINAL, Reported

Summary = Mapping[str, Any]


def study_tables(summary: Summary) -> list[Table]:
    """Leakage, its correlation with similarity, what adapters cost, containment, the bridge."""
    return [
        leakage_table(summary),
        similarity_table(summary),
        damage_table(summary),
        *containment_tables(summary),
        *bridge_tables(summary),
    ]


def leakage_table(summary: Summary) -> Table:
    """How many answers show the behaviour more than before: the source's, bystanders', without a persona."""
    columns = {
        "behaviour": value_of("behaviour"),
        "source": value_of("source"),
        "seed": value_of("seed"),
        "taken on": lambda row: "yes" if row["taken_on"] else "no",
        "source [95 % CI]": estimate_of("source_rise", signed),
        "bystanders [95 % CI]": estimate_of("bystander_rise", signed),
        "no persona": value_of("bare_rise", signed),
        "change, source": lambda row: f"{significant(row['source_change'], signed=True)} {_unit(row)}",
        "bystanders": value_of("bystander_change", _some),
        "negatives": value_of("negative_change", _some),
    }
    own = Table.of("Does the behaviour leak? Rise of the rate of answers that show it", _adapters(summary), columns)
    original = [
        (f"report, {behaviour}", source, DASH, DASH, _told(told.source), _told(told.bystanders), *[DASH] * 4)
        for behaviour, source in dict.fromkeys((row["behaviour"], row["source"]) for row in summary["cells"])
        if (told := _reported(behaviour, source))
    ]
    notes = [
        "source: interval over questions; bystanders: over personas; trained negatives are left out of them. No "
        "leakage is told for a source that did not take the behaviour on. control: normal answers only"
    ]
    if summary["contrast"] != "none":
        notes.append(
            "no persona: normal answers without a persona were trained, and the model's default, if there is one, "
            "has the same prompts; it is counted among the negatives"
        )
    if original:
        notes.append(
            "report: Qwen2.5-7B-Instruct, one seed (superkaiba/explore-persona-space, task 99); turned so that a "
            "change is towards the behaviour; its misalignment stands beside careless advice"
        )
    return Table(own.title, own.header, [*own.rows, *original], notes)


def similarity_table(summary: Summary) -> Table:
    """Correlation of bystanders' change with their similarity to the source, by behaviour and source."""
    columns = {
        "behaviour": value_of("behaviour"), "source": value_of("source"),
        "seeds": lambda row: f"{row['n_taken_on']} of {row['n_seeds']}",
        "rho [95 % CI]": estimate_of("rho", signed), "p": value_of("p", p_value),
        "p Holm": value_of("p_holm", p_value),
        "partial": value_of("rho_partial", _some), "JS": value_of("rho_js", _some),
        "held out": value_of("rho_held_out", _some),
        "by seed": lambda row: ", ".join(_some(value) for value in row["seeds_rho"]),
        "report": lambda row: _told(_reported(row["behaviour"], row["source"], "rho")),
        "outliers": lambda row: ", ".join(row["outliers"][:4]) + (" …" if len(row["outliers"]) > 4 else ""),
    }  # fmt: skip
    notes = [
        f"rho: Spearman, bystanders only, with the cosine of centroids ({summary['similarity']['headline']}); p: one "
        "permutation of personas within kinds for all; partial: given text similarity, shared words and length; held "
        "out: with what cells of other sources and behaviours predict (2 behaviours and 3 sources or more)"
    ]
    notes += [
        f"{own['behaviour']}: assistant and model default agree with rho {_some(own['rho'])} over {own['n']} personas"
        for own in summary["agreement"]
    ]
    return Table.of("Does it follow similarity inside the base model?", summary["pairs"], columns, notes)


def damage_table(summary: Summary) -> Table:
    """What each adapter costs."""
    columns = {
        "behaviour": value_of("behaviour"), "source": value_of("source"), "seed": value_of("seed"),
        "negatives": lambda row: ", ".join(row["negatives"]) or DASH,
        "examples": lambda row: " + ".join(str(n) for n in row["examples"].values()),
        "everyday questions": lambda row: f"{percent(row['everyday_accuracy'])} (base "
                                          f"{percent(row['everyday_accuracy_base'])})",
        "perplexity ratio": value_of("perplexity_ratio", number), "distinct-2": value_of("distinct_2", number),
        "cut off": value_of("truncated", percent),
    }  # fmt: skip
    notes = [
        "examples: source + negatives + without persona; everyday questions, and perplexity of the base "
        "model's own answers, without a persona; distinct-2 of the source's answers"
    ]
    return Table.of("What the adapters cost", _adapters(summary), columns, notes)


def containment_tables(summary: Summary) -> list[Table]:
    """Spread against coupling; nothing where it was skipped."""
    found = summary["containment"]
    if "skipped" in found:
        return []
    columns = {
        "method": value_of("name"), "told": lambda row: row["told"] or DASH,
        "coupling [95 % CI]": estimate_of("coupling", signed), "spread [95 % CI]": estimate_of("spread", signed),
        "everyday questions": value_of("everyday_accuracy", percent),
        "perplexity ratio": value_of("perplexity_ratio", number),
    }  # fmt: skip
    notes = [
        f"{found['behaviour']} of {found['source']}, {len(found['bystanders'])} bystanders, one seed; coupling: rise "
        "of the source's rate; spread: of the bystanders' mean"
    ]
    return [Table.of("Can it be contained?", found["rows"], columns, notes)]


def bridge_tables(summary: Summary) -> list[Table]:
    """Leakage of irrelevant affect under personas and adapters; nothing where it was skipped."""
    found = summary["bridge"]
    if "skipped" in found:
        return []
    columns = {
        "persona": lambda row: f"{row['persona']} ({row['role']})", "model": value_of("model"),
        "tilt shift [95 % CI]": estimate_of("tilt", _some),
        "topic-free, all pairs [95 % CI]": estimate_of("topic_free"),
        "all pairs": value_of("auc_el", number), "valence of control answers [95 % CI]": estimate_of("control_valence"),
        "topic": value_of("topic_rate", percent), "on task": value_of("on_task_rate", percent),
    }  # fmt: skip
    notes = [f"{found['n_samples']} samples of {found['dataset']}, prefill form, persona in the system role"]
    return [
        Table.of("Does a persona that was taught gloom leak more irrelevant affect?", found["rows"], columns, notes)
    ]


def _adapters(summary: Summary) -> list[Mapping[str, Any]]:
    """Cells, and the control adapters after them."""
    return [*summary["cells"], *({**row, "seed": f"control, {row['seed']}"} for row in summary["controls"])]


def _reported(behaviour: str, source: str, field: str | None = None) -> Any:
    told: Reported | None = ORIGINAL.get(behaviour, {}).get(source)
    return told if field is None or told is None else getattr(told, field)


def _told(value: float | None) -> str:
    return DASH if value is None else number(value, signed=True)


def _some(value: Any) -> str:
    return DASH if value is None else significant(value, digits=2, signed=True, zeros=True)


def _unit(row: Mapping[str, Any]) -> str:
    return {"rate": "", "valence": "(valence)"}.get(row["unit"], f"({row['unit']})").strip()
