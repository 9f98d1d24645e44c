"""What a training of an adapter looked like: its main numbers, and its losses by step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leakmech.core.store import read_json
from leakmech.models.reading import ADAPTER_CARD
from leakmech.reports.cells import number
from leakmech.reports.figures.losses import loss_figure
from leakmech.reports.page import Details, Picture, Section, Shown, how_it_was_made, write_page
from leakmech.reports.tables import Table
from leakmech.runs.result import Result
from leakmech.training.settings import LoraTrainingConfig
from leakmech.training.trainer import read_log


def write_report(run: str | Path) -> Path:
    """Draw the losses and write ``report.html`` into the folder of an adapter; return its path."""
    result = Result.load(run).of_kind("train")
    card = read_json(result.path / ADAPTER_CARD)
    loss_figure(read_log(result.path), result.path / "figures" / "loss")
    return write_page(result.path, f"LoRA adapter for {card['base']['name']}", sections(result, card))


def sections(result: Result, card: Mapping[str, Any]) -> list[Section]:
    """Main numbers, losses, and everything that the card says."""
    losses = result.path / "figures" / "loss.png"
    return [
        Shown(adapter_table(card), heading="Main numbers"),
        Picture.of(losses, "Faint: every step. Lines: moving means.", heading="Losses"),
        Details.of(card, heading="Everything in adapter_card.json"),
        *how_it_was_made(result.path, result.summary, LoraTrainingConfig),
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
