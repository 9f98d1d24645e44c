"""Answers with bars of their valence, for a terminal and for a notebook.

A bar begins in the middle (valence 0) and goes to the right for glad answers and to the left for sad ones; its whole
field is -1 to 1. An asterisk marks an answer that is about the injection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import pandas as pd

from leakmech.core.text import shortened
from leakmech.reports.cells import DASH, number, typeset
from leakmech.studies.quick.answers import PromptAnswers

MARK = "*"
_HALF = 8
"""Characters of a bar's half."""
_BLOCK, _MIDDLE = "\u2588", "\u2502"
_GLAD, _SAD = "#0072b2", "#d55e00"
_UNSCORED = "(nothing but the prompt again)"


def bars_text(stem: str, prompts: Sequence[PromptAnswers], answers: pd.DataFrame, *, width: int | None = None) -> str:
    """Every answer on a line of at most `width` characters; None leaves sentences whole."""
    lines = [_cut(stem, width)]
    for place, prompt in enumerate(prompts):
        lines += ["", _cut(f"{prompt.name} {_reading(prompt)}".rstrip(), width)]
        for answer in _of(answers, place):
            begun = f"  {number(answer['valence'], signed=True):>5} {_bar(answer['valence'])} {_mark(answer)} "
            lines.append(_cut(begun + _said(answer), width))
    return "\n".join([*lines, "", f"  {MARK} about the injection"])


def bars_html(stem: str, prompts: Sequence[PromptAnswers], answers: pd.DataFrame, *, headline: str) -> str:
    """The same as a table; all texts are escaped, and colours go with light and dark pages."""
    rows = []
    for place, prompt in enumerate(prompts):
        head = f"<b>{escape(prompt.name)}</b> {escape(_reading(prompt))}"
        rows.append(f'<tr><td colspan="3" style="text-align:left;padding-top:0.8em">{head}</td></tr>')
        for answer in _of(answers, place):
            shown = escape(f"{_mark(answer)} {_said(answer)}".strip())
            value = typeset(number(answer["valence"], signed=True))
            cells = f"<td>{value}</td><td>{_svg(answer['valence'])}</td>"
            rows.append(f'<tr>{cells}<td style="text-align:left">{shown}</td></tr>')
    return (
        f"<p><b>{escape(stem)} …</b></p><table>{''.join(rows)}</table>"
        f"<p>{MARK} about the injection</p><p><b>{escape(headline)}</b></p>"
    )


def _of(answers: pd.DataFrame, place: int) -> Iterator[dict[str, Any]]:
    """The answers to one prompt."""
    rows: Any = answers[answers["prompt"] == place]
    yield from rows.to_dict("records")


def _reading(prompt: PromptAnswers) -> str:
    """What the estimator makes of the injection."""
    if prompt.injected_valence is None:
        return ""
    return f"({prompt.polarity} {number(prompt.injected_valence, signed=True)})"


def _said(answer: dict[str, Any]) -> str:
    return _UNSCORED if pd.isna(answer["valence"]) else " ".join(answer["sentence"].split())


def _mark(answer: dict[str, Any]) -> str:
    return MARK if answer["about_injection"] else " "


def _bar(value: float) -> str:
    """A bar of characters; empty where there is no value."""
    length = 0 if pd.isna(value) else round(abs(value) * _HALF)
    left = (_BLOCK * length if value < 0 else "").rjust(_HALF)
    return f"{left}{_MIDDLE}{(_BLOCK * length if value > 0 else '').ljust(_HALF)}"


def _svg(value: float) -> str:
    """A bar as a drawing, with its number as text for those that cannot see it."""
    length = 0.0 if pd.isna(value) else abs(value) * 60
    start, color = (60, _GLAD) if value > 0 else (60 - length, _SAD)
    label = DASH if pd.isna(value) else typeset(number(value, signed=True))
    return (
        f'<svg role="img" aria-label="valence {label}" width="120" height="12">'
        f'<rect x="{start:.1f}" y="1" width="{length:.1f}" height="10" fill="{color}"/>'
        '<line x1="60" y1="0" x2="60" y2="12" stroke="currentColor"/></svg>'
    )


def _cut(line: str, width: int | None) -> str:
    if width is None or len(line) <= width:
        return line
    return f"{shortened(line, width - 1).rstrip()}…"
