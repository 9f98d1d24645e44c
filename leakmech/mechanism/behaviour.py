"""The model's own continuations after positive and negative injections: what the behavioural target contrasts.

A continuation is what the benchmark would score: the first sentence of a generation that does not repeat the prompt
(:mod:`leakmech.scoring.sentence`, ``echo-free``). Left in, the echo of an injection would decide the contrast: a model
that copies gives its own injection's words a high probability, whatever their sentiment.

What a model writes after its prompts, to be read again: generate, then rerun.

Hooks in a decoding loop would see one token a step; running prompt and generation together once more gives the same
activations (up to rounding) in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leakmech.core.errors import GenerationError
from leakmech.core.progress import Progress, no_progress
from leakmech.datasets.samples import CONDITIONS, Condition, PromptSet, load_dataset
from leakmech.generation.decode import Decoder, Row
from leakmech.generation.decoding import Decoding
from leakmech.generation.engines import auto_batch_size, generate, plan
from leakmech.models.batching import parse_batch_size
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import DEFAULT_SYSTEM, Prompt, PromptForm, Renderer
from leakmech.scoring.sentence import Cleaner, PromptText

POLARITIES: tuple[Condition, ...] = ("positive", "negative")
N_CONTINUATIONS = 4
MAX_TOKENS = 24


def sample_behaviour(
    model: LoadedModel,
    samples: PromptSet,
    *,
    renderer: Renderer,
    n: int = N_CONTINUATIONS,
    max_tokens: int = MAX_TOKENS,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, dict[str, list[tuple[int, ...]]]]:
    """Token ids of continuations by sample and by the polarity of the injection that they followed.

    Parameters
    ----------
    n
        Generations per prompt; those without a sentence of the model's own are left out, so there may be fewer.
    max_tokens
        Longer continuations are cut off.
    seed
        Of the coupled sampling: with the same one these are the first generations of :func:`leakmech.bench`.

    Raises
    ------
    GenerationError
        Memory does not suffice for one row, logits are not finite, or no sample has continuations of both polarities.
    """
    prompts = {prompt.id: prompt for sample in samples for prompt in (renderer.prompt(sample, c) for c in POLARITIES)}
    texts = {prompt.id: _text(prompt) for prompt in prompts.values()}
    cleaner = Cleaner()
    decoding = Decoding()
    decoder = Decoder(
        model.model,
        model.tokenizer,
        decoding=decoding,
        seed=seed,
        stop=lambda prompt_id, text: cleaner.first_sentence_complete(text, texts[prompt_id]),
    )
    rows = [
        Row(prompt.id, number, tuple(renderer.token_ids(prompt.rendered)))
        for prompt in prompts.values()
        for number in range(n)
    ]
    longest = max(len(row.prompt_tokens) for row in rows)
    size = auto_batch_size(model.model, longest_prompt=longest, max_new_tokens=decoding.max_new_tokens)
    found: dict[str, dict[str, list[tuple[int, ...]]]] = {
        sample.id: {polarity: [] for polarity in POLARITIES} for sample in samples
    }
    with progress("continuations", total=len(rows), done=0) as advance:
        for ended in generate(decoder, plan(rows), batch_size=size):
            for generation in ended:
                prompt = prompts[generation.prompt_id]
                own = cleaner.clean(generation.text, texts[prompt.id], "echo-free")
                tokens = model.tokenizer(own.text, add_special_tokens=False)["input_ids"][:max_tokens]
                if own.scored and tokens:
                    found[prompt.sample][prompt.condition].append(tuple(tokens))
            advance(len(ended))
    if not any(all(own.values()) for own in found.values()):
        raise GenerationError(
            "no sample has continuations after both injections (all generations are empty or repeat the prompt); "
            "use a direction as target"
        )
    # Generations come in the order in which they end, which depends on batches.
    return {sample: {c: sorted(tokens) for c, tokens in own.items()} for sample, own in found.items()}


def _text(prompt: Prompt) -> PromptText:
    return PromptText(stem=prompt.stem, injection=prompt.injection, instruction=prompt.instruction)


# -- continuations -----------------------------------------------------------------------------------------------------

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
