"""What a quick look found: answers, how far they follow the injection, and one sentence that says so.

The shift of an injected prompt is the mean valence of its answers minus that of the control answers; that of the whole
look, where positive and negative injections were given, is positive minus negative, else the shift towards the
injection's own polarity. Intervals are Welch's (1947) for two samples of unequal variance: over the answers to one
stem, and so about this stem only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import special

from leakmech.datasets.samples import POLARITIES, Condition
from leakmech.reports.cells import DASH, estimate, number, significant
from leakmech.reports.tables import Table, value_of
from leakmech.scoring.statistics import LEVEL
from leakmech.studies.quick.answers import PromptAnswers
from leakmech.studies.quick.drawing import bars_html, bars_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from leakmech.reports.figures.canvas import Width

Values = Float[np.ndarray, " answers"]
_signed = partial(number, signed=True)


@dataclass(frozen=True, eq=False)
class QuickResult:
    """A look at one stem.

    Attributes
    ----------
    stem, model, prompt_form, generations, seed, estimator
        What was asked, and how.
    prompts
        The control prompt first, then one for each injection.
    answers
        One row for each answer, see :meth:`to_frame`.
    no_tilt
        Why there is no tilt; None where there is one.
    """

    stem: str
    model: str
    prompt_form: str
    generations: int
    seed: int
    estimator: str
    prompts: tuple[PromptAnswers, ...]
    answers: pd.DataFrame
    no_tilt: str | None = None

    def __repr__(self) -> str:
        return f"QuickResult({self.stem!r}, {len(self.prompts) - 1} injections x {self.generations}: {self.headline})"

    # -- numbers -----------------------------------------------------------------------------------------------------

    def to_frame(self) -> pd.DataFrame:
        """One row for each answer.

        Columns: ``prompt`` (0 is control), ``injection``, ``polarity``, ``generation``, ``sentence`` (what is scored),
        ``valence`` (NaN where nothing is), ``negative``, ``neutral``, ``positive``, ``about_injection``, ``text``,
        ``finish_reason``.
        """
        return self.answers.copy()

    def valences(self, *polarities: Condition, topic_free: bool = False) -> Values:
        """Valence of the scored answers to the prompts of these polarities."""
        rows: Any = self.answers[self.answers["polarity"].isin(polarities) & self.answers["valence"].notna()]
        return (rows[~rows["about_injection"]] if topic_free else rows)["valence"].to_numpy(dtype=float)

    def shift(self, *, topic_free: bool = False) -> Mapping[str, Any] | None:
        """How far answers go towards their injections: ``shift`` and its interval ``shift_ci``; None for neutral ones.

        Positive minus negative where both were given, else away from control, with the sign of the injection.
        """
        given = {prompt.polarity for prompt in self.prompts}
        own: list[Condition] = [polarity for polarity in POLARITIES if polarity in given]
        if not own:
            return None
        sides: list[Condition] = own if len(own) == len(POLARITIES) else [own[0], "control"]
        high, low = (self.valences(side, topic_free=topic_free) for side in sides)
        return difference(low, high) if own[0] == "negative" else difference(high, low)

    def summary(self) -> list[dict[str, Any]]:
        """A record for each prompt: its numbers, with intervals ``<name>_ci``."""
        control = self.answers[self.answers["prompt"] == 0]
        return [self._record(place, prompt, control) for place, prompt in enumerate(self.prompts)]

    def _record(self, place: int, prompt: PromptAnswers, control: Any) -> dict[str, Any]:
        own: Any = self.answers[self.answers["prompt"] == place]
        scored = own[own["valence"].notna()]
        record: dict[str, Any] = {
            "prompt": prompt.name,
            "reads as": DASH if place == 0 else prompt.polarity,
            "n": len(scored),
            "n_about": int(own["about_injection"].sum()),
            "valence": float(scored["valence"].mean()) if len(scored) else None,
            "tilt": None,  # it is told from control
        }
        if place:
            base = self.prompts[0].tilt
            record |= difference(*(_known(rows) for rows in (own, control)))
            record["tilt"] = None if prompt.tilt is None or base is None else prompt.tilt - base
        return record

    @property
    def headline(self) -> str:
        """What the look shows, in one sentence with its interval."""
        found = self.shift()
        if found is None:
            return f"not asked: {self.estimator} reads the injection as neutral; give a charged one with --inject"
        shown, ends = estimate(found, "shift", _signed), found["shift_ci"]
        if ends is None:
            return f"not shown: valence shift {shown}; answers without spread, or fewer than 2, have no interval"
        low, high = ends
        verdict, more = "not shown on this stem", "; more --generations narrow it"
        if low > 0 or high < 0:
            verdict, more = "the model leaks on this stem" if low > 0 else "answers go against the injection here", ""
        charged: Any = self.answers[self.answers["polarity"].isin(POLARITIES) & self.answers["valence"].notna()]
        topic = f"{int(charged['about_injection'].sum())} of {len(charged)} answers are about the injection"
        return f"{verdict}: valence shift towards the injection {shown}; {topic}{more}"

    # -- to be looked at ---------------------------------------------------------------------------------------------

    def table(self) -> Table:
        """The numbers of every prompt."""
        free = self.shift(topic_free=True)
        columns = {
            "prompt": value_of("prompt"),
            "reads as": value_of("reads as"),
            "valence": value_of("valence", _signed),
            "shift [95 % CI]": lambda record: estimate(record, "shift", _signed) if "shift" in record else DASH,
            "about it": lambda record: f"{record['n_about']} of {record['n']}",
            "tilt": value_of("tilt", _tilt),
        }
        tilt = (
            "tilt: how far the injection shifts the odds between the model's own glad and sad answers, from control, "
            "in nats a token"
            if self.no_tilt is None
            else f"tilt: none ({self.no_tilt})"
        )
        notes = [
            f"valence: P[positive] - P[negative] by {self.estimator}; about it: the injection is among the 5 % of "
            f"sentences that are nearest to the answer. {tilt}.",
            *([f"answers that are not about it: valence shift {estimate(free, 'shift', _signed)}"] if free else []),
            "One stem, not a model: leakmech bench asks sixty.",
        ]
        return Table.of(f"{self.model}, {self.prompt_form} form, seed {self.seed}", self.summary(), columns, notes)

    def tables(self) -> list[Table]:
        """The table, as every result has them."""
        return [self.table()]

    def to_markdown(self) -> str:
        """The table as markdown, and the headline."""
        return f"{self.table().to_markdown()}\n\n{self.headline}\n"

    def to_latex(self) -> str:
        """The table for a paper, in the style of booktabs."""
        return self.table().to_latex()

    def to_text(self, *, width: int | None = None) -> str:
        """Bars for a terminal of `width` columns; None leaves sentences whole."""
        return bars_text(self.stem, self.prompts, self.answers, width=width)

    def _repr_html_(self) -> str:
        """Bars, table and headline, for notebooks."""
        return bars_html(self.stem, self.prompts, self.answers, headline=self.headline) + self.table().to_html()

    def plot(self, path: str | Path | None = None, *, title: str | None = None, width: Width | None = None) -> Figure:
        """Draw the valence of every answer, by prompt; with `path`, save it as PNG, PDF and CSV as well.

        `title` and `width` are those of :meth:`leakmech.runs.result.Result.plot`.
        """
        from leakmech.reports.figures.answers import answer_valences

        groups = [(prompt.name, prompt.polarity) for prompt in self.prompts]
        title = f"{self.stem} …" if title is None else title
        subtitle = f"{self.model}. {self.headline}"
        return answer_valences(self.answers, groups, title=title, subtitle=subtitle, path=path, width=width)


def difference(high: Values, low: Values) -> dict[str, Any]:
    """Mean of `high` minus mean of `low`, with Welch's interval; None where there is nothing to compare, or no spread.

    Answers that are all alike (greedy decoding) say nothing about others, so that they have no interval.
    """
    if not (len(high) and len(low)):
        return {"shift": None, "shift_ci": None}
    value = float(high.mean() - low.mean())
    if min(len(high), len(low)) < 2:
        return {"shift": value, "shift_ci": None}
    parts = [float(values.var(ddof=1)) / len(values) for values in (high, low)]
    variance = sum(parts)
    if variance <= 0:
        return {"shift": value, "shift_ci": None}
    freedom = variance**2 / sum(part**2 / (len(v) - 1) for part, v in zip(parts, (high, low), strict=True))
    reach = float(special.stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(variance)
    return {"shift": value, "shift_ci": [value - reach, value + reach]}


def _known(rows: Any) -> Values:
    return rows["valence"].dropna().to_numpy(dtype=float)


def _tilt(value: Any) -> str:
    return DASH if value is None else significant(value, digits=2, signed=True)
