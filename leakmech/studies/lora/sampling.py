"""From samples to training examples: which prompts, how many of each kind, and what the base model says to them.

Every sample gives irrelevant or relevant prompts (its positive and negative injection), a neutral one and a plain one;
every prompt gives up to `completions` examples, one for each completion that the base model samples for its reference.
Of these the asked number is drawn: one completion of every prompt before a second one of any, and one injection of
every stem before a second one of any, with the stems in the same order for all kinds. So the number of different stems
is the largest there can be, and a stem that stands in relevant and irrelevant prompts is drawn with both. A smaller
number gives the beginning of what a larger one gives. Where prompts are paired
(:mod:`leakmech.studies.lora.candidates`), the sentence that they share takes the place of the stem.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from leakmech.core.errors import DatasetError, UsageError
from leakmech.core.progress import Progress, no_progress
from leakmech.core.seeds import stable_hash
from leakmech.core.store import content_hash
from leakmech.datasets.samples import FROZEN_DATASETS, POLARITIES, Polarity, PromptSet, load_dataset
from leakmech.generation.decoding import Decoding
from leakmech.generation.leave_one_out import without_idle
from leakmech.generation.variants import ModelVariant
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import Renderer
from leakmech.studies.lora.candidates import Candidate, TrainingSources, all_candidates
from leakmech.studies.lora.completions import Completion, Draw, sample_completions
from leakmech.studies.lora.overlap_check import refuse_shared_prompts, refuse_shared_texts
from leakmech.training.examples import TrainingExample, check_examples
from leakmech.training.kinds import KINDS, ExampleKind


def build_training_examples(
    loaded: LoadedModel,
    sources: TrainingSources,
    *,
    shares: Mapping[str, float],
    n_examples: int | None = None,
    completions: int = 4,
    polarities: Sequence[Polarity] = POLARITIES,
    evaluation: Sequence[PromptSet] = (),
    max_overlap: float = 0.7,
    renderer: Renderer | None = None,
    decoding: Decoding | None = None,
    seed: int = 0,
    batch_size: int | str = "auto",
    cache_dir: Path | None = None,
    progress: Progress = no_progress,
) -> list[TrainingExample]:
    """Examples of every kind in the asked proportion, with completions that the base model samples.

    Without `n_examples`, as many as the scarcest kind allows; `completions` is the most of one prompt. Training must
    share no text with `evaluation` and the frozen data sets.
    """
    frozen = [load_dataset(name) for name in FROZEN_DATASETS]
    refuse_shared_texts(sources.texts(), [*evaluation, *frozen], max_overlap=max_overlap)
    renderer = renderer or Renderer(loaded.tokenizer)
    decoding = decoding or Decoding(max_new_tokens=64)
    candidates = all_candidates(sources, polarities, seed)
    counts = _counts(candidates, shares, n_examples, completions)
    drawn: list[tuple[Candidate, int]] = []
    for kind, count in counts.items():
        drawn += _draw(candidates[kind], count, completions, seed)
    taught = _taught(loaded, [c for c, _ in drawn if c.kind == "teacher"], sources.teacher, renderer)
    references = [taught.get(candidate) or candidate.rendered(renderer, reference=True) for candidate, _ in drawn]
    wanted: list[Draw] = [(reference, index) for reference, (_, index) in zip(references, drawn, strict=True)]
    sampled = sample_completions(
        loaded,
        wanted,
        renderer=renderer,
        decoding=decoding,
        seed=seed,
        batch_size=batch_size,
        cache_dir=cache_dir,
        progress=progress,
    )
    end = int(loaded.tokenizer.eos_token_id)  # pyright: ignore[reportArgumentType] - one id
    examples = [
        _example(candidate, draw, sampled[draw], renderer, end)
        for (candidate, _), draw in zip(drawn, wanted, strict=True)
    ]
    check_examples(examples)
    refuse_shared_prompts(examples, evaluation, renderer)
    return examples


def example_counts(
    sources: TrainingSources,
    *,
    shares: Mapping[str, float],
    n_examples: int | None = None,
    completions: int = 4,
    polarities: Sequence[Polarity] = POLARITIES,
) -> dict[ExampleKind, int]:
    """How many examples of each kind :func:`build_training_examples` would give; raises as it does."""
    return _counts(all_candidates(sources, polarities, 0), shares, n_examples, completions)


# -- how many, and which ----------------------------------------------------------------------------------------------


def _counts(
    candidates: Mapping[ExampleKind, Sequence[Candidate]],
    shares: Mapping[str, float],
    n_examples: int | None,
    completions: int,
) -> dict[ExampleKind, int]:
    """How many examples of each kind; largest remainders bring the sum to `n_examples`."""
    wanted: dict[ExampleKind, float] = {kind: shares[kind] for kind in KINDS if shares.get(kind, 0) > 0}
    if not wanted:
        raise DatasetError("no training examples: every share is 0")
    available = {kind: len(candidates[kind]) * completions for kind in wanted}
    for kind, number in available.items():
        if number == 0:
            raise DatasetError(
                f"no training examples of kind {kind!r}; give a data set that has some, or set its share to 0"
            )
    total = sum(wanted.values())
    if n_examples is None:
        scale = min(available[kind] / wanted[kind] for kind in wanted)
        return {kind: math.floor(share * scale + 1e-9) for kind, share in wanted.items()}
    exact = {kind: n_examples * share / total for kind, share in wanted.items()}
    counts: dict[ExampleKind, int] = dict.fromkeys(wanted, 0)
    for kind in wanted:
        counts[kind] = math.floor(exact[kind])
    for kind in sorted(wanted, key=lambda kind: counts[kind] - exact[kind])[: n_examples - sum(counts.values())]:
        counts[kind] += 1
    for kind, count in counts.items():
        if count > available[kind]:
            raise UsageError(
                f"{count} {kind} examples are asked for, there are {available[kind]} ({len(candidates[kind])} prompts "
                f"x {completions} completions); give more samples, raise completions, or lower examples or its share"
            )
    return counts


def _draw(candidates: Sequence[Candidate], count: int, completions: int, seed: int) -> Iterator[tuple[Candidate, int]]:
    by_stem: dict[str, list[Candidate]] = {}
    for candidate in sorted(candidates, key=lambda c: stable_hash(seed, "injection", c.stem, c.injection)):
        by_stem.setdefault(candidate.group or candidate.stem, []).append(candidate)
    stems = sorted(by_stem, key=lambda stem: stable_hash(seed, "stem", stem))
    rounds = zip_longest(*(by_stem[stem] for stem in stems))
    ranked = [candidate for chosen in rounds for candidate in chosen if candidate is not None]
    for place in range(min(count, completions * len(ranked))):
        index, position = divmod(place, len(ranked))
        yield ranked[position], index


# -- examples ----------------------------------------------------------------------------------------------------------


def _taught(
    loaded: LoadedModel, candidates: Sequence[Candidate], threshold: float | None, renderer: Renderer
) -> dict[Candidate, str]:
    """What the base model reads in place of prompts: those without the sentences that the teacher leaves out."""
    found: dict[Candidate, str] = {}
    if threshold is None:
        return found
    for place in dict.fromkeys(candidate.renderer(renderer).prompting for candidate in candidates):
        own = [one for one in dict.fromkeys(candidates) if one.renderer(renderer).prompting == place]
        placed = replace(renderer, prompting=place)
        prompts = [candidate.prompt(renderer) for candidate in own]
        bodies = without_idle(prompts, threshold=threshold, variant=ModelVariant(loaded), renderer=placed)
        for candidate, prompt, body in zip(own, prompts, bodies, strict=True):
            found[candidate] = prompt.rendered if body == prompt.body else placed.with_body(prompt, body).rendered
    return found


def _example(candidate: Candidate, draw: Draw, completion: Completion, renderer: Renderer, end: int) -> TrainingExample:
    prompt = candidate.rendered(renderer)
    # If the model ended by itself, that is part of what it said; if it was cut off, it is not.
    tokens = (*completion.tokens, end) if completion.finish_reason == "stop" else completion.tokens
    return TrainingExample(
        id=f"{candidate.kind}/{content_hash(prompt)}/{draw[1]}",
        kind=candidate.kind,
        prompt=prompt,
        reference=draw[0],
        completion=completion.text,
        tokens=tokens,
        polarity=candidate.polarity,
        stem=candidate.stem,
        group=candidate.group,
        arrangement=None if candidate.arrangement == "before" else candidate.arrangement,
    )
