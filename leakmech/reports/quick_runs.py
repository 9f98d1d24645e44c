"""What pages and figures say of a quick run, so that nobody takes its numbers for a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leakmech.reports.page import Paragraph, Section


def quick_caution(summary: Mapping[str, Any], taken: str) -> list[Section]:
    """A paragraph that says what little was `taken` of everything, on the page of a quick run; else nothing."""
    if not summary.get("quick"):
        return []
    return [Paragraph(f"Quick: {taken}, to see it work; no measurement.", "caution")]


def figure_subtitle(about: str, summary: Mapping[str, Any]) -> str:
    """What a figure is `about`, and whether its run was a quick one."""
    return about.removeprefix("embedded:") + ("; quick: no measurement" if summary.get("quick") else "")
