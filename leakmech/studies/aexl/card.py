"""The data card of an AEXL data set: what went in, what was left out and why, lengths, settings, hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from leakmech.datasets.samples import INJECTIONS
from leakmech.reports.cells import number
from leakmech.reports.tables import Table

Card = Mapping[str, Any]


def card_tables(card: Card) -> list[Table]:
    """Counts of every stage, refusals by reason, classes, and lengths."""
    return [_stages(card), _refusals(card), _classes(card), _lengths(card)]


def card_markdown(card: Card) -> str:
    """The data card, in markdown."""
    settings = card["settings"]
    files = "\n".join(
        f"* `{own['file']}`: {own['samples']} samples (split `{split}`), sha256 `{own['sha256'][:16]}…`"
        for split, own in card["files"].items()
    )
    parts = [
        f"# AEXL from the corpus `{settings['corpus']}`",
        "Built by `leakmech data build-aexl` after Algorithm 1 of Köprü et al. (2025), arXiv 2508.01708. A classifier "
        f"(`{settings['estimator']}`) chose the sentences and no human judged them: its mistakes are in the labels. "
        "Score a run on this data set with another estimator, too.",
        files,
        *(table.to_markdown() for table in card_tables(card)),
        "**Settings**",
        _block(settings),
        "**Corpus, estimator, encoder**",
        _block({key: card[key] for key in ("corpus", "estimator", "encoder")}),
    ]
    return "\n\n".join(parts) + "\n"


def _block(value: Any) -> str:
    return f"```json\n{json.dumps(value, indent=2, ensure_ascii=False)}\n```"


def _stages(card: Card) -> Table:
    counts, stems = card["counts"], card["counts"]["stems"]
    rows = [
        ("texts read", f"{counts['texts']:,}"),
        ("sentences", f"{counts['sentences']:,}"),
        ("usable as injections", f"{counts['usable']:,}"),
        ("stems cut", f"{stems['cut']:,}"),
        ("stems in the pool", f"{stems['pool']:,}"),
        ("of these neutral", f"{stems['neutral']:,}"),
        ("from other texts than the injections", f"{stems['from_other_texts']:,}"),
        ("no near duplicates", f"{stems['distinct']:,}"),
        *((f"samples, split {split}", f"{own['samples']:,}") for split, own in card["files"].items()),
    ]
    return Table(
        title=f"AEXL from {card['settings']['corpus']}: what is left at each stage", header=("", "n"), rows=rows
    )


def _refusals(card: Card) -> Table:
    rows = [(reason, f"{number:,}") for reason, number in card["counts"]["refused"].items()]
    return Table(title="Sentences refused as injections, by the first rule they break", header=("rule", "n"), rows=rows)


def _classes(card: Card) -> Table:
    rows = [
        (
            label,
            *(f"{own[key]:,}" for key in ("found", "kept", "distinct", "drawn")),
            number(own["least_confidence"]),
        )
        for label, own in card["counts"]["classes"].items()
    ]
    header = ("class", "found", "kept (m)", "no near duplicates", "drawn (n)", "least confidence")
    return Table(title=f"Injections by class, estimator {card['settings']['estimator']}", header=header, rows=rows)


def _lengths(card: Card) -> Table:
    lengths, units = card["lengths"], list(card["lengths"]["stem"])

    def mean(text: str, unit: str) -> str:
        return number(lengths[text][unit], decimals=1)

    rows = [
        (label, *(mean(f"{label} {stage}", unit) for unit in units for stage in ("drawn", "chosen")))
        for label in INJECTIONS
    ]
    rows.append(("stem", *(cell for unit in units for cell in ("", mean("stem", unit)))))
    header = ("mean length", *(f"{unit}, {stage}" for unit in units for stage in ("all drawn", "in samples")))
    matched = "matched in words" if card["settings"]["match_length"] else "not matched"
    notes = [f"Injections of one sample are {matched}. Tokens of {card['tokenizer']}."] if "tokens" in units else []
    return Table(title="Lengths", header=header, rows=rows, notes=notes)
