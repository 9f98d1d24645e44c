"""The projection on a direction along the tokens of a prompt: where affect enters it, and how far it travels.

    p_t = h_t . d

for the activation h_t of every token t at the direction's site and layer, under each condition of one sample.
"""

from __future__ import annotations

import pandas as pd

from leakmech.core.progress import Progress, no_progress
from leakmech.datasets.samples import CONDITIONS, PromptSet, Sample
from leakmech.mechanism.activations.cache import cache_activations
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.load import LoadedModel
from leakmech.prompts.locate import LocatedPrompt, locate
from leakmech.prompts.render import Prompting, Renderer


def token_projections(
    loaded: LoadedModel,
    sample: Sample,
    direction: Direction,
    *,
    prompting: Prompting = Prompting(),
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Project every token of a sample's prompts on the direction, at its site and layer.

    Columns: condition, position, token (decoded), projection, part (``prefix``, ``instruction``, ``injection``,
    ``turn``, ``stem`` or ``tail``). ``turn`` is what stands between the request and the answer that opens with the stem
    (prefill form): the stem in the user's turn, and the turn's change.
    """
    cache = cache_activations(
        loaded,
        PromptSet(sample.id, (sample,)),
        sites=[direction.site],
        layers=[direction.layer],
        positions=["prompt"],
        prompting=prompting,
        batch_size=batch_size,
        progress=progress,
    )[direction.site]
    tokenizer, renderer = loaded.tokenizer, Renderer(loaded.tokenizer, prompting)
    prompts = [renderer.prompt(sample, condition) for condition in CONDITIONS]
    rows = []
    for prompt, place in zip(prompts, locate(prompts, renderer), strict=True):
        before = prompt.rendered[: prompt.rendered.rfind(prompt.text)]
        instruction = len(tokenizer(before, add_special_tokens=False)["input_ids"])
        chosen = cache.select(conditions=prompt.condition)
        values = (chosen.values[0, 0, :, 0].float() @ direction.vector)[chosen.present[0, 0]]
        for index, value in enumerate(values.tolist()):
            rows.append(
                {
                    "condition": prompt.condition,
                    "position": index,
                    "token": tokenizer.decode([int(place.ids[index])]),
                    "projection": value,
                    "part": _part(place, index, instruction),
                }
            )
    return pd.DataFrame(rows)


def _part(prompt: LocatedPrompt, index: int, instruction: int) -> str:
    if index >= prompt.spans["stem"][1]:
        return "tail"
    if index >= prompt.spans["stem"][0]:
        return "stem"
    if "asked" in prompt.spans and index >= prompt.spans["asked"][0]:
        return "turn"
    start, stop = prompt.spans["injection"]
    if stop and index >= start:  # and the space after it, where that is a token of its own
        return "injection"
    return "instruction" if index >= instruction else "prefix"
