"""What a table over many runs says: tables, forest plots and the index page, from what ``leaderboard.json`` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from leakmech.reports.cells import DASH, number, p_value, short, signed, size, with_interval
from leakmech.reports.chart import Forest, ForestRow
from leakmech.reports.figures.canvas import Width
from leakmech.reports.figures.forest import forest_plot
from leakmech.reports.page import (
    Definitions,
    Details,
    Facts,
    Headline,
    Paragraph,
    Section,
    Shown,
    link_to,
    linked,
    refuse_foreign_page,
    write_page,
)
from leakmech.reports.statistic_names import LABELS, null_of, shown_as
from leakmech.reports.tables import Table

Content = Mapping[str, Any]

_MOST_DRAWN = 60
_MOST_NAMED = 10
_TOLD = 200
_difference = partial(signed, decimals=3)
_FAMILY = (
    "Family is the class of the model (LlamaForCausalLM is Llama, whatever the weights are called), size the number of "
    "its parameters, both as the run recorded them; a dash: it did not, as for texts that were generated elsewhere."
)
_TERMS = [
    ("all pairs", "how often an answer after a charged sentence has more of the sentence's sentiment than an answer "
     "without it, over all pairs of answers; 0.5 is no leakage. Charged sentences that only make answers more intense "
     "move it, too: see contrast on a run's own page."),
    ("difference", "a row minus the baseline of its table on the same samples, with an interval paired by sample."),
    ("p Holm", "two-sided permutation test of the difference (runs exchanged within samples), adjusted over all "
     "comparisons of its table by Holm's method."),
    ("verdict", "different: p Holm is below alpha; equivalent: the difference is within the margin that was set "
     "beforehand (two one-sided tests, adjusted likewise); undecided: neither is shown. It is not a proof of no "
     "difference."),
    ("results of files", "rows that others contributed as sums by sample. Their numbers are computed from these again; "
     "whether these are true cannot be checked here."),
]  # fmt: skip


def about(row: Content, statistic: str) -> Content:
    """The estimate of one statistic of a row."""
    return next(own for own in row["estimates"] if own["statistic"] == statistic)


def difference_of(row: Content, statistic: str) -> Content | None:
    """The difference of a row from its baseline; None for the baseline itself."""
    return next((own for own in row["differences"] if own["statistic"] == statistic), None)


# -- tables ----------------------------------------------------------------------------------------------------------


def block_table(block: Content, board: Content, *, base: Path | None = None) -> Table:
    """The rows of a block, by family and size; with `base`, the folder of a page, names are links to their pages."""
    statistic, margin = board["statistic"], board["margin"]
    rows = block["rows"] if base is not None else _fewer(block, statistic)
    columns: dict[str, Any] = {"run": lambda row: linked(row["name"], row["page"], base)}
    if any(row["model"] not in row["name"] for row in rows):
        columns["model"] = lambda row: row["model"]
    if any(row["changes"] for row in rows):
        columns["changed"] = lambda row: "; ".join(row["changes"]) or DASH
    columns |= {
        "family": lambda row: row["family"] or DASH,
        "size": lambda row: size(row["n_parameters"]),
        f"{LABELS[statistic]} [95 % CI]": lambda row: _estimate(row, statistic),
        "difference [95 % CI]": lambda row: _differs(row, statistic),
        "p Holm": lambda row: p_value((difference_of(row, statistic) or {}).get("p_holm")),
        "p equiv.": lambda row: p_value((difference_of(row, statistic) or {}).get("p_equivalence")),
        "verdict": lambda row: (difference_of(row, statistic) or {}).get("verdict") or DASH,
    }
    if margin is None:
        del columns["p equiv."]
    n_compared = _n_compared(block["rows"])
    notes = [
        f"differences from {block['baseline']}, paired by sample; p Holm: adjusted over the {n_compared} "
        f"comparisons of this table; verdict at alpha {board['alpha']:g}"
        + ("" if margin is None else f"; p equiv.: the difference is less than {margin:g}")
    ]
    return Table(
        _title(block),
        tuple(columns),
        [tuple(show(row) for show in columns.values()) for row in rows],
        [*_cut(len(rows), len(block["rows"])), *notes, *block["notes"]],
    )


def _fewer(block: Content, statistic: str) -> list[Content]:
    """The rows that a terminal has place for."""
    kept = {row["name"] for row in forest_rows(block, statistic)} | {block["baseline"]}
    rows = block["rows"]
    return rows if len(rows) <= _MOST_DRAWN else [row for row in rows if row["name"] in kept]


def _cut(shown: int, n: int) -> list[str]:
    return [f"{shown} of {n} rows, those with the smallest p values; the page has all"] if shown < n else []


def _title(block: Content) -> str:
    n, what = len(block["rows"]), f"{block['n_samples']} samples of {block['dataset']}"
    return f"{n} run{'s' * (n != 1)} over {what} ({block['estimator']}, {block['cleaning']})"


def _n_compared(rows: Sequence[Content]) -> int:
    return sum(bool(row["differences"]) for row in rows)


def _estimate(row: Content, statistic: str) -> str:
    own = about(row, statistic)
    return with_interval(own["value"], own["low"], own["high"], shown_as(statistic))


def _differs(row: Content, statistic: str) -> str:
    own = difference_of(row, statistic)
    return "baseline" if own is None else with_interval(own["difference"], own["low"], own["high"], _difference)


def left_out_table(left_out: Sequence[Content], *, base: Path | None = None) -> Table | None:
    """What has no row, and why; None if nothing is missing."""
    rows = [(linked(own["name"], own["page"], base), own["state"], own["told"][:_TOLD] or DASH) for own in left_out]
    return Table(f"{len(rows)} without a row", ("run", "state", "told"), rows) if rows else None


def left_out_notes(left_out: Sequence[Content]) -> list[str]:
    """The same in a line or two."""
    if not left_out:
        return []
    named = "; ".join(f"{own['name']}: {own['state']}" for own in left_out[:_MOST_NAMED])
    more = f"; and {len(left_out) - _MOST_NAMED} more" if len(left_out) > _MOST_NAMED else ""
    return [f"without a row: {named}{more}"]


# -- forest plot -----------------------------------------------------------------------------------------------------


def forest_rows(block: Content, statistic: str) -> list[Content]:
    """Rows with a difference, at most as many as can be looked at: of more, those with the smallest p values."""
    rows = [row for row in block["rows"] if (difference_of(row, statistic) or {}).get("difference") is not None]
    if len(rows) <= _MOST_DRAWN:
        return rows

    def p(row: Content) -> float:
        value = (difference_of(row, statistic) or {}).get("p")
        return 2.0 if value is None else value

    kept = {row["name"] for row in sorted(rows, key=p)[:_MOST_DRAWN]}
    return [row for row in rows if row["name"] in kept]


def _cut_note(block: Content, statistic: str) -> str:
    drawn, n = len(forest_rows(block, statistic)), _n_compared(block["rows"])
    return f" Drawn are the {drawn} of {n} with the smallest p values." if drawn < n else ""


def draw_forest(
    block: Content,
    board: Content,
    path: str | Path | None = None,
    *,
    title: str | None = None,
    width: Width | None = None,
) -> Figure:
    """The forest plot of a block."""
    statistic = board["statistic"]
    rows: list[dict[str, Any]] = [
        {**(difference_of(row, statistic) or {}), "label": row["name"]} for row in forest_rows(block, statistic)
    ]
    quantity = f"difference in {statistic} from {block['baseline']}, 95 % interval"
    return forest_plot(rows, path, quantity=quantity, margin=board["margin"], title=title or "", width=width)


def forest(block: Content, board: Content, base: Path) -> list[Section]:
    """The forest plot of a block in a page; nothing where there is nothing to compare."""
    statistic = board["statistic"]
    rows = []
    for row in forest_rows(block, statistic):
        own: Any = difference_of(row, statistic)
        ends = None if own["low"] is None else (own["low"], own["high"])
        link = link_to(row["page"], base) or ""
        is_shown = own["verdict"] in ("different", "different within the margin")
        rows.append(ForestRow(row["name"], _differs(row, statistic), own["difference"], ends, link, is_shown))
    if not rows:
        return []
    caption = f"Difference in {LABELS[statistic]} from {block['baseline']}, 95 % intervals; filled: different (Holm)."
    return [Forest(rows, caption + _cut_note(block, statistic), margin=board["margin"])]


# -- the page --------------------------------------------------------------------------------------------------------


def write_index(out: Path, board: Content, *, name: str = "report.html", more: Sequence[Section] = ()) -> Path:
    """Write the index page into the folder `out` and return its path.

    Raises
    ------
    UsageError
        There is a file of that name which leakmech did not write.
    """
    refuse_foreign_page(out / name, way_out="move it, or choose a folder with --out")
    return write_page(out, _page_title(board), sections(board, out, more=more), name=name)


def _page_title(board: Content) -> str:
    return f"Expression leakage over {', '.join(dict.fromkeys(block['dataset'] for block in board['blocks']))}"


def sections(board: Content, base: Path, *, more: Sequence[Section] = ()) -> list[Section]:
    """The page, from what was found to how it was made; `more` stands before the explanations."""
    missing = left_out_table(board["left_out"], base=base)
    found: list[Section] = [headline(board), Facts(_facts(board))]
    for block, heading in zip(board["blocks"], _headings(board["blocks"]), strict=True):
        found += [
            Paragraph(_in_words(block, board), heading=heading),
            *forest(block, board, base),
            Shown(block_table(block, board, base=base), is_open=True),
        ]
    if missing is not None:
        found.append(Shown(missing, heading="Missing", style="meaning", is_open=True))
    settings = {name: value for name, value in board.items() if name not in ("blocks", "left_out", "given")}
    return [
        *found,
        *more,
        Definitions(_TERMS, heading="What the numbers mean"),
        Paragraph(_FAMILY, "soft small"),
        Details.of(settings, heading="Settings of the comparison"),
    ]


def headline(board: Content) -> Headline:
    """What was found, in a sentence."""
    blocks = board["blocks"]
    counts = [_counts(block, board) for block in blocks]
    n, above, compared, different = (sum(own[i] for own in counts) for i in range(4))
    label, null = LABELS[board["statistic"]], null_of(board["statistic"])
    where = f"on {short(blocks[0]['dataset'])}" if len(blocks) == 1 else f"in {len(blocks)} tables"
    text = f"{_of(above, n)} {label} above {null:g} {where}"
    if compared:
        baselines = list(dict.fromkeys(block["baseline"] for block in blocks))
        base = baselines[0] if len(baselines) == 1 else "the baseline"
        text += f"; {different or 'none'} of {compared} differ{'s' * (different == 1)} from {base}"
    missing = len(board["left_out"])
    below = f"Above: the whole 95 % interval is. Differences by Holm's method at alpha {board['alpha']:g}."
    return Headline(f"{text}.", below + (f" {missing} have no row and are named below." if missing else ""))


def _of(part: int, whole: int) -> str:
    if whole == 1:
        return "The one run has" if part else "The one run is not shown to have"
    return f"{part or 'None'} of {whole} runs {'has' if part == 1 else 'have'}"


def _counts(block: Content, board: Content) -> tuple[int, int, int, int]:
    """Rows, those whose interval lies above no effect, comparisons, and those that are different."""
    statistic, rows = board["statistic"], block["rows"]
    null = null_of(statistic)
    lows = [about(row, statistic)["low"] for row in rows]
    verdicts = [(difference_of(row, statistic) or {}).get("verdict") for row in rows]
    above = sum(low is not None and low > null for low in lows)
    return len(rows), above, _n_compared(rows), sum(str(own).startswith("different") for own in verdicts)


def _in_words(block: Content, board: Content) -> str:
    """Which row has the least and which the most."""
    statistic = board["statistic"]
    known = [row for row in block["rows"] if about(row, statistic)["value"] is not None]
    if len(known) < 2:
        return f"One run over {block['n_samples']} samples."
    least, most = (pick(known, key=lambda row: about(row, statistic)["value"]) for pick in (min, max))
    ends = f"from {_estimate(least, statistic)} ({least['name']}) to {_estimate(most, statistic)} ({most['name']})"
    return f"{LABELS[statistic][0].upper()}{LABELS[statistic][1:]} {ends}."


def _facts(board: Content) -> list[tuple[str, str]]:
    rows = [row for block in board["blocks"] for row in block["rows"]]

    def ends(name: str) -> str:
        known = sorted({row[name] for row in rows if row[name] is not None})
        return DASH if not known else f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"

    families = sorted({row["family"] for row in rows if row["family"]})
    sizes = sorted(row["n_parameters"] for row in rows if row["n_parameters"])
    facts = [
        ("Runs", f"{len(rows)}" + (f", {len(board['left_out'])} without a row" if board["left_out"] else "")),
        ("Families", ", ".join(families[:8]) + (", …" if len(families) > 8 else "") or "unknown"),
        ("Sizes", " to ".join(dict.fromkeys(size(own) for own in (sizes[0], sizes[-1]))) if sizes else "unknown"),
        ("Generations per prompt (K)", ends("generations")),
        ("Compared by", LABELS[board["statistic"]]),
        ("Margin of equivalence", DASH if board["margin"] is None else number(board["margin"], decimals=3)),
        ("leakmech", ends("leakmech")),
    ]
    return [(name, value) for name, value in facts if value != DASH]


def _headings(blocks: Sequence[Content]) -> list[str]:
    """The data set, and what sets blocks of one data set apart."""
    names = [short(block["dataset"]) for block in blocks]
    headings = []
    for place, (name, block) in enumerate(zip(names, blocks, strict=True), start=1):
        apart = f", {block['n_samples']} samples, {block['estimator']}, {block['cleaning']}"
        own = name if names.count(name) == 1 else name + apart
        headings.append(own if own not in headings else f"{own} ({place})")
    return headings
