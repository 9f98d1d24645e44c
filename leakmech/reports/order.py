"""A benchmark whose prompts hold two injections of opposite polarity: what the order of the two does, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leakmech.reports.cells import estimate, p_value, percent, signed
from leakmech.reports.tables import Column, Table, estimate_of, value_of

Summary = Mapping[str, Any]

_ORDERS: Mapping[str, Column] = {
    "order": value_of("name"),
    "valence [95 % CI]": estimate_of("valence", signed),
    "n": value_of("n_scored"),
    "topic": value_of("topic_rate", percent),
    "echo": value_of("echo_rate", percent),
    "empty": value_of("empty_rate", percent),
}


def order_shift(summary: Summary) -> str:
    """The statistic with its interval, p value and topic-free value."""
    overall = summary["overall"]
    return (
        f"order shift {estimate(overall, 'order_shift', signed)}, p {p_value(overall['order_shift_p_swap'])} "
        f"(two-sided); topic-free {estimate(overall, 'order_shift_topic_free', signed)}"
    )


def order_table(summary: Summary) -> Table:
    """Valence of the answers by which of the two injections stands last."""
    conditions = summary["conditions"]
    rows = [{"name": f"{name} last"} | conditions[name] for name in ("positive", "negative")]
    rows += [{"name": "two neutral ones"} | conditions["neutral"], {"name": "control"} | conditions["control"]]
    return Table.of(
        f"Two injections of opposite polarity: {summary['model']} on {summary['dataset']} ({summary['n_samples']} "
        f"samples x 4 prompts x {summary['generations']} generations, seed {summary['seed']})",
        rows,
        _ORDERS,
        [
            f"{order_shift(summary)}. Above 0: the sentence that stands last counts more; below 0: the first one does.",
            f"no mu_EL, contrast or W_EL: {summary['no_mu_el']}.",
        ],
    )
