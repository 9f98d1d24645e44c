"""The data card of an AEXL data set: what went in, what was left out and why, lengths, settings, hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from leakmech.datasets.samples import INJECTIONS
from leakmech.reports.cells import cell, number
from leakmech.reports.tables import Table

Card = Mapping[str, Any]

_STEMS = {
    "drawn": "neutral sentences drawn after the injections, as far as needed",
    "cut": "stems cut",
    "pool": "stems in the pool",
    "neutral": "of these neutral enough",
    "from_other_texts": "not an injection or from its text",
    "distinct": "no near duplicates",
    "whole_sentences": "stems in samples that are whole sentences",
}


def card_tables(card: Card) -> list[Table]:
    """Counts of every stage, refusals by reason, classes, lengths, and what the paper does otherwise."""
    return [_stages(card), _refusals(card), _classes(card), _lengths(card), _departures(card)]


def card_markdown(card: Card) -> str:
    """The data card, in markdown."""
    settings = card["settings"]
    is_paper = settings.get("algorithm") == "paper"
    files = "\n".join(
        f"* `{own['file']}`: {own['samples']} samples (split `{split}`), sha256 `{own['sha256'][:16]}…`"
        for split, own in card["files"].items()
    )
    parts = [
        f"# AEXL from the corpus `{settings['corpus']}`",
        f"Built by `leakmech data build-aexl{' --algorithm paper' * is_paper}` after Algorithm 1 of Köprü et al. "
        "(2025), arXiv 2508.01708; the last table says what differs from it. A classifier "
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
    counts = card["counts"]
    rows = [
        ("texts read", f"{counts['texts']:,}"),
        ("sentences", f"{counts['sentences']:,}"),
        ("usable as injections", f"{counts['usable']:,}"),
        *((_STEMS[name], f"{number:,}") for name, number in counts["stems"].items()),
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
    drawn = card["settings"]["stem_source"] == "neutral-draw"
    return Table(
        title=f"Injections by class, estimator {card['settings']['estimator']}",
        header=header,
        rows=rows,
        notes=["The first half of the neutral draw are injections, the second half is cut to stems."] if drawn else [],
    )


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


def _departures(card: Card) -> Table:
    shown = {
        name: ["any" if value is None else cell(value) for value in (own["here"], own["paper"])]
        for name, own in card["departures"].items()
    }
    rows = [(name, *values) for name, values in shown.items()]
    return Table(
        title="Settings that differ from the paper's algorithm",
        header=("setting", "here", "paper"),
        rows=rows,
        notes=[
            "m = 3 n and stems of five words are our reading of the paper, which gives no numbers. By either algorithm "
            "copies of a sentence and sentences without a word are left out, white space is made single spaces, and a "
            "stem that repeats another text is replaced by the next draw."
        ],
    )
