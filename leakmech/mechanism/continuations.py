"""What a model writes after its prompts, to be read again: generate, then rerun.

Hooks in a decoding loop would see one token a step; running prompt and generation together once more gives the same
activations (up to rounding) in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leakmech.core.progress import Progress, no_progress
from leakmech.datasets.samples import CONDITIONS, PromptSet, load_dataset
from leakmech.generation.decode import Decoder, Row
from leakmech.generation.engines import auto_batch_size, generate
from leakmech.generation.sampler import Decoding
from leakmech.models.batching import parse_batch_size
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import DEFAULT_SYSTEM, PromptForm, Renderer

DECODING = Decoding(max_new_tokens=32)


def sample_continuations(
    model: LoadedModel,
    dataset: str | Path | PromptSet,
    *,
    conditions: Sequence[str] = CONDITIONS,
    decoding: Decoding = DECODING,
    generation: int = 0,
    seed: int = 0,
    prompt_form: PromptForm = "auto",
    system: str | None = DEFAULT_SYSTEM,
    instruction: str = "none",
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> dict[str, tuple[int, ...]]:
    """One generation of every prompt as token ids, by prompt id; for ``cache_activations(continuations=...)``.

    Parameters
    ----------
    generation, seed
        Which of the generations that :func:`leakmech.bench` would make with this seed and these settings.
    decoding
        Sampling settings; a generation ends at an end-of-text token, not at its first sentence.

    The other parameters are those of :func:`leakmech.cache_activations`.

    Raises
    ------
    GenerationError
        Memory does not suffice for one row, or logits are not finite.
    """
    renderer = Renderer(model.tokenizer, prompt_form, system, instruction)
    prompts = [
        renderer.prompt(sample, condition)
        for sample in load_dataset(dataset)
        for condition in CONDITIONS
        if condition in conditions
    ]
    rows = [Row(prompt.id, generation, tuple(renderer.token_ids(prompt.rendered))) for prompt in prompts]
    longest = max(len(row.prompt_tokens) for row in rows)
    size = parse_batch_size(batch_size) or auto_batch_size(
        model.model, longest_prompt=longest, max_new_tokens=decoding.max_new_tokens
    )
    decoder = Decoder(model.model, model.tokenizer, decoding=decoding, seed=seed)
    tokens: dict[str, tuple[int, ...]] = {}
    with progress("generating", total=len(rows), done=0) as advance:
        for ended in generate(decoder, rows, batch_size=size):
            tokens |= {made.prompt_id: made.tokens for made in ended}
            advance(len(ended))
    return tokens
