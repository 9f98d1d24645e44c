"""One self-contained HTML page about a finished benchmark run, for a reader who opens it for the first time.

The page needs no network and nothing beside it: styles, script and data are inside. Numbers are the finished texts of
:mod:`leakmech.reports.tables`. Texts of models and users are escaped by the template, or embedded as JSON data that
the page's script inserts as text; a content security policy lets nothing else run.

What a report says about how its run came about: the command that repeats it, and everything run.json records.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from leakmech.core.store import read_json, write_text
from leakmech.reports.browser import sample_browser
from leakmech.reports.examples import finished_bench
from leakmech.reports.page import render_page
from leakmech.reports.tables import Table, cleaning_table, estimator_table, leakage_table
from leakmech.runs.directory import RunDirectory
from leakmech.studies.benchmark.settings import BenchConfig, ScoreConfig, ScoringConfig

Summary = Mapping[str, Any]


def write_report(run: str | Path) -> Path:
    """Write ``report.html`` into a finished benchmark run; it depends on the run only.

    Parameters
    ----------
    run
        The run directory.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    RunDirectoryError
        `run` is no finished benchmark run.
    StorageError
        The page cannot be written.
    """
    result = finished_bench(Path(run))
    summary, record = result.summary, read_json(RunDirectory(result.path).run_file)
    leakage = leakage_table(summary)
    page = render_page(
        "report",
        run=str(run),
        title=f"{_short(summary['model'])} on {_short(summary['dataset'])}",
        summary=summary,
        headline=headline(summary),
        facts=_facts(summary, record),
        leakage=leakage,
        cleaning=cleaning_table(summary),
        estimators=estimator_table(summary),
        chart=leakage_chart(summary, leakage),
        browser=sample_browser(result),
        reproduction=reproduction(record, dtype=summary.get("dtype")),
        provenance=list(provenance(record | {"timing": summary.get("timing", {})})),
    )
    path = result.path / "report.html"
    write_text(path, page)
    return path


# -- headline --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Headline:
    """mu_EL as a reader says it (None if nothing was scored), and what follows from it."""

    share: str | None
    verdict: str


def headline(summary: Summary) -> Headline:
    """The main result in words."""
    overall = summary["overall"]
    value, interval = overall["mu_el"], overall["mu_el_ci"]
    row = _by_name(leakage_table(summary))["overall"]
    rates = (
        f"Of the answers to prompts with an injection, {row['echo']} began by repeating the prompt and {row['empty']} "
        "were left without a sentence to score."
    )
    if value is None:
        return Headline(None, rates)
    share = f"{100 * value:.0f} %"
    if interval is None:
        return Headline(share, f"There are too few samples for an interval. {rates}")
    low, high = interval
    share += f" [{100 * low:.0f}, {100 * high:.0f}]"
    if low > 0.5:
        meaning = "The 95 % interval lies above 50 %: the model leaks."
    elif high < 0.5:
        meaning = (
            "The 95 % interval lies below 50 %: answers moved away from the injected sentiment, or there are many "
            f"ties, which count as no leakage here (all pairs, where a tie counts half: {row['all pairs']})."
        )
    else:
        meaning = "The 95 % interval contains 50 %: these data do not show leakage."
    return Headline(share, f"{meaning} {rates}")


def _short(name: str) -> str:
    """The last part of a path that is none of a name such as ``owner/model``."""
    path = Path(name)
    return path.name if path.is_absolute() or name.startswith((".", "~")) or len(path.parts) > 2 else name


def _by_name(table: Table) -> dict[str, dict[str, str]]:
    """Cells of a table by row name and the column's name without its bracket."""
    columns = [name.partition(" [")[0] for name in table.header]
    return {row[0]: dict(zip(columns, row, strict=True)) for row in table.rows}


def _facts(summary: Summary, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a reader needs to know about the run before the details."""
    row = _by_name(leakage_table(summary))["overall"]
    environment = record["environment"]
    version = (environment.get("packages") or {}).get("leakmech") or "version unknown"
    commit = environment.get("git_commit")
    if commit:
        version += f", commit {commit[:10]}" + (" with uncommitted changes" if environment.get("git_dirty") else "")
    return [
        ("Model", summary["model"]),
        ("Data set", f"{summary['dataset']}, {summary['n_samples']} samples x 4 prompts"),
        ("Generations per prompt (K)", str(summary["generations"])),
        ("mu_EL, all pairs", row["all pairs"]),
        ("W_EL p (one-sided Wilcoxon)", row["W_EL p"]),
        ("Cleaning policy", summary["cleaning"]),
        ("Expression estimator", ", ".join(summary.get("estimators", [summary["estimator"]]))),
        ("Instruction", summary["instruction"]),
        *_changes(summary),
        ("Seed", str(summary["seed"])),
        _origin(summary, record),
        ("Date", str(environment.get("date", "unknown")).replace("T", " ")),
        ("leakmech", version),
    ]


def _changes(summary: Summary) -> list[tuple[str, str]]:
    """How prompts and decoding were changed, where they were."""
    rows = []
    if "prompt_rewrite" in summary:
        failed = summary["rewrites"]["overall"]["failed_share"]
        rows.append(
            ("Prompts rewritten by", f"{summary['prompt_rewrite']} (failed and left as they were: {failed:.0%})")
        )
    if "contrast" in summary:
        c = summary["contrast"]
        values = f"strength {c['strength']:g}, plausibility {c['plausibility']:g}"
        rows.append(("Contrastive decoding", f"{c['method']}, reference {c['reference']}, {values}"))
    if summary.get("oracle"):
        rows.append(("Oracle", "this run uses what a user does not have: a bound, no mitigation"))
    return rows


def _origin(summary: Summary, record: Mapping[str, Any]) -> tuple[str, str]:
    """Where the generations come from: a device, or a file."""
    if record.get("command") == "score":
        return "Texts", f"generated elsewhere, read from {_short(record['source'])}"
    return (
        "Numbers and device",
        f"{summary['dtype']} on {record['environment'].get('accelerator') or summary['device']}",
    )


# -- chart -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChartRow:
    """One line of the chart, in the drawing's units; `x` is None where there is no value."""

    label: str
    text: str
    y: float
    x: float | None
    low: float | None
    high: float | None
    is_total: bool
    is_baseline: bool


@dataclass(frozen=True)
class Tick:
    x: float
    label: str
    is_null: bool


@dataclass(frozen=True)
class Chart:
    """Points and intervals of mu_EL on a fixed axis from 0 to 1, so that reports can be compared by eye."""

    rows: tuple[ChartRow, ...]
    ticks: tuple[Tick, ...]
    description: str
    width: int = 520
    left: int = 96
    right: int = 372
    top: int = 22
    row_height: int = 30

    @property
    def bottom(self) -> int:
        return self.top + self.row_height * len(self.rows)

    @property
    def height(self) -> int:
        return self.bottom + 42

    @property
    def null_x(self) -> float:
        return _chart_x(0.5)

    @property
    def axis_middle(self) -> float:
        return (self.left + self.right) / 2


def leakage_chart(summary: Summary, leakage: Table) -> Chart:
    """mu_EL overall, by condition, and of the noise floor; the texts are those of the table `leakage`."""
    overall = summary["overall"]
    values = {"overall": (overall["mu_el"], overall["mu_el_ci"])}
    for condition in ("positive", "negative", "neutral"):
        section = summary["conditions"][condition]
        values[condition] = section["mu_el"], section["mu_el_ci"]
    if overall["noise_floor_mu_el"] is not None:
        values["noise floor"] = overall["noise_floor_mu_el"], overall["noise_floor_mu_el_ci"]
    texts = {name: row["mu_EL"] for name, row in _by_name(leakage).items()}
    rows = tuple(
        ChartRow(
            label=name,
            text=texts[name],
            y=Chart.top + Chart.row_height * (index + 0.5),
            x=None if value is None else _chart_x(value),
            low=None if interval is None else _chart_x(interval[0]),
            high=None if interval is None else _chart_x(interval[1]),
            is_total=name == "overall",
            is_baseline=name in ("neutral", "noise floor"),
        )
        for index, (name, (value, interval)) in enumerate(values.items())
    )
    ticks = tuple(Tick(_chart_x(value), f"{value:g}", value == 0.5) for value in (0, 0.25, 0.5, 0.75, 1))
    description = "mu_EL with 95 % intervals, 0.5 is no leakage. " + "; ".join(
        f"{row.label}: {row.text}" for row in rows
    )
    return Chart(rows, ticks, description)


def _chart_x(value: float) -> float:
    return round(Chart.left + (Chart.right - Chart.left) * value, 2)


# -- reproduction ------------------------------------------------------------------------------------------------------

_OPTIONS = {
    "model": "--model",
    "dataset": "--dataset",
    "generations": "--generations",
    "seed": "--seed",
    "adapter": "--adapter",
    "revision": "--revision",
    "estimator": "--estimator",
    "encoder": "--encoder",
    "limit": "--limit",
    "instruction": "--instruction",
    "arrangement": "--arrangement",
    "prompt_rewrite": "--prompt-rewrite",
    "prompt_form": "--prompt-form",
    "cleaning": "--cleaning",
    "decoding.temperature": "--temperature",
    "decoding.max_new_tokens": "--max-new-tokens",
}
_SWITCHES: dict[str, dict[bool, str]] = {
    "stop_at_first_sentence": {True: "--first-sentence-stop", False: "--full-length"},
    "allow_missing": {True: "--allow-missing"},
}
_ALWAYS_SAID = ("model", "dataset", "generations", "seed")
_COMMANDS: dict[str, type[ScoringConfig]] = {"bench": BenchConfig, "score": ScoreConfig}


@dataclass(frozen=True)
class Reproduction:
    """A command line, and the YAML file it reads where some setting has no option of its own (else None)."""

    command: str
    settings: str | None


def reproduction(record: Mapping[str, Any], *, dtype: str | None) -> Reproduction:
    """How to repeat the run that ``run.json`` describes: what identifies it, and what differs from the defaults.

    Parameters
    ----------
    record
        The content of ``run.json``.
    dtype
        Number format of the model; None where the texts were generated elsewhere.
    """
    command = record.get("command", "bench")
    defaults = _flat_settings(_COMMANDS[command].parse({}).identity())
    config = _flat_settings(record["config"])
    words, others = [], {}
    for key in sorted(config, key=lambda key: _ALWAYS_SAID.index(key) if key in _ALWAYS_SAID else len(_ALWAYS_SAID)):
        value = config[key]
        if key not in _ALWAYS_SAID and key in defaults and value == defaults[key]:
            continue
        if key in _OPTIONS and value is not None:
            words += [_OPTIONS[key], str(value)]
        elif key == "system":
            words += ["--system", "none" if value is None else value]
        elif key in _SWITCHES and value is not None:
            words += [_SWITCHES[key][value]]
        else:
            others[key] = value
    words += ["--dtype", dtype] if dtype else []
    start = ["leakmech", command]
    if command == "score":
        start.append(record["source"])
        words += [word for pair in record["columns"].items() for word in ("--column", "=".join(pair))]
    if others:
        start += ["--config", "settings.yaml"] if command == "score" else ["settings.yaml"]
    return Reproduction(shlex.join([*start, *words]), _nested_yaml(others) if others else None)


def _flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of decoding as ``decoding.<name>``."""
    flat = {key: value for key, value in config.items() if key != "decoding"}
    return flat | {f"decoding.{key}": value for key, value in config.get("decoding", {}).items()}


def _nested_yaml(flat: Mapping[str, Any]) -> str:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        parent, _, child = key.rpartition(".")
        (nested.setdefault(parent, {}) if parent else nested)[child] = value
    return yaml.safe_dump(nested, sort_keys=False, allow_unicode=True)


def provenance(record: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """``run.json`` as sections of name and value; what stands alone comes first."""
    alone = [(key, _shown(value)) for key, value in record.items() if not isinstance(value, Mapping)]
    if alone:
        yield "run", alone
    for section, values in record.items():
        if isinstance(values, Mapping) and values:
            yield section, list(_flat_rows(values))


def _flat_rows(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat_rows(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _shown(value)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
