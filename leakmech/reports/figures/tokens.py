"""The projection on a direction along the tokens of one prompt, under its conditions.

Prompts of one sample differ in the injection alone, and injections differ in length. Each part of the prompt gets as
many columns as its longest version has tokens, and its tokens end at the part's right edge:

    column(token) = right edge of its part - tokens of the part that follow it,

so that what the prompts share lies in the same columns: the instruction before, stem and chat tail after the injection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font

from leakmech.core.errors import FigureError, nearest
from leakmech.core.text import shortened
from leakmech.datasets.samples import CONDITIONS
from leakmech.reports.cells import significant
from leakmech.reports.figures.canvas import (
    CONDITION_COLORS,
    INK,
    NARROW,
    RULE,
    SOFT,
    Width,
    add_titles,
    finished,
    inches,
    new_panels,
    text_width,
    wrapped,
)
from leakmech.reports.figures.frames import Frame, checked, has_interval

PARTS = ("prefix", "instruction", "injection", "turn", "stem", "tail")
_PART_NAMES = {"prefix": "chat prefix", "turn": "stem as asked, turn", "tail": "chat tail"}
_MARKERS = {"control": "", "positive": "o", "neutral": "s", "negative": "^"}
_TEXT_COLORS = CONDITION_COLORS | {"neutral": "#6b6b6b"}  # the grey of the lines is too light to be read
_STYLES = {"control": (0, (4, 2))}
_INVISIBLE = {" ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽"}
_TOKEN_SIZE = 7.5
_COLUMN, _LEAST_COLUMN = 0.185, 0.12  # inches
_MIN_WIDTH = 5.5
_MAX_TOKEN = 16
_SINK = 5.0


def token_projection(
    frame: pd.DataFrame,
    path: str | Path | None = None,
    *,
    leading: int = 6,
    quantity: str = "projection on the direction",
    title: str | None = None,
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw where affect enters a prompt and how far it travels: a line a condition, shared tokens under each other.

    ``position`` is the index of a token in its prompt. `leading` tokens are drawn before the injection; earlier ones
    (of a chat template, the same in every prompt) are left out. So is a first token on which attention rests, whose
    activation is so long that nothing could be read beside it (its projection is five times the largest of the others).
    """
    drawn = checked(
        frame,
        "token_projection",
        key=("condition", "position"),
        whole=("position",),
        texts=("condition", "token", "part"),
        numbers=("projection",),
        optional=("low", "high"),
    )
    _check_names(drawn)
    drawn, left_out = _in_columns(drawn, leading)
    rows = _label_rows(drawn)
    depth = [max(text_width(text, size=_TOKEN_SIZE) for text in row.values()) + 0.1 for row in rows]
    n_columns = int(drawn["column"].max()) + 1
    own = max(_COLUMN * n_columns + 1.1, _MIN_WIDTH)
    whole = own if width is None else inches(width, own)  # a long prompt is wider than a page
    if _LEAST_COLUMN * n_columns + 1.1 > whole:
        needed = _LEAST_COLUMN * n_columns + 1.1
        raise FigureError(
            f"token_projection: {n_columns} tokens need {needed:.1f} inches; make it wider, or leading less"
        )
    figure, [[axes]] = new_panels(whole, 3.1 + sum(depth))
    _shade_parts(axes, drawn)
    _draw_conditions(axes, drawn)
    _write_tokens(axes, rows, depth)
    axes.set_xlim(-0.6, n_columns - 0.4)
    axes.set_xticks(range(n_columns), [""] * n_columns)
    axes.set_ylabel(quantity)
    _axis_label(axes, drawn, depth, left_out, width=whole - 1.1)
    axes.legend(
        fontsize=8,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0, 1.085),
        borderaxespad=0,
        borderpad=0,
        ncols=4 if whole >= NARROW else 2,
    )
    add_titles(figure, _gap_title(drawn) if title is None else title, subtitle)
    return finished(figure, path, drawn)


def _check_names(drawn: Frame) -> None:
    for column, valid in (("condition", CONDITIONS), ("part", PARTS)):
        for name in drawn[column].unique():
            if name not in valid:
                raise FigureError(f"token_projection: {column} {name!r}{nearest(name, valid)}")
    for condition, rows in drawn.sort_values("position").groupby("condition"):
        order = [PARTS.index(part) for part in rows["part"]]
        if order != sorted(order):
            raise FigureError(
                f"token_projection: parts of condition {condition!r} are not in the order {', '.join(PARTS)}"
            )


def _in_columns(drawn: Frame, leading: int) -> tuple[Frame, int]:
    """Rows with the column they are drawn in, in reading order, without those too far to the left; and how many of
    one prompt these are."""
    counts = drawn.groupby(["part", "condition"]).size()
    widths = {part: int(counts[part].max()) if part in counts.index else 0 for part in PARTS}
    ends = pd.Series(widths).cumsum()
    drawn = drawn.sort_values("position")
    following = drawn.groupby(["condition", "part"]).cumcount(ascending=False)
    drawn = drawn.assign(column=drawn["part"].map(ends).astype(int) - 1 - following)
    left_out = max(widths["prefix"] + widths["instruction"] - leading, int(is_sink(drawn)))
    drawn = drawn[drawn["column"] >= left_out].assign(column=lambda kept: kept["column"] - left_out)
    order = drawn["condition"].map(CONDITIONS.index)
    return drawn.assign(order=order).sort_values(["order", "column"]).drop(columns="order").reset_index(
        drop=True
    ), left_out


def is_sink(drawn: Frame) -> bool:
    """Does the first token, the same in all prompts, dwarf the others?"""
    first, others = (drawn[mask] for mask in (drawn["position"] == 0, drawn["position"] > 0))
    if set(first["part"]) - {"prefix", "instruction"} or first["token"].nunique() > 1 or others.empty:
        return False
    return bool(first["projection"].abs().min() > _SINK * others["projection"].abs().max())


# -- drawing ---------------------------------------------------------------------------------------------------------


def _draw_conditions(axes: Axes, drawn: Frame) -> None:
    for condition in CONDITIONS:
        rows = drawn[drawn["condition"] == condition]
        if rows.empty:
            continue
        color = CONDITION_COLORS[condition]
        if has_interval(rows):
            axes.fill_between(rows["column"], rows["low"], rows["high"], color=color, alpha=0.15, linewidth=0)
        for number_of_run, (_, run) in enumerate(rows.groupby((rows["column"].diff() != 1).cumsum())):
            axes.plot(
                run["column"],
                run["projection"],
                color=color,
                linestyle=_STYLES.get(condition, "-"),
                marker=_MARKERS[condition],
                markersize=3.5,
                linewidth=1.5,
                label=condition if number_of_run == 0 else None,
            )
    axes.axhline(0, color=INK, linewidth=0.6, zorder=0.5)


def _shade_parts(axes: Axes, drawn: Frame) -> None:
    """Every other part grey, the name of each at the top."""
    spans = (
        drawn.groupby("part")["column"]
        .agg(["min", "max"])
        .reindex([part for part in PARTS if part in set(drawn["part"])])
    )
    for index, (part, (first, last)) in enumerate(spans.iterrows()):
        if index % 2:
            axes.axvspan(first - 0.5, last + 0.5, color=RULE, alpha=0.45, linewidth=0, zorder=0)
        name = _PART_NAMES.get(str(part), str(part))
        if text_width(name, size=8) > _COLUMN * (last - first + 1) + 0.1:
            name = str(part)
        axes.text(
            (first + last) / 2,
            1.01,
            name,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=8,
            color=SOFT,
        )


def _label_rows(drawn: Frame) -> list[dict[tuple[int, str], str]]:
    """Rows of token texts under the axis, as (column, colour) -> text.

    Where every prompt has the same token it is written once; otherwise each condition writes its own, in its colour.
    """
    shared: dict[tuple[int, str], str] = {}
    own: dict[str, dict[tuple[int, str], str]] = {}
    for column, rows in drawn.groupby("column"):
        texts = {
            condition: visible_token(token) for condition, token in zip(rows["condition"], rows["token"], strict=True)
        }
        place = int(str(column))
        if len(set(texts.values())) == 1 and (rows["part"] != "injection").all():
            shared[place, INK] = next(iter(texts.values()))
            continue
        for condition, text in texts.items():
            own.setdefault(condition, {})[place, _TEXT_COLORS[condition]] = text
    rows_of_own = [own[condition] for condition in CONDITIONS if condition in own]
    first = shared | (rows_of_own[0] if rows_of_own else {})
    return [first, *rows_of_own[1:]]


def _write_tokens(axes: Axes, rows: Sequence[Mapping[tuple[int, str], str]], depth: Sequence[float]) -> None:
    top = 0.07
    for row, high in zip(rows, depth, strict=True):
        for (column, color), text in row.items():
            axes.annotate(
                text,
                (column, 0),
                xycoords=axes.get_xaxis_transform(),
                xytext=(0, -72 * top),
                textcoords="offset points",
                rotation=90,
                ha="center",
                va="top",
                fontsize=_TOKEN_SIZE,
                color=color,
                annotation_clip=False,
                parse_math=False,
            )
        top += high


def _axis_label(axes: Axes, drawn: Frame, depth: Sequence[float], left_out: int, *, width: float) -> None:
    injected = [name for name in CONDITIONS if ((drawn["condition"] == name) & (drawn["part"] == "injection")).any()]
    text = "tokens of the prompt"
    if len(injected) > 1:
        text += f"; injections from top: {', '.join(injected)}"
    if left_out:
        text += f"; {left_out} {'token before these is' if left_out == 1 else 'tokens before these are'} left out"
    axes.set_xlabel("\n".join(wrapped(text, width, size=9)), labelpad=72 * sum(depth))


def _gap_title(drawn: Frame) -> str:
    """Positive minus negative in the injection, over the stem and at the last token."""
    table = {name: drawn[drawn["condition"] == name] for name in ("positive", "negative")}
    if any(rows.empty for rows in table.values()):
        return "Projection along the tokens of a prompt"
    parts = []
    for part in ("injection", "stem"):
        means = [rows.loc[rows["part"] == part, "projection"].mean() for rows in table.values()]
        if not any(pd.isna(means)):
            parts.append(f"{significant(means[0] - means[1], digits=2, signed=True)} over the {part}")
    last = [rows["projection"].iloc[-1] for rows in table.values()]
    parts.append(f"{significant(last[0] - last[1], digits=2, signed=True)} at the last token")
    return f"Positive minus negative: {', '.join(parts)}"


# -- texts -----------------------------------------------------------------------------------------------------------


def visible_token(text: str) -> str:
    """A token as it can be read: spaces and line ends as signs, long ones cut, letters that the font lacks as ``▯``."""
    signs = "".join(_INVISIBLE.get(letter, letter) for letter in text)
    signs = "".join(letter if ord(letter) in _letters() else "▯" for letter in signs)
    return signs if len(signs) <= _MAX_TOKEN else f"{shortened(signs, _MAX_TOKEN - 1)}…"


@cache
def _letters() -> frozenset[int]:
    """Code points of the font that figures are drawn in."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return frozenset(get_font(str(path)).get_charmap())
