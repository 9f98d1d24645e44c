"""What a training of an adapter looked like: its main numbers, and its losses by step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.store import read_json
from leakmech.models.reading import ADAPTER_CARD
from leakmech.reports.cells import number
from leakmech.reports.figures.losses import loss_figure, losses, smoothed
from leakmech.reports.page import Details, Headline, Paragraph, Section, Shown, how_it_was_made, write_page
from leakmech.reports.plane import Curve, Plane
from leakmech.reports.tables import Table
from leakmech.runs.result import Result
from leakmech.training.settings import LoraTrainingConfig
from leakmech.training.trainer import read_log

_FIGURE = "The same as a figure for papers: figures/loss.pdf and figures/loss.png."


def write_report(run: str | Path) -> Path:
    """Draw the losses and write ``report.html`` into the folder of an adapter; return its path."""
    result = Result.load(run).of_kind("train")
    card = read_json(result.path / ADAPTER_CARD)
    loss_figure(read_log(result.path), result.path / "figures" / "loss")
    return write_page(result.path, f"LoRA adapter for {card['base']['name']}", sections(result, card))


def sections(result: Result, card: Mapping[str, Any]) -> list[Section]:
    """What the training did, losses, main numbers, and everything that the card says."""
    return [
        headline(card),
        *loss_chart(read_log(result.path)),
        Shown(adapter_table(card), heading="Main numbers", is_open=True),
        Paragraph(_FIGURE, "soft small"),
        Details.of(card, heading="Everything in adapter_card.json"),
        *how_it_was_made(result.path, result.summary, LoraTrainingConfig),
    ]


def headline(card: Mapping[str, Any]) -> Headline:
    """How far the loss fell; what it does to leakage is measured elsewhere."""
    results = card["results"]
    kept = "" if results["kept_step"] == results["steps"] else f"; step {results['kept_step']:,} was kept"
    text = (
        f"In {results['steps']:,} steps the loss went from {results['first_loss']:.3f} to {results['last_loss']:.3f}"
        f"{kept}."
    )
    return Headline(text, "A loss says nothing about leakage: compare runs with and without the adapter.")


def loss_chart(log: pd.DataFrame) -> list[Section]:
    """Moving means of the loss and of each objective by step."""
    curves = [
        Curve(label, [(float(step), float(value)) for step, value in zip(own["step"], own[name], strict=True)], place)
        for place, (name, label) in enumerate(losses(log).items())
        for own in [smoothed(log, name)]
        if len(own) > 1
    ]
    if not curves:
        return []
    return [
        Plane("step", "loss a step", "Moving means over a twentieth of the steps.", curves=curves, heading="Losses")
    ]


def adapter_table(card: Mapping[str, Any]) -> Table:
    """The main numbers of an adapter's card."""
    data, settings, results = card["data"], card["settings"], card["results"]
    weights = {name: weight for name, weight in settings["objectives"].items() if weight}
    scores = [one["score"] for one in results["evaluations"]]
    rows = [
        ("objectives", ", ".join(f"{name} {weight:g}" for name, weight in weights.items())),
        ("examples", ", ".join(f"{count:,} {kind}" for kind, count in data["kinds"].items())),
        ("steps", f"{results['steps']:,}, kept {results['kept_step']:,}"),
        ("loss, first and last step", f"{results['first_loss']:.4f}, {results['last_loss']:.4f}"),
        ("best evaluation", number(max(scores), decimals=4) if scores else "none"),
        ("examples per second", number(results["examples_per_second"])),
        ("peak memory", f"{results['peak_memory_bytes'] / 2**30:.2f} GiB"),
    ]
    return Table(f"adapter for {card['base']['name']}", ("", ""), rows)
