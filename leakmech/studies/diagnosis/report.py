"""Figures and the page of a finished diagnosis, from its tables.

One self-contained HTML page about a diagnosis: its main numbers beside their baselines, its tables and its figures.

See :mod:`leakmech.reports.page` for what the page is made of.

Tables of a diagnosis for terminal and markdown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leakmech.core.store import write_text
from leakmech.datasets.samples import CONDITIONS, PromptSet
from leakmech.mechanism.activations.cache import cache_activations
from leakmech.prompts.locate import LocatedPrompt, locate
from leakmech.reports.figures import patching as figures
from leakmech.reports.figures.canvas import number
from leakmech.reports.figures.frames import Frame, head_name, neuron_name, words
from leakmech.reports.page import ShownTable, cell, embedded_figure, findings_page, is_number
from leakmech.reports.tables import Table
from leakmech.studies.diagnosis.workbench import Fragment, Workbench

_TABLES = ("directions", "heads", "neurons", "sublayers", "knockout")


def draw(bench: Workbench, summary: Fragment) -> list[Path]:
    """Draw every figure; returns the files."""
    folder, c = bench.out / "figures", bench.config
    about = f"{c.model.removeprefix('embedded:')}, {c.dataset}"
    ranked = f"{about}; ranked on {bench.splits['tune'].name}"
    heads, neurons = _headline(bench.table("heads"), c.target), _headline(bench.table("neurons"), c.target)
    curves, areas = _with_random_mean(bench.table("faithfulness"), summary)
    attention = bench.table("attention")
    last = attention[attention["from_position"] == "last_prompt"]
    by_head = pd.DataFrame(last.groupby(["layer", "head"])["attention"].mean()).reset_index()
    cosines = bench.table("cosines").set_index("direction")
    written = [
        figures.head_heat_map(heads, folder / "head_heat_map", subtitle=ranked, quantity="share of the affect shift"),
        figures.neuron_ranking(neurons, folder / "neuron_ranking", subtitle=ranked),
        figures.layer_curves(bench.table("directions"), folder / "layer_curves", subtitle=about),
        figures.patching_map(bench.table("patching_stream"), folder / "patching_map", subtitle=about),
        figures.method_agreement(bench.table("patching_heads"), folder / "method_agreement", subtitle=about),
        figures.cosine_heat_map(cosines, folder / "cosine_heat_map", subtitle=about),
        figures.attention_map(by_head, folder / "attention_map", subtitle=f"{about}; from the last token"),
        figures.transport_scatter(bench.table("transport"), folder / "transport_scatter", subtitle=about),
        figures.token_projection(token_frame(bench), folder / "token_projection", subtitle=about),
    ]
    for universe, own in curves.groupby("universe", sort=False):
        path = folder / f"faithfulness_curves_{universe}"
        written.append(
            figures.faithfulness_curves(own, path, areas=areas[str(universe)], components=str(universe), subtitle=about)
        )
    return [path for files in written for path in files]


def write_page(bench: Workbench, summary: Fragment, drawn: Sequence[Path]) -> Path:
    """Write ``report.html``."""
    path = bench.out / "report.html"
    tables = {name: bench.table(name) for name in _TABLES}
    for name in ("heads", "neurons"):
        tables[name] = _headline(tables[name], bench.config.target)
    write_text(path, diagnosis_page(summary, tables, list(drawn)))
    return path


def _headline(frame: pd.DataFrame, target: str) -> pd.DataFrame:
    chosen = (frame["method"] == "attribution_patching") & (frame["target"] == target)
    return frame.loc[chosen].dropna(axis=1, how="all").reset_index(drop=True)


def _with_random_mean(
    frame: pd.DataFrame, summary: Fragment
) -> tuple[pd.DataFrame, dict[str, dict[str, dict[str, float]]]]:
    """Curves with the random rankings as one (their mean, and their range as its band), and the areas."""
    is_random = frame["ranking"].str.startswith("random-")
    keys = ["universe", "target", "mode", "size", "fraction"]
    of_random = frame.loc[is_random].groupby(keys)["faithfulness"]
    band = {"faithfulness": of_random.mean(), "low": of_random.min(), "high": of_random.max()}
    random = pd.DataFrame(band).reset_index().assign(ranking="random")
    areas = {
        universe: {
            name: {"CPR": own[f"cpr{suffix}"], "CMD": own[f"cmd{suffix}"]}
            for name, suffix in (("attribution_patching", ""), ("magnitude", "_magnitude"), ("random", "_random"))
        }
        for universe, own in summary["circuits"].items()
    }
    return pd.concat([frame.loc[~is_random], random], ignore_index=True), areas


def token_frame(bench: Workbench) -> pd.DataFrame:
    """Projection on the target direction along the tokens of the first test sample, under its four conditions."""
    sample = bench.splits["test"].samples[0]
    one = PromptSet(sample.id, (sample,))
    cache = cache_activations(
        bench.reading,
        one,
        sites=["resid_post"],
        layers=[bench.direction.layer],
        positions=["prompt"],
        **bench.prompting,
    )["resid_post"]
    prompts = [bench.renderer.prompt(sample, condition) for condition in CONDITIONS]
    rows = []
    for prompt, place in zip(prompts, locate(prompts, bench.renderer), strict=True):
        start = prompt.rendered.rfind(prompt.text)
        instruction = len(bench.loaded.tokenizer(prompt.rendered[:start], add_special_tokens=False)["input_ids"])
        chosen = cache.select(conditions=prompt.condition)
        values = chosen.values[0, 0, :, 0].float() @ bench.direction.vector
        values = values[chosen.present[0, 0]].numpy()
        for index, value in enumerate(values):
            token = bench.loaded.tokenizer.decode([int(place.ids[index])])
            part = _part(place, index, instruction)
            rows.append(
                {
                    "condition": prompt.condition,
                    "position": index,
                    "token": token,
                    "projection": float(np.float64(value)),
                    "part": part,
                }
            )
    return pd.DataFrame(rows)


def _part(prompt: LocatedPrompt, index: int, instruction: int) -> str:
    if index >= prompt.spans["stem"][1]:
        return "tail"
    if index >= prompt.spans["stem"][0]:
        return "stem"
    start, stop = prompt.spans["injection"]
    if stop and index >= start:  # and the space behind it, where that is a token of its own
        return "injection"
    return "instruction" if index >= instruction else "prefix"


# -- diagnosis page ----------------------------------------------------------------------------------------------------

MAX_ROWS = 20

_NUMBERS = {
    "attribution_patching_spearman": (
        "Attribution patching against activation patching",
        "Spearman correlation over heads: 1 means that the fast method ranks them as the exact one does",
    ),
    "cpr": ("CPR", "area under the curve of faithfulness when only the first k components are kept; higher is better"),
    "cmd": ("CMD", "area between that curve and the whole model's; lower is better"),
}
_DIRECTION_NUMBERS = {
    "auc": ("AUC", "share of pairs of prompts in which the positive one projects higher; 0.5 is chance"),
    "d_z": ("d_z", "difference between positive and negative within samples, in its standard deviations"),
    "accuracy": ("accuracy", "share of prompts on their side of the threshold; 0.5 is chance"),
}
_DIRECTION_COLUMNS = (
    "name", "kind", "site", "position", "method", "layer", "test_auc", "test_d_z", "test_accuracy", "random_auc_p95",
    "random_d_z_p95", "shuffled_auc_p95", "shuffled_d_z_p95",
)  # fmt: skip
_TITLES = {"heads": "Attention heads", "neurons": "Neurons", "directions": "Directions and their baselines"}
_CAPTIONS = {
    "head_heat_map": "Every cell is a head; the numbers are ranks by size, their names and scores stand at the right.",
    "attention_map": "Every cell is a head; the numbers are ranks, their names stand at the right.",
    "neuron_ranking": "Left: the neurons with the largest scores. Right: the share that the first k neurons hold.",
    "token_projection": (
        "Where affect enters the prompt and how far it travels: tokens that all prompts share lie under each other."
    ),
    "layer_curves": (
        "Separation of positive from negative on samples that no direction was fitted on, beside directions that "
        "know nothing."
    ),
    "patching_map": (
        "How much of the difference between the prompts moves when the residual stream of one region and layer is "
        "exchanged."
    ),
    "faithfulness_curves": "Left: only the first k components kept. Right: the first k removed.",
    "method_agreement": "A point is a head; on the dashed line both methods agree.",
    "cosine_heat_map": "Cosines between directions.",
    "transport_scatter": "Right: components that bring affect from the injection. Up: components that write it out.",
}


def diagnosis_page(summary: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], figures: Sequence[Path]) -> str:
    """The page as HTML.

    Parameters
    ----------
    summary
        What ``summary.json`` of the run holds. ``attribution_patching_spearman``, ``cpr``, ``cmd`` (with ``<name>_ci``
        and a baseline under ``<name>_random`` or ``random_<name>`` where there are) and ``directions`` (name to
        ``auc``, ``d_z``, ``accuracy``) make the main numbers; everything is listed at the end.
    tables
        By name, as they lie under ``tables/``. Rows are shown in their order, 20 at most; of a table with a column
        ``chosen`` the chosen rows only. ``x_low`` and ``x_high`` become the interval of ``x``.
    figures
        PNG files in the order of the page; other files among them (the PDF and CSV beside a figure) are passed over.

    Raises
    ------
    FigureError
        A figure is missing or no PNG image.
    """
    paths = [Path(path) for path in figures if Path(path).suffix.lower() == ".png"]
    return findings_page(
        summary,
        kind="Diagnosis",
        heading="Which layers, heads and neurons carry leaked affect",
        headline=headline(summary),
        numbers=main_numbers(summary),
        tables=[_shown_table(name, frame) for name, frame in tables.items()],
        figures=[embedded_figure(path, _caption(path)) for path in paths],
    )


def _caption(path: Path) -> str:
    return next((text for name, text in _CAPTIONS.items() if path.stem.startswith(name)), "")


# -- numbers ---------------------------------------------------------------------------------------------------------


def headline(summary: Mapping[str, Any]) -> str:
    """What was found, in a sentence; empty where the summary holds no direction and no area."""
    parts = []
    directions = [(name, values) for name, values in _directions(summary).items() if is_number(values.get("auc"))]
    if directions:
        name, values = directions[0]
        text = f"The direction “{name}” separates positive from negative injections with AUC {values['auc']:.2f}"
        parts.append(text + (f" (d_z {number(values['d_z'])})" if is_number(values.get("d_z")) else ""))
    if is_number(summary.get("cpr")):
        text = f"keeping the components ranked first gives a CPR of {summary['cpr']:.2f}"
        random = _baseline(summary, "cpr")
        parts.append(text + (f", random ones {random:.2f}" if is_number(random) else ""))
    if not parts:
        return ""
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def main_numbers(summary: Mapping[str, Any]) -> Table | None:
    """Agreement, areas and directions, each beside its baseline; None where the summary has none of them."""
    rows = [
        (label, _with_interval(summary, name), cell(_baseline(summary, name)), meaning)
        for name, (label, meaning) in _NUMBERS.items()
        if name in summary
    ]
    for direction, values in _directions(summary).items():
        for name, (label, meaning) in _DIRECTION_NUMBERS.items():
            if name in values:
                row = (f"{direction}: {label}", _with_interval(values, name), cell(_baseline(values, name)), meaning)
                rows.append(row)
    header = ("number", "value [95 % CI]", "random baseline", "what it says")
    return Table("On test, beside what random directions or components reach", header, rows) if rows else None


def _directions(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Directions by name, from a mapping or from a list of records with a ``name``."""
    found = summary.get("directions") or {}
    if not isinstance(found, Mapping):
        found = {str(row.get("name", index)): row for index, row in enumerate(found)}
    return {str(name): values for name, values in found.items() if isinstance(values, Mapping)}


def _baseline(values: Mapping[str, Any], name: str) -> Any:
    for key in (f"{name}_random", f"random_{name}", f"random_{name}_p95"):
        if values.get(key) is not None:
            return values[key]
    return None


def _with_interval(values: Mapping[str, Any], name: str) -> str:
    interval = values.get(f"{name}_ci")
    if interval is None and values.get(f"{name}_low") is not None:
        interval = (values[f"{name}_low"], values[f"{name}_high"])
    return _bracketed(values[name], *(interval or (None, None)))


def _bracketed(value: Any, low: Any, high: Any) -> str:
    if not (is_number(low) and is_number(high)):
        return cell(value)
    return f"{cell(value)} [{cell(low)}, {cell(high)}]"


# -- tables ----------------------------------------------------------------------------------------------------------


def _shown_table(name: str, frame: pd.DataFrame) -> ShownTable:
    drawn: Frame = frame
    count = f"{len(drawn):,} rows"
    if "chosen" in drawn.columns and drawn["chosen"].astype(bool).any():
        drawn = drawn[drawn["chosen"].astype(bool)].drop(columns="chosen")
        note = f"The chosen of {count}; all in tables/{name}.csv."
    else:
        note = f"The first {MAX_ROWS} of {count}; all in tables/{name}.csv." if len(drawn) > MAX_ROWS else f"{count}."
    drawn = _named(drawn.head(MAX_ROWS))
    if name == "directions":
        kept = [part for part in _DIRECTION_COLUMNS if part in drawn.columns]
        ends = [f"{part}_{end}" for part in kept for end in ("low", "high") if f"{part}_{end}" in drawn.columns]
        drawn = drawn[[*kept, *ends]] if kept else drawn
    header, rows = _cells(drawn)
    title = _TITLES.get(name, words(name).capitalize())
    return ShownTable(f"table-{''.join(c if c.isalnum() else '-' for c in name)}", Table(title, header, rows, [note]))


def _named(frame: Frame) -> Frame:
    """With the component's name (``L12H3``) in place of layer and index."""
    for column, name in (("head", head_name), ("neuron", neuron_name)):
        if {"layer", column} <= set(frame.columns):
            names = [name(layer, index) for layer, index in zip(frame["layer"], frame[column], strict=True)]
            frame = frame.drop(columns=["layer", column])
            frame.insert(0, column, names)
    return frame


def _heading(column: str) -> str:
    return words(column).replace("d z", "d_z").replace("auc", "AUC")


def _cells(frame: Frame) -> tuple[list[str], list[list[str]]]:
    """Header and finished texts; columns of interval ends are folded into the column they belong to."""
    columns = list(map(str, frame.columns))
    frame = frame.set_axis(columns, axis=1)
    ends = {name: (f"{name}_low", f"{name}_high") for name in columns}
    if "score" in columns and "score_low" not in columns:
        ends["score"] = ("low", "high")
    folded = {name: pair for name, pair in ends.items() if set(pair) <= set(columns)}
    inner = {end for pair in folded.values() for end in pair}
    kept = [name for name in columns if name not in inner]
    header = [_heading(name) + (" [95 % CI]" if name in folded else "") for name in kept]
    rows = []
    for record in frame.to_dict("records"):
        texts = []
        for name in kept:
            low, high = (record[end] for end in folded[name]) if name in folded else (None, None)
            texts.append(_bracketed(record[name], low, high))
        rows.append(texts)
    return header, rows


# -- diagnosis tables --------------------------------------------------------------------------------------------------

_METHOD_NAMES = {"difference_of_means": "difference of means", "two_means": "2-means"}


def diagnosis_tables(summary: Mapping[str, Any], heads: pd.DataFrame, *, top: int = 10) -> list[Table]:
    """Directions, the checks of the ranking, and the first heads."""
    is_chosen = (heads["method"] == "attribution_patching") & (heads["target"] == summary["target"])
    chosen = heads.loc[is_chosen].reset_index(drop=True)
    return [_directions_table(summary), _checks(summary), heads_table(chosen, top=top)]


def _directions_table(summary: Mapping[str, Any]) -> Table:
    rows, notes = [], ["target: the best direction in the layer that attribution explains"]
    for name, own in summary["directions"].items():
        if "skipped" in own:
            notes.append(f"{name}: not fitted ({own['skipped']})")
            continue
        rows.append(
            (
                name,
                _METHOD_NAMES.get(own["method"], own["method"]),
                str(own["layer"]),
                _number(own["auc"]) + _interval(own.get("test_auc_ci")),
                _number(own["d_z"]) + _interval(own.get("test_d_z_ci")),
                _number(own["accuracy"]),
                _number(own["random_auc_p95"]),
                _number(own["random_d_z_p95"]),
            )
        )
    header = ("direction", "method", "layer", "AUC", "d_z", "accuracy", "AUC, random", "d_z, random")
    notes.append("random: 95th percentile of random directions")
    return Table(f"Directions of affect, on {summary['dataset']}", header, rows, notes)


def _checks(summary: Mapping[str, Any]) -> Table:
    rows = [
        (
            "attribution against exact patching (Spearman)",
            _number(summary["attribution_patching_spearman"]),
            "0",
        )
    ]
    for name, own in summary["circuits"].items():
        kept = f"{_number(own['kept_top_random_mean'])} (max {_number(own['kept_top_random_max'])})"
        rows.append((f"shift kept by the first {own['top']} {name}", _number(own["kept_top"]), kept))
        rows.append((f"CPR of {name} (higher is better)", _number(own["cpr"]), _number(own["cpr_random"])))
        rows.append((f"CMD of {name} (lower is better)", _number(own["cmd"]), _number(own["cmd_random"])))
    stable = summary["stability"]
    rows.append(
        (
            f"first {stable['top_heads']} heads shared by halves of the samples",
            _number(stable["heads_between_halves"]),
            _number(stable["heads_chance"]),
        )
    )
    rows.append(("shift that attention to the injection carries", _number(summary["knockout_ceiling"]), ""))
    notes = [f"ranked on {summary['n_samples']['tune']} other samples; target: {summary['target']}"]
    return Table("Is the ranking right?", ("check", "measured", "at random"), rows, notes)


def heads_table(frame: pd.DataFrame, *, top: int) -> Table:
    """The first heads of a ranking."""
    rows = [
        (str(int(row["rank"])), f"L{int(row['layer'])}H{int(row['head'])}", _number(row["score"]) + _of(row))
        for row in frame.sort_values("rank").head(top).to_dict("records")
    ]
    first = frame.iloc[0]
    title = f"Heads by {str(first['method']).replace('_', ' ')}, target {first['target']}"
    return Table(title, ("rank", "head", "share of the shift"), rows)


def directions_table(frame: pd.DataFrame) -> Table:
    """The best layer of each method on tune, with its separation on test."""
    rows = []
    for method, own in frame.groupby("method", sort=False):
        best = own.sort_values(["tune_auc", "tune_d_z"], ascending=False).to_dict("records")[0]
        rows.append(
            (
                _METHOD_NAMES.get(str(method), str(method)) + (" (chosen)" if True in own["chosen"].tolist() else ""),
                str(best["layer"]),
                _number(best["tune_auc"]),
                _number(best["test_auc"]),
                _number(best["test_d_z"]),
                _number(best["test_accuracy"]),
                _number(best["random_auc_p95"]),
                _number(best["shuffled_auc_p95"]),
            )
        )
    header = ("method", "layer", "AUC (tune)", "AUC", "d_z", "accuracy", "AUC, random", "AUC, shuffled")
    notes = ["layer: the best one on tune; random and shuffled: 95th percentiles on test"]
    return Table("Directions of affect", header, rows, notes)


def _of(row: Mapping[str, Any]) -> str:
    return _interval([row["low"], row["high"]]) if "low" in row and not math.isnan(row["low"]) else ""


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"


def _interval(ends: list[float] | None) -> str:
    return "" if ends is None else f" [{ends[0]:.2f}, {ends[1]:.2f}]"
