"""What the page of a diagnosis shows before its tables: each chart is made from one table of the run.

Charts are drawn in the page itself; the figures for papers (:mod:`leakmech.studies.diagnosis.figures`) show the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from leakmech.datasets.samples import CONDITIONS
from leakmech.models.components import with_names
from leakmech.reports.cells import alike, estimate, is_number, number, percent, significant, with_interval
from leakmech.reports.chart import Forest, ForestRow
from leakmech.reports.figures.frames import Frame, head_name, words
from leakmech.reports.figures.tokens import is_sink, visible_token
from leakmech.reports.frame_charts import cells
from leakmech.reports.grid import Grid, Token, Tokens
from leakmech.reports.page import Section
from leakmech.reports.plane import Band, Curve, Mark, Plane
from leakmech.studies.diagnosis.tables import headline_rows, read_components

Summary = Mapping[str, Any]
N_FIRST = 10
"""Heads and neurons that are listed with their intervals."""
_MARKED = 10
_NAMED = 6
_REGIONS = ("prefix", "instruction", "injection", "turn", "stem", "tail", "last_prompt", "last")
_SHARE = "share of the shift"
_OUTER = 0.97  # quantile of the sizes of projections that has the full colour


def charts(run: Path, summary: Summary) -> dict[str, list[Section]]:
    """The charts of a run, by the table that each is made from."""
    found: dict[str, list[Section]] = {}
    for name, draw in _CHARTS.items():
        file = run / "tables" / f"{name}.csv"
        if file.exists():
            found[name] = draw(read_components(file), summary)
    if found.get("neurons") and (share := neuron_share(run)):
        found["neurons"] = [share, *found["neurons"]]
    return found


# -- verdict ---------------------------------------------------------------------------------------------------------


def _verdict(frame: Frame, _: Summary) -> list[Section]:
    """Shares of the judged sets, over the range of the random sets."""
    rows = [
        ForestRow(
            str(row["set"]),
            f"{estimate(row | {'share_ci': (row['low'], row['high'])}, 'share')}, p {number(row['p'])}",
            row["share"],
            (row["low"], row["high"]) if is_number(row["low"]) else None,
            is_shown=is_shown(row),
            band=(row["random_mean"], row["random_max"]) if is_number(row["random_max"]) else None,
            mark=row["share_judged"] if row["n_judged"] != row["n"] and is_number(row["share_judged"]) else None,
        )
        for row in frame.to_dict("records")
        if is_number(row["share"])
    ]
    if not rows:
        return []
    caption = (
        "Share of the affect shift that moves with each set under interchange, with 95 % intervals. Grey: random sets "
        "with as many components per layer, from their mean to the largest. Hollow: not shown to be more than them."
    )
    if any(row.mark is not None for row in rows):
        caption += (
            f" These were measured on {frame['n_judged'].iloc[0]} of the samples; a short line is the share there."
        )
    return [Forest(rows, caption, is_centred=False)]


def is_shown(row: Mapping[str, Any], *, alpha: float = 0.05) -> bool:
    """Whether a row of the verdict shows more than random sets do: by its rank among them, and by its interval."""
    p, low = row["p"], row.get("low")
    return is_number(p) and p <= alpha and (not is_number(low) or low > 0)


# -- components ------------------------------------------------------------------------------------------------------


def ranked(frame: Frame, summary: Summary, kind: Literal["head", "neuron"]) -> Frame:
    """The rows that the page is about, by rank, with the components' names, which tables of older runs lack."""
    own = headline_rows(frame, summary["target"]) if "target" in summary else frame
    named = own if "name" in own else with_names(own, kind)
    return named.sort_values("rank") if "rank" in named else named


def _heads(frame: Frame, summary: Summary) -> list[Section]:
    """The first heads, and a map of all."""
    named = ranked(frame, summary, "head")
    if named.empty:
        return []
    caption = "By layer and head; blue moves the affect with the injection, orange against it. The numbers are ranks."
    said = f"{len(named)} heads, the first: {', '.join(named['name'].head(5))}"
    return [_first(named, "heads"), head_grid(named, "score", said=said, caption=caption)]


def _neurons(frame: Frame, summary: Summary) -> list[Section]:
    named = ranked(frame, summary, "neuron")
    return [] if named.empty else [_first(named, "neurons")]


def _first(ranked: Frame, what: str) -> Forest:
    """The first components with their scores."""
    first = ranked.head(N_FIRST)
    show = alike(first["score"])
    rows = [
        ForestRow(
            row["name"],
            with_interval(row["score"], row.get("low"), row.get("high"), show),
            row["score"],
            (row["low"], row["high"]) if is_number(row.get("low")) and is_number(row.get("high")) else None,
            is_shown=not (is_number(row.get("low")) and row["low"] <= 0 <= row["high"]),
        )
        for row in first.to_dict("records")
    ]
    held = " with their 95 % intervals; hollow where these contain 0" if any(row.interval for row in rows) else ""
    judged = ranked["split"].iloc[0] == "test" if "split" in ranked else False
    where = ", chosen on tune samples and measured on test samples" if judged else ""
    return Forest(rows, f"The first {len(rows)} {what} of the ranking{where}: {_SHARE}{held}.")


def head_grid(frame: Frame, column: str, *, said: str, caption: str) -> Grid:
    """A map of a number of each head, the largest ones with their ranks."""
    values = {
        (int(row.head), int(row.layer)): float(value)
        for row, value in zip(frame.itertuples(), frame[column], strict=True)
        if is_number(value)
    }
    order = sorted(values, key=lambda place: -abs(values[place]))[:_MARKED]
    if "rank" in frame:
        first = frame.sort_values("rank").head(_MARKED)
        order = [(int(head), int(layer)) for head, layer in zip(first["head"], first["layer"], strict=True)]
    n_heads, n_layers = int(frame["head"].max()) + 1, int(frame["layer"].max()) + 1
    return Grid(
        values,
        rows=[str(head) for head in range(n_heads)],
        columns=[str(layer) for layer in range(n_layers)],
        across="layer (0 = first)",
        down="head",
        caption=caption,
        said=said,
        marked={place: str(rank) for rank, place in enumerate(order, 1) if place in values},
    )


def neuron_scores(run: Path) -> tuple[np.ndarray, str] | None:
    """Scores of all neurons, of shape (layers, neurons), and their split; the table has the first ones only."""
    file = run / "stages" / "ranking.npz"
    if not file.exists():
        return None
    with np.load(file, allow_pickle=False) as stored:
        name = "neurons_test" if "neurons_test" in stored else "neurons"
        return (stored[name], "test" if name == "neurons_test" else "tune") if name in stored else None


def neuron_share(run: Path) -> Plane | None:
    """What the first k neurons hold of the scores of all neurons; None where only the first are stored."""
    stored = neuron_scores(run)
    if stored is None or not stored[0].any():
        return None
    scores, split = stored
    size = np.sort(np.abs(scores.ravel()))[::-1]
    held = 100 * size.cumsum() / size.sum()
    places = np.unique(np.geomspace(1, len(size), 60).round().astype(int))
    curve = [(float(k), float(held[k - 1])) for k in places]
    equal = [(float(k), 100 * k / len(size)) for k in places]
    k = min(100, len(size))
    return Plane(
        "neurons by size of their score",
        "% of the total size",
        f"The first {k} of all {len(size):,} neurons hold {held[k - 1]:.1f} % of the total size of the scores ({split} "
        "samples, as ranked there).",
        curves=[Curve("these neurons", curve), Curve("if all were equal", equal, is_soft=True)],
        is_log=True,
        y_nulls=(0.0, 100.0),
    )


# -- directions ------------------------------------------------------------------------------------------------------


def _directions(frame: Frame, _: Summary) -> list[Section]:
    """AUC by layer, a chart for each kind of direction; the title is about the chosen layer."""
    found: list[Section] = []
    for kind, rows in frame.groupby("kind", sort=False):
        curves = [
            Curve(words(str(method)), _points(own, "test_auc"), series=place % 6)
            for place, (method, own) in enumerate(rows.groupby("method", sort=False))
        ]
        bands = []
        if "random_auc_p95" in rows and rows["random_auc_p95"].notna().any():
            most = rows.groupby("layer")["random_auc_p95"].max().dropna()
            points = [(float(layer), 0.5, float(value)) for layer, value in most.items()]
            bands = [Band("random directions, to their 95th percentile", points)]
        chosen = rows[rows["chosen"].astype(bool)] if "chosen" in rows else rows.iloc[:0]
        marks = [_chosen(row) for row in chosen.to_dict("records")]
        caption = (
            f"{str(kind).capitalize()} affect: how well directions separate positive from negative on test samples"
        )
        caption += ", layer by layer." if not marks else "; 1 is the direction that was chosen on tune samples."
        found.append(Plane(
            "layer (0 = first)", "AUC on test", caption, marks=marks, curves=curves, bands=bands, y_nulls=(0.5, 1.0)
        ))  # fmt: skip
    return found


def _points(frame: Frame, column: str) -> list[tuple[float, float]]:
    own = frame.dropna(subset=[column]).sort_values("layer")
    return [(float(layer), float(value)) for layer, value in zip(own["layer"], own[column], strict=True)]


def _chosen(row: Mapping[str, Any]) -> Mark:
    low, high = row.get("test_auc_low"), row.get("test_auc_high")
    ends = (float(low), float(high)) if is_number(low) and is_number(high) else None
    said = f"AUC {with_interval(row['test_auc'], low, high)}, d_z {significant(row['test_d_z'])} on test"
    name = f"chosen on tune: layer {int(row['layer'])}, {words(str(row['method']))}"
    return Mark(float(row["layer"]), float(row["test_auc"]), name, said, y_interval=ends, is_hollow=True)


def _cosines(frame: Frame, _: Summary) -> list[Section]:
    square = frame.set_index("direction")
    caption = f"Cosines between {len(square)} directions; blue positive."
    return [cells(square, across="direction", down="direction", caption=caption, most=1.0, decimals=2, numbered=True)]


def _tokens(frame: Frame, _: Summary) -> list[Section]:
    """The prompts of one sample, their tokens coloured by projection."""
    rest = frame[frame["position"] > 0] if is_sink(frame) else frame
    size = rest["projection"].abs()
    prompts = []
    for condition in (name for name in CONDITIONS if name in set(rest["condition"])):
        own = rest[rest["condition"] == condition].sort_values("position")
        tokens = [
            Token(visible(str(text)), float(value), str(part))
            for text, value, part in zip(own["token"], own["projection"], own["part"], strict=True)
        ]
        prompts.append((condition, tokens))
    if not prompts:
        return []
    left_out = " The first token, on which attention rests, is left out." if len(rest) < len(frame) else ""
    caption = (
        "The first test sample: tokens coloured by their projection on the target direction, blue positive and orange "
        f"negative; the injection is underlined.{left_out}"
    )
    return [Tokens(prompts, float(size.quantile(_OUTER)) or 1.0, caption)]


def visible(token: str) -> str:
    """A token with its spaces, and signs for what cannot be seen."""
    return visible_token(token).replace("␣", " ")


# -- paths -----------------------------------------------------------------------------------------------------------


def _stream(frame: Frame, _: Summary) -> list[Section]:
    """What patching the stream moves, by region and layer."""
    known = [name for name in _REGIONS if name in set(frame["position"])]
    regions = [*known, *sorted(set(frame["position"]) - set(known))]
    layers = sorted(int(layer) for layer in set(frame["layer"]))
    values = {
        (regions.index(row["position"]), layers.index(int(row["layer"]))): float(row["effect"])
        for row in frame.to_dict("records")
    }
    best = frame.loc[frame.groupby("position")["effect"].idxmax()]
    said = "; ".join(
        f"{words(row['position'])} {percent(row['effect'], decimals=0)} (layer {int(row['layer'])})"
        for row in best.to_dict("records")
    )
    caption = (
        "How much of the difference between the prompts moves when the residual stream of one region and layer is "
        f"exchanged. Largest: {said}."
    )
    rows = [words(name) for name in regions]
    return [Grid(values, rows, list(map(str, layers)), "layer (0 = first)", "region", caption, said, {})]


def _attention(frame: Frame, _: Summary) -> list[Section]:
    last = frame[frame["from_position"] == "last_prompt"]
    if last.empty:
        return []
    own = pd.DataFrame(last.groupby(["layer", "head"])["attention"].mean()).reset_index()
    first: Any = own.loc[own["attention"].idxmax()]
    said = (
        f"{head_name(int(first['layer']), int(first['head']))} looks most at the injection: "
        f"{percent(first['attention'], decimals=0)} of its attention from the last token"
    )
    return [head_grid(own, "attention", said=said, caption=f"{said}. The numbers are ranks.")]


def _transport(frame: Frame, _: Summary) -> list[Section]:
    both = [set(frame[column].abs().nlargest(_NAMED).index) for column in ("transport", "expression")]
    marks = [
        Mark(
            float(row["transport"]),
            float(row["expression"]),
            str(row["name"]) if index in both[0] | both[1] else "",
            f"transport {significant(row['transport'])}, expression {significant(row['expression'])}",
            series=1 if row["component"] == "mlp" else 0,
        )
        for index, row in frame.to_dict("index").items()
    ]
    caption = "Right: components that bring affect from the injection. Up: components that write it out."
    legend = [("attention heads", 0), ("MLPs", 1)]
    return [Plane("transport", "expression", caption, marks=marks, legend=legend, x_nulls=(0.0,), y_nulls=(0.0,))]


# -- is the ranking right? -------------------------------------------------------------------------------------------


def _agreement(frame: Frame, summary: Summary) -> list[Section]:
    ends = [float(frame[["fast", "exact"]].to_numpy().min()), float(frame[["fast", "exact"]].to_numpy().max())]
    named = set(frame["exact"].abs().nlargest(_NAMED).index)
    marks = [
        Mark(
            float(row["exact"]),
            float(row["fast"]),
            head_name(int(row["layer"]), int(row["head"])) if index in named else "",
            f"exact {significant(row['exact'])}, fast {significant(row['fast'])}",
        )
        for index, row in frame.to_dict("index").items()
    ]
    found = summary.get("attribution_patching_spearman")
    said = f" Spearman {number(found)}." if is_number(found) else ""
    caption = f"A point is a head; on the dashed line both methods agree.{said}"
    line = Curve("equal", [(ends[0], ends[0]), (ends[1], ends[1])], is_soft=True)
    return [Plane("activation patching (exact)", "attribution patching (fast)", caption, marks=marks, curves=[line])]


def _faithfulness(frame: Frame, summary: Summary) -> list[Section]:
    """What is kept of the shift when only the first k components are, a chart for each kind of component."""
    found: list[Section] = []
    kept = frame[frame["mode"] == "keep"] if "mode" in frame else frame
    for universe, rows in kept.groupby("universe", sort=False):
        own = summary.get("circuits", {}).get(universe, {})
        if "reason" in own:
            continue
        is_random = rows["ranking"].str.startswith("random-")
        drawn = rows[is_random].groupby("size")["faithfulness"]
        bands = [
            Band("random rankings", [(float(k), float(group.min()), float(group.max())) for k, group in drawn])
        ] if is_random.any() else []  # fmt: skip
        curves = [
            Curve(words(str(ranking)), _by_size(own_rows), series=place)
            for place, (ranking, own_rows) in enumerate(rows[~is_random].groupby("ranking", sort=False))
        ]
        caption = f"What is kept of the shift when only the first k {universe} are kept; 1 is the whole model."
        x, y = f"first k {universe}", "share kept"
        found.append(Plane(x, y, caption, curves=curves, bands=bands, y_nulls=(0.0, 1.0), is_log=True))
    return found


def _by_size(rows: Frame) -> Sequence[tuple[float, float]]:
    own = rows.sort_values("size")
    return [(float(k), float(value)) for k, value in zip(own["size"], own["faithfulness"], strict=True)]


_CHARTS: dict[str, Callable[[Frame, Summary], list[Section]]] = {
    "verdict": _verdict,
    "heads": _heads,
    "neurons": _neurons,
    "directions": _directions,
    "token_projection": _tokens,
    "patching_stream": _stream,
    "attention": _attention,
    "transport": _transport,
    "patching_heads": _agreement,
    "faithfulness": _faithfulness,
    "cosines": _cosines,
}
