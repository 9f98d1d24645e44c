"""One self-contained HTML page about a diagnosis: its main numbers beside their baselines, its tables and its figures.

See :mod:`leakmech.reports.findings` for what the page is made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.reports.figure_frames import Frame, head_name, neuron_name, words
from leakmech.reports.figures import number
from leakmech.reports.findings import ShownTable, cell, embedded_figure, findings_page, is_number
from leakmech.reports.tables import Table

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
