"""What was fitted to decide by relevance, on held-out prompts: a gate layer by layer, and edits by their settings.

Of n stems, each with its own emotional sentences and with exchanged ones, an AUC that knows nothing has the standard
error sqrt((2 n + 1) / (12 n^2)) (Mann-Whitney; the sentences of a stem count as one). A layer whose interval, 1.64 of
them to either side, covers .5 or lies below it cannot tell where affect is relevant.

Of null-space maps it is told how much they change outputs that must stay, and how much of the affect they leave; of
residual directions, how far either kind of affect moves along them; of maps of queries, what they do to scores and to
attention.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from leakmech.reports.cells import number
from leakmech.reports.tables import Table

_ONE_SIDED = 1.645
_ALONG = {
    "left": "length left",
    "irrelevant": "irrelevant shift along it",
    "relevant": "relevant shift along it",
    "ratio": "relevant / irrelevant",
}
"""Fields of a number of directions, and their headings."""


def least_auc(n_stems: int) -> float:
    """The least AUC that is above chance at the level .05, for as many stems on either side."""
    return 0.5 + _half_width(n_stems)


def _half_width(n_stems: int) -> float:
    return _ONE_SIDED * math.sqrt((2 * n_stems + 1) / (12 * n_stems**2))


def _with_interval(auc: float, n_stems: int) -> str:
    low, high = (min(max(auc + sign * _half_width(n_stems), 0.0), 1.0) for sign in (-1, 1))
    return f"{number(auc)} [{number(low)}, {number(high)}]"


def gate_table(gate: Mapping[str, Any]) -> Table:
    """One row a layer: AUC against all irrelevant prompts, and on the same sentences under related and other stems."""
    least = least_auc(gate["n_stems"])
    rows = [
        (
            f"{layer} ✓" if int(layer) == gate["layer"] else layer,
            number(auc),
            _with_interval(gate["same_sentences_by_layer"][layer], gate["n_stems"]),
            "yes" if gate["same_sentences_by_layer"][layer] > least else "no: at chance",
        )
        for layer, auc in gate["auc_by_layer"].items()
    ]
    title = (
        f"The probe at the prompt's last token on held-out prompts (✓ the layer that was chosen). Same sentences: "
        f"{gate['n_stems']} stems with their own sentences and with exchanged ones, with 90 % intervals; "
        "one that covers .5 is at chance."
    )
    if "by_caught" in gate:  # not in comparisons of older versions
        title += " " + _left_alone(gate)
    return Table(title, ("layer", "AUC", "AUC, same sentences", "can a gate here be selective?"), rows)


def _left_alone(gate: Mapping[str, Any]) -> str:
    shares = "; ".join(
        f"{number(kept['relevant_kept'])} and {number(kept['controls_kept'])} if it catches {float(caught):.0%}"
        for caught, kept in gate["by_caught"].items()
    )
    return f"Of relevant prompts and of control prompts the gate leaves alone {shares} of irrelevant ones."


def map_table(null_space: Mapping[str, Any]) -> Table:
    """One row a share: what the maps change of what must stay, and what they leave of irrelevant affect."""
    found = null_space["by_share"]
    kinds = list(next(iter(found.values())))
    rows = [
        (share, *(number(own[kind], decimals=1 if kind == "free" else 3) for kind in kinds))
        for share, own in found.items()
    ]
    title = (
        f"Outputs {null_space['site']} of held-out prompts, mean over layers: relative change of what must stay, by "
        "kind; left: distance to the outputs after a neutral sentence, 1 if the map does nothing; free: directions."
    )
    return Table(title, ("share", *kinds), rows)


def residual_table(found: Mapping[str, Any]) -> Table:
    """One row for each number of directions of relevant affect that are projected out."""
    rows = [
        (f"{k} ✓" if int(k) == found["chosen"] else k, *(number(own[name]) for name in _ALONG))
        for k, own in found["by_number"].items()
    ]
    title = (
        "The leak direction with directions of relevant affect projected out (✓ as many as are used), mean over "
        "layers. On held-out samples: the share of the mean shift of either kind of affect that lies along it, and "
        "how far relevant affect moves along it against irrelevant affect."
    )
    return Table(title, ("projected out", *_ALONG.values()), rows)


def focus_table(found: Mapping[str, Any]) -> Table:
    """One row a strength: changes of scores on held-out prompts, and attention to the injection before and after."""
    rows = [
        (
            strength,
            *(number(own[name]) for name in ("unrelated", "related", "elsewhere, unrelated", "elsewhere, related")),
            *(
                f"{number(own[name])} → {number(own[f'{name}_mapped'])}"
                for name in ("attention_unrelated", "attention_related")
            ),
        )
        for strength, own in found["by_strength"].items()
    ]
    title = (
        f"What maps of the queries of {len(found['heads'])} heads (rank {found['rank']}) do on held-out prompts, mean "
        "over heads: change of scores in nats on the keys of injections that are not about the stem and of those that "
        "are, mean size of the change on other keys, and the share of attention that goes to the injection."
    )
    columns = ("strength", "unrelated", "related", "elsewhere (unrelated)", "elsewhere (related)")
    return Table(title, (*columns, "attention, unrelated", "attention, related"), rows)
