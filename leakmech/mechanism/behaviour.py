"""What a model writes after its prompts, to be contrasted or to be read again.

The behavioural target contrasts the model's own continuations after positive and negative injections. A continuation
is what the benchmark would score: the first sentence of a generation that does not repeat the prompt
(:mod:`leakmech.scoring.sentence`, ``echo-free``). Left in, the echo of an injection would decide the contrast: a model
that copies gives its own injection's words a high probability, whatever their sentiment.

Activations of generated tokens are read after the generation is finished, from prompt and generation in one pass. Hooks
in the decoding loop would see one token a step and find the same activations (up to rounding).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from leakmech.core.errors import GenerationError
from leakmech.core.progress import Progress, no_progress
from leakmech.datasets.samples import CONDITIONS, Condition, PromptSet, load_dataset
from leakmech.generation.decoding import Decoding
from leakmech.generation.engine import generate, prompt_rows
from leakmech.generation.hf_engine import HFEngine
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import Prompt, Prompting, Renderer
from leakmech.scoring.sentence import FirstSentences

POLARITIES: tuple[Condition, ...] = ("positive", "negative")
N_CONTINUATIONS = 4
MAX_TOKENS = 24


def own_sentences(
    model: LoadedModel,
    prompts: Iterable[Prompt],
    *,
    renderer: Renderer,
    n: int,
    seed: int,
    progress: Progress,
    label: str,
) -> Iterator[tuple[Prompt, int, str, str]]:
    """Draw `n` generations a prompt; of those with a sentence of the model's own, give what was written and scored.

    Yields the prompt, the generation's number, its text up to the end of that sentence, and the sentence.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    sentences = FirstSentences.of(by_id.values())
    for made in generate(
        HFEngine.of(model),
        prompt_rows(by_id.values(), renderer, range(n)),
        Decoding(),
        seed=seed,
        stop=sentences.complete,
        coupled=True,
        progress=progress,
        label=label,
    ):
        own = sentences.clean(made.prompt_id, made.text, "echo-free")
        if own.scored:
            read = sentences.up_to_scored(made.prompt_id, made.text, "echo-free")
            yield by_id[made.prompt_id], made.generation, read, own.text


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
    """Sample continuations and give their token ids by sample and by the polarity of the injection that they followed.

    They are the first `n` generations that :func:`leakmech.bench` makes with this `seed`, cut off at `max_tokens`.
    Generations without a sentence of the model's own are left out.
    """
    prompts = [renderer.prompt(sample, condition) for sample in samples for condition in POLARITIES]
    found: dict[str, dict[str, list[tuple[int, ...]]]] = {
        sample.id: {polarity: [] for polarity in POLARITIES} for sample in samples
    }
    for prompt, _, _, sentence in own_sentences(
        model, prompts, renderer=renderer, n=n, seed=seed, progress=progress, label="continuations"
    ):
        tokens = renderer.answer_ids(prompt.stem, sentence)[:max_tokens]
        if tokens:
            found[prompt.sample][prompt.condition].append(tokens)
    if not any(all(own.values()) for own in found.values()):
        raise GenerationError(
            "no sample has continuations after both injections (all generations are empty or repeat the prompt); "
            "use a direction as target"
        )
    return {sample: {c: sorted(tokens) for c, tokens in own.items()} for sample, own in found.items()}


DECODING = Decoding(max_new_tokens=32)


def sample_continuations(
    model: LoadedModel,
    dataset: str | Path | PromptSet,
    *,
    conditions: Sequence[str] = CONDITIONS,
    decoding: Decoding = DECODING,
    generation: int = 0,
    seed: int = 0,
    prompting: Prompting = Prompting(),
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> dict[str, tuple[int, ...]]:
    """Sample one generation a prompt and give its token ids by prompt id, for ``cache_activations(continuations=...)``.

    It is the generation of that number that :func:`leakmech.bench` would make with this seed and these settings, and it
    ends at an end-of-text token, not at its first sentence.
    """
    renderer = Renderer(model.tokenizer, prompting)
    prompts = [
        renderer.prompt(sample, condition)
        for sample in load_dataset(dataset)
        for condition in CONDITIONS
        if condition in conditions
    ]
    generations = generate(
        HFEngine.of(model),
        prompt_rows(prompts, renderer, [generation]),
        decoding,
        seed=seed,
        batch_size=batch_size,
        coupled=True,
        progress=progress,
    )
    return {made.prompt_id: made.tokens for made in generations}
