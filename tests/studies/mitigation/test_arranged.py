"""Other arrangements are measured for the rows that a reader asks about."""

from __future__ import annotations

from leakmech.studies.mitigation.arranged import worth_arranging
from leakmech.studies.mitigation.mitigation import Mitigation
from leakmech.studies.mitigation.prompting import ORACLE, drop_unrelated_text


def test_the_oracle_the_text_baseline_and_the_best_two_told_nothing_are_worth_it():
    text = drop_unrelated_text(0.15)
    good, better, best, unknown = (Mitigation(name, "intervention") for name in ("good", "better", "best", "unknown"))
    gifted = Mitigation("gifted", "intervention", told="boundary")
    chance = Mitigation("chance", "baseline")
    compared = [good, best, better, unknown, gifted, text, ORACLE, chance]
    selectivity = {"good": 0.3, "better": 0.5, "best": 0.6, "unknown": None, "gifted": 0.9, "chance": 0.8}
    rows = [{"name": one.name, "selectivity": selectivity.get(one.name, 0.1)} for one in compared]
    assert worth_arranging(compared, rows) == [best, better, text, ORACLE]
