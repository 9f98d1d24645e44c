"""Figures of a finished diagnosis, from its tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leakmech.core.tables import read_table
from leakmech.reports.figures.components import method_agreement, neuron_ranking, transport_scatter
from leakmech.reports.figures.directions import cosine_heat_map, layer_curves
from leakmech.reports.figures.heads import attention_map, head_heat_map
from leakmech.reports.figures.patching import faithfulness_curves, patching_map
from leakmech.reports.figures.tokens import token_projection
from leakmech.studies.diagnosis.charts import neuron_scores
from leakmech.studies.diagnosis.tables import headline_rows


def draw(run: Path, summary: Mapping[str, Any]) -> None:
    """Draw every figure whose table the run has; names and data lie in ``figures/``."""
    tables = {file.stem: file for file in (run / "tables").glob("*.csv")}
    about = f"{summary.get('model', 'unknown model')}, {summary.get('dataset', 'unknown data')}"
    about = about.removeprefix("embedded:")
    ranked = f"{about}; {'ranked on tune, shares on test' if 'n_ranked' in summary else 'ranked on tune samples'}"

    def headline(frame: pd.DataFrame) -> pd.DataFrame:
        return headline_rows(frame, summary["target"])

    drawings: dict[str, tuple[str, Any]] = {
        "head_heat_map": (
            "heads",
            lambda f, path: head_heat_map(headline(f), path, subtitle=ranked, quantity="share of the affect shift"),
        ),
        "neuron_ranking": ("neurons", lambda f, path: _draw_neurons(headline(f), path, run, about)),
        "layer_curves": ("directions", lambda f, path: layer_curves(f, path, subtitle=about)),
        "patching_map": ("patching_stream", lambda f, path: patching_map(f, path, subtitle=about)),
        "method_agreement": ("patching_heads", lambda f, path: method_agreement(f, path, subtitle=about)),
        "cosine_heat_map": ("cosines", lambda f, path: cosine_heat_map(f.set_index("direction"), path, subtitle=about)),
        "attention_map": (
            "attention",
            lambda f, path: attention_map(_by_head(f), path, subtitle=f"{about}; from the last token"),
        ),
        "transport_scatter": ("transport", lambda f, path: transport_scatter(f, path, subtitle=about)),
        "token_projection": ("token_projection", lambda f, path: token_projection(f, path, subtitle=about)),
        "faithfulness_curves": ("faithfulness", lambda f, path: _draw_faithfulness(f, path, summary, about)),
    }
    for name, (table, drawing) in drawings.items():
        if table in tables:
            drawing(read_table(tables[table]), run / "figures" / name)


def _draw_neurons(frame: pd.DataFrame, path: Path, run: Path, about: str) -> None:
    """All neurons of the run where their scores are kept: the table has the first ones only, and a share is of all."""
    stored = neuron_scores(run)
    if stored is None:
        neuron_ranking(frame, path, subtitle=f"{about}; the neurons of the table")
        return
    scores, split = stored
    layers, neurons = np.indices(scores.shape).reshape(2, -1)
    every = pd.DataFrame({"layer": layers, "neuron": neurons, "score": scores.ravel()})
    neuron_ranking(every, path, subtitle=f"{about}; all neurons, scores on {split} samples")


def _by_head(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean attention of every head from the last token."""
    last = frame[frame["from_position"] == "last_prompt"]
    return pd.DataFrame(last.groupby(["layer", "head"])["attention"].mean()).reset_index()


def _draw_faithfulness(frame: pd.DataFrame, path: Path, summary: Mapping[str, Any], about: str) -> None:
    """A figure for each kind of component; the random rankings are one curve, their mean, with their range as band."""
    is_random = frame["ranking"].str.startswith("random-")
    keys = ["universe", "target", "mode", "size", "fraction"]
    of_random = frame.loc[is_random].groupby(keys)["faithfulness"]
    band = {"faithfulness": of_random.mean(), "low": of_random.min(), "high": of_random.max()}
    random = pd.DataFrame(band).reset_index().assign(ranking="random")
    for universe, curves in pd.concat([frame.loc[~is_random], random]).groupby("universe", sort=False):
        own = summary["circuits"][universe]
        if "reason" in own:
            continue
        rankings = (("attribution_patching", ""), ("magnitude", "_magnitude"), ("random", "_random"))
        areas = {name: {"CPR": own[f"cpr{end}"], "CMD": own[f"cmd{end}"]} for name, end in rankings}
        file = path.with_name(f"{path.name}_{universe}")
        faithfulness_curves(curves, file, areas=areas, components=str(universe), subtitle=about)
