"""Figures of a finished diagnosis, from its tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from leakmech.core.tables import read_table
from leakmech.reports.figures.components import method_agreement, neuron_ranking, transport_scatter
from leakmech.reports.figures.directions import cosine_heat_map, layer_curves
from leakmech.reports.figures.heads import attention_map, head_heat_map
from leakmech.reports.figures.patching import faithfulness_curves, patching_map
from leakmech.reports.figures.tokens import token_projection
from leakmech.reports.quick_runs import figure_subtitle
from leakmech.studies.diagnosis.charts import neuron_scores
from leakmech.studies.diagnosis.tables import headline_rows


def draw(run: Path, summary: Mapping[str, Any]) -> None:
    """Draw every figure whose table the run has; names and data lie in ``figures/``."""
    for name, drawing in drawings(run, summary).items():
        drawing(run / "figures" / name)


def drawings(run: Path, summary: Mapping[str, Any]) -> dict[str, Callable[..., Figure]]:
    """The figures whose tables the run has, by name: functions of path, title and width."""
    tables = {file.stem: file for file in (run / "tables").glob("*.csv")}
    about = f"{summary.get('model', 'unknown model')}, {summary.get('dataset', 'unknown data')}"
    about = figure_subtitle(about, summary)
    ranked = f"{about}; {'ranked on tune, shares on test' if 'n_ranked' in summary else 'ranked on tune samples'}"

    def headline(frame: pd.DataFrame) -> pd.DataFrame:
        return headline_rows(frame, summary["target"])

    every, which = _all_neurons(run)
    given: dict[str, tuple[str, Callable[..., Figure], str]] = {
        "head_heat_map": (
            "heads",
            lambda f, path, **look: head_heat_map(headline(f), path, quantity="share of the affect shift", **look),
            ranked,
        ),
        "neuron_ranking": (
            "neurons",
            lambda f, path, **look: neuron_ranking(headline(f) if every is None else every, path, **look),
            f"{about}; {which}",
        ),
        "layer_curves": ("directions", layer_curves, about),
        "patching_map": ("patching_stream", patching_map, about),
        "method_agreement": ("patching_heads", method_agreement, about),
        "cosine_heat_map": (
            "cosines",
            lambda f, path, **look: cosine_heat_map(f.set_index("direction"), path, **look),
            about,
        ),
        "attention_map": (
            "attention",
            lambda f, path, **look: attention_map(_by_head(f), path, **look),
            f"{about}; from the last token",
        ),
        "transport_scatter": ("transport", transport_scatter, about),
        "token_projection": ("token_projection", token_projection, about),
    }
    found = {
        name: partial(_drawn, drawing, tables[table], subtitle=subtitle)
        for name, (table, drawing, subtitle) in given.items()
        if table in tables
    }
    if "faithfulness" in tables:
        for universe in dict.fromkeys(read_table(tables["faithfulness"])["universe"]):
            if "reason" not in summary["circuits"][universe]:
                drawing = partial(_faithfulness, summary=summary, universe=universe)
                found[f"faithfulness_curves_{universe}"] = partial(
                    _drawn, drawing, tables["faithfulness"], subtitle=about
                )
    return found


def _drawn(drawing: Callable[..., Figure], table: Path, path: str | Path | None = None, **look: Any) -> Figure:
    return drawing(read_table(table), path, **look)


def _all_neurons(run: Path) -> tuple[pd.DataFrame | None, str]:
    """Scores of all neurons where they are kept, and what they are: the table has the first only, a share is of all."""
    stored = neuron_scores(run)
    if stored is None:
        return None, "the neurons of the table"
    scores, split = stored
    layers, neurons = np.indices(scores.shape).reshape(2, -1)
    frame = pd.DataFrame({"layer": layers, "neuron": neurons, "score": scores.ravel()})
    return frame, f"all neurons, scores on {split} samples"


def _by_head(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean attention of every head from the last token."""
    last = frame[frame["from_position"] == "last_prompt"]
    return pd.DataFrame(last.groupby(["layer", "head"])["attention"].mean()).reset_index()


def _faithfulness(
    frame: pd.DataFrame, path: str | Path | None, *, summary: Mapping[str, Any], universe: str, **look: Any
) -> Figure:
    """One kind of component; the random rankings are one curve, their mean, with their range as band."""
    frame = frame.loc[frame["universe"] == universe]
    is_random = frame["ranking"].str.startswith("random-")
    of_random = frame.loc[is_random].groupby(["universe", "target", "mode", "size", "fraction"])["faithfulness"]
    band = {"faithfulness": of_random.mean(), "low": of_random.min(), "high": of_random.max()}
    random = pd.DataFrame(band).reset_index().assign(ranking="random")
    own = summary["circuits"][universe]
    rankings = (("attribution_patching", ""), ("magnitude", "_magnitude"), ("random", "_random"))
    areas = {name: {"CPR": own[f"cpr{end}"], "CMD": own[f"cmd{end}"]} for name, end in rankings}
    curves = pd.concat([frame.loc[~is_random], random])
    return faithfulness_curves(curves, path, areas=areas, components=universe, **look)
