"""Attribution patching of a command: to first order, what each unit's change under it does to the projection.

    effect of unit u = grad_u . (a_u[e] - mean over e of a_u[e]),

with the gradient of <h, reference[e]> (h as in :mod:`leakmech.studies.emotion_circuits.projection`) under the command
e, at the last token. It sees what later layers make of a unit, which the original's scores within a layer do not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from leakmech.datasets.emotions import EMOTIONS, Emotion
from leakmech.models.layout import Layout
from leakmech.studies.emotion_circuits.projection import LastTokens
from leakmech.studies.emotion_circuits.reading import COMPONENTS


def command_attribution(
    commanded: Mapping[Emotion, LastTokens],
    changes: Mapping[str, Float[np.ndarray, "emotion layer width"]],
    layout: Layout,
) -> dict[str, Float[np.ndarray, "emotion layer unit"]]:
    """Effects of heads and neurons by site, means over the prompts under each command."""
    means = {site: np.zeros(changes[site].shape) for site in COMPONENTS}
    for e, emotion in enumerate(EMOTIONS):
        for (site, layer), gradient in commanded[emotion].gradients(emotion, COMPONENTS).items():
            means[site][e, layer] = gradient.mean(axis=0)
    effects = {site: means[site] * changes[site] for site in COMPONENTS}
    heads = effects["z"].reshape(*effects["z"].shape[:2], layout.n_heads, layout.d_head).sum(axis=-1)
    return {"z": heads, "mlp_post": effects["mlp_post"]}
