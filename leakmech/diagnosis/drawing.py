"""Figures and the page of a finished diagnosis, from its tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from leakmech.core.store import write_text
from leakmech.datasets.samples import CONDITIONS, PromptSet
from leakmech.diagnosis.workbench import Fragment, Workbench
from leakmech.mechanism.activations.cache import cache_activations
from leakmech.prompts.locate import LocatedPrompt, locate
from leakmech.reports import diagnosis_figures as figures
from leakmech.reports.diagnosis_page import diagnosis_page

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
        bench.loaded,
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
