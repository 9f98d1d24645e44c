"""Targets of attribution: one number per sequence that says how much affect there is.

    direction       m = v . x_L[last token of the prompt]        projection of the residual stream on a unit vector
    continuation    m = mean_t log p(c_t | prompt, c_<t)         log-probability of a given continuation, in nats

Weighted sums of the second over several continuations are two targets. *Tilt* is the covariance of log-probability and
valence over what the model says after the *control* prompt (:mod:`leakmech.mechanism.completions`). *Behaviour* is
log p(c+) - log p(c-) of continuations that the model wrote after positive and negative injections: which of its own
answers the model is about to give, whatever they are about. :mod:`leakmech.mechanism.attribution.pairs` takes the sums
by giving sequences weights that sum to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import DirectionError, ModelError
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.layout import Layout, layout_of
from leakmech.models.load import LoadedModel
from leakmech.prompts.locate import LocatedPrompt


class Target(Protocol):
    """What attribution explains."""

    @property
    def name(self) -> str:
        """``direction``, ``tilt`` or ``behaviour``."""
        ...

    @property
    def layer(self) -> int:
        """The last layer whose output is needed."""
        ...

    def values(
        self, hidden: Float[Tensor, "row pos d_model"], located: Sequence[LocatedPrompt]
    ) -> Float[Tensor, " row"]:
        """Compute one number per row, in float32, from the stream after :attr:`layer`; rows end in the last column."""
        ...


@dataclass(frozen=True, eq=False)
class DirectionTarget:
    """Projection on a direction at the last token of the prompt, in units of the residual stream."""

    direction: Direction
    layer: int
    name: str = "direction"

    @classmethod
    def of(cls, direction: Direction, loaded: LoadedModel) -> DirectionTarget:
        """Make a target of a direction after checking it against the model."""
        layout = layout_of(loaded.model)
        where = f"direction ({direction.method}, {direction.site} layer {direction.layer})"
        if direction.d_model != layout.d_model:
            raise DirectionError(f"{where}: has width {direction.d_model}, the model {layout.d_model}")
        if direction.model_hash and direction.model_hash != loaded.weights_hash:
            raise DirectionError(
                f"{where}: was fitted on a model with weights {direction.model_hash}, {loaded.name!r} has "
                f"{loaded.weights_hash}; fit it again with leakmech directions"
            )
        layer = {"resid_post": direction.layer, "resid_pre": direction.layer - 1}.get(direction.site)
        if layer is None or direction.position != "last_prompt":
            raise DirectionError(
                f"{where} at {direction.position}: a target must be of resid_pre or resid_post at last_prompt"
            )
        layout.block(layer)
        return cls(direction, layer)

    def values(
        self, hidden: Float[Tensor, "row pos d_model"], located: Sequence[LocatedPrompt]
    ) -> Float[Tensor, " row"]:
        n_after = torch.tensor([len(prompt) - prompt.spans["prompt"][1] for prompt in located], device=hidden.device)
        last = hidden[torch.arange(len(located), device=hidden.device), -1 - n_after]
        return self.direction.project(last.float())


@dataclass(frozen=True, eq=False)
class ContinuationTarget:
    """Mean log-probability of the tokens after the prompt, in nats a token."""

    layout: Layout
    softcap: float | None = None
    name: str = "behaviour"

    @classmethod
    def of(cls, loaded: LoadedModel, name: str = "behaviour") -> ContinuationTarget:
        """Make the target of a model."""
        config: Any = loaded.model.config
        return cls(layout_of(loaded.model), getattr(config.get_text_config(), "final_logit_softcapping", None), name)

    @property
    def layer(self) -> int:
        return self.layout.n_layers - 1

    def values(
        self, hidden: Float[Tensor, "row pos d_model"], located: Sequence[LocatedPrompt]
    ) -> Float[Tensor, " row"]:
        lengths = [prompt.spans["generated"][1] - prompt.spans["generated"][0] for prompt in located]
        if min(lengths) == 0:
            raise ModelError(f"prompt {located[lengths.index(0)].id!r}: has no continuation to score")
        longest = max(lengths)
        tokens = torch.zeros(len(located), longest, dtype=torch.long)
        scored = torch.zeros(len(located), longest, dtype=torch.bool)
        for row, (prompt, length) in enumerate(zip(located, lengths, strict=True)):
            tokens[row, longest - length :] = torch.as_tensor(prompt.ids[len(prompt) - length :], dtype=torch.long)
            scored[row, longest - length :] = True
        tokens, scored = tokens.to(hidden.device), scored.to(hidden.device)
        # The token in column c is predicted in column c - 1; only scored columns are unembedded.
        predicting = hidden[:, -1 - longest : -1][scored]
        log_p = torch.log_softmax(self.logits(predicting), dim=-1).gather(-1, tokens[scored][:, None])[:, 0]
        sums = torch.zeros(len(located), device=hidden.device).index_put(
            (scored.nonzero()[:, 0],), log_p, accumulate=True
        )
        return sums / torch.tensor(lengths, device=hidden.device)

    def logits(self, hidden: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
        """Compute the logits of the next token, in float32."""
        logits = self.layout.unembedding(self.layout.final_norm(hidden)).float()
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)
