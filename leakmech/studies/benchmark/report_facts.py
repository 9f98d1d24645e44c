"""What was measured on what, and how a benchmark run is repeated: the facts of its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leakmech.prompts.instructions import DEFAULT_TASK, resolve_task
from leakmech.reports.cells import estimate, p_value, percent, short, signed
from leakmech.reports.order import order_shift
from leakmech.reports.page import Section, reproduce
from leakmech.runs.directory import RunRecord
from leakmech.studies.benchmark.settings import BenchConfig, ScoreConfig

Summary = Mapping[str, Any]

LEAST_SAMPLES = 6
"""Of so many samples a sign test can come under 0.05, two-sided; intervals of fewer are too narrow to be believed."""


def verdict(summary: Summary) -> str:
    """Whether the model is shown to leak, with intervals, in one line; the contrast decides, as on the page.

    A run of a version that had no contrast is judged by all pairs.
    """
    overall = summary["overall"]
    if summary.get("no_mu_el"):
        return f"two sentences of opposite polarity: {order_shift(summary)}"
    if overall["auc_el"] is None:
        return "not shown: there are no answers to compare"
    ends, none = overall.get("contrast_ci"), 0.0
    numbers = f"all pairs {estimate(overall, 'auc_el')}, 0.5 is none"
    if "contrast" in overall:
        numbers += f"; contrast {estimate(overall, 'contrast', signed)}, 0 is none"
    else:
        ends, none = overall["auc_el_ci"], 0.5
    if ends is None:
        apart = "contrast" in overall and overall["contrast"] is None
        why = "contrast needs positive and negative prompts" if apart else "too few samples for an interval"
        return f"not shown: {why} ({numbers})"
    if few := too_few(summary):
        return f"not shown: {few} ({numbers})"
    if ends[0] > none:
        return f"the model leaks: {numbers}"
    return f"{'the answers move away from the injection' if ends[1] < none else 'not shown'}: {numbers}"


def too_few(summary: Summary) -> str:
    """That a run has too few samples for a verdict; empty if it has enough."""
    n = summary["n_samples"]
    return f"{n} {'sample is' if n == 1 else 'samples are'} too few to tell" if n < LEAST_SAMPLES else ""


def facts(summary: Summary, record: RunRecord) -> list[tuple[str, str]]:
    """What a reader needs to know about the run before the details."""
    overall = summary["overall"] | summary["by_cleaning"][summary["cleaning"]]
    environment = record.environment
    version = (environment.get("packages") or {}).get("leakmech") or "version unknown"
    commit = environment.get("git_commit")
    if commit:
        version += f", commit {commit[:10]}" + (" with uncommitted changes" if environment.get("git_dirty") else "")
    if record.command == "score":
        origin = "Texts", f"generated elsewhere, read from {short(record.fact('source'))}"
    else:
        device = environment.get("accelerator") or summary["device"]
        origin = "Numbers and device", f"{summary['dtype']} on {device}"
    return [
        ("Model", summary["model"]),
        ("Data set", f"{summary['dataset']}, {summary['n_samples']} samples x 4 prompts"),
        ("Generations per prompt (K)", str(summary["generations"])),
        ("mu_EL, all pairs", estimate(overall, "auc_el")),
        ("Contrast, own label minus wrong label", estimate(overall, "contrast", signed)),
        ("W_EL p (one-sided Wilcoxon)", p_value(overall["w_el"])),
        *_topic(overall),
        *_on_task(summary),
        ("Cleaning policy", summary["cleaning"]),
        ("Expression estimator", ", ".join(summary.get("estimators", [summary["estimator"]]))),
        *_prompts(summary, record),
        *_temperature(summary),
        *_changes(summary),
        ("Seed", str(summary["seed"])),
        origin,
        *_engine(summary),
        ("Date", str(environment.get("date", "unknown")).replace("T", " ")),
        ("leakmech", version),
    ]


def _topic(overall: Summary) -> list[tuple[str, str]]:
    """How many answers are about the injected sentence, and the leakage of the others; nothing if that is not told."""
    if overall.get("topic_free") is None:
        return []
    rate, free = percent(overall["topic_rate"], decimals=0), overall["topic_free"]
    return [("Answers about the injection", rate), ("mu_EL, all pairs, without these", estimate(free, "auc_el"))]


def _temperature(summary: Summary) -> list[tuple[str, str]]:
    """The sampling temperature, and where it comes from; nothing for texts that were generated elsewhere."""
    if "decoding" not in summary:
        return []
    own = f" ({summary['temperature_from']})" if "temperature_from" in summary else ""
    return [("Temperature", f"{summary['decoding']['temperature']:g}{own}")]


def _engine(summary: Summary) -> list[tuple[str, str]]:
    """What drew the answers, where it was not the engine of leakmech itself."""
    engine = summary.get("engine")
    if engine is None:
        return []
    invariant = ", batch-invariant" if engine.get("batch_invariant") == "yes" else ""
    return [("Engine", f"{engine['engine']} {engine.get('engine_version', '')}".strip() + invariant)]


def _prompts(summary: Summary, record: RunRecord) -> list[tuple[str, str]]:
    """How prompts are put: the form, and whether the tokenizer decided it; and what is said besides the sample."""
    rows = []
    if summary.get("prompt_form"):
        by_tokenizer = record.config.get("prompt_form") == "auto"
        rows.append(("Prompt form", summary["prompt_form"] + (" (auto)" if by_tokenizer else "")))
    task = summary.get("task", DEFAULT_TASK)
    return [*rows, ("Task", resolve_task(task)), ("Instruction", summary["instruction"])]


def _on_task(summary: Summary) -> list[tuple[str, str]]:
    """How many answers the model could have given without the injection, where that was asked."""
    told, rate = summary.get("on_task"), estimate(summary["overall"], "on_task_rate", percent)
    return [] if told is None else [("Answers on task", f"not told: {told['reason']}" if "reason" in told else rate)]


def _changes(summary: Summary) -> list[tuple[str, str]]:
    """How prompts and decoding were changed, if they were."""
    rows = []
    if "prompt_rewrite" in summary:
        failed = percent(summary["rewrites"]["overall"]["failed_share"], decimals=0)
        rows.append(("Prompts rewritten by", f"{summary['prompt_rewrite']} (failed and left as they were: {failed})"))
    if "contrast" in summary:
        c = summary["contrast"]
        values = f"strength {c['strength']:g}, plausibility {c['plausibility']:g}"
        rows.append(("Contrastive decoding", f"{c['method']}, reference {c['reference']}, {values}"))
    if summary.get("oracle"):
        rows.append(("Oracle", "this run uses what a user does not have: a bound, no mitigation"))
    return rows


def how_to_repeat(record: RunRecord) -> list[Section]:
    """The command that repeats the run."""
    if record.command != "score":
        return reproduce(BenchConfig, record)
    columns = [word for pair in record.fact("columns").items() for word in ("--column", "=".join(pair))]
    return reproduce(ScoreConfig, record, arguments=[record.fact("source"), *columns])
