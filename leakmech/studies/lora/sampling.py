"""From samples to training examples: which prompts, how many of each kind, and what the base model says to them.

Every sample gives irrelevant or relevant prompts (its positive and negative injection), a neutral one and a plain one;
every prompt gives up to `completions` examples, one for each completion that the base model samples for its reference.
Of these the asked number is drawn: one completion of every prompt before a second one of any, and one injection of
every stem before a second one of any, with the stems in the same order for all kinds. So the number of different stems
is the largest there can be, and a stem that stands in relevant and irrelevant prompts is drawn with both. A smaller
number gives the beginning of what a larger one gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from leakmech.core.errors import DatasetError, UsageError
from leakmech.core.progress import Progress, no_progress
from leakmech.core.seeds import stable_hash
from leakmech.core.store import content_hash
from leakmech.datasets.relevant_pairs import AffectPair
from leakmech.datasets.samples import FROZEN_DATASETS, POLARITIES, Polarity, PromptSet, load_dataset
from leakmech.generation.decoding import Decoding
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import Renderer
from leakmech.studies.lora.completions import Completion, Draw, sample_completions
from leakmech.studies.lora.overlap_check import Role, refuse_shared_prompts, refuse_shared_texts
from leakmech.training.examples import TrainingExample, check_examples
from leakmech.training.kinds import KINDS, ExampleKind


@dataclass(frozen=True)
class TrainingSources:
    """Where examples come from."""

    irrelevant: PromptSet | None = None
    """Samples whose injections have nothing to do with the stem."""
    relevant: Sequence[PromptSet] = ()
    """Samples whose injections are about what the stem asks.

    Beside an irrelevant set each of their stems is also given the injections of a sample of that set, so that stems
    occur with both.
    """
    mismatched: Sequence[PromptSet] = ()
    """Relevant samples whose injections were exchanged (:func:`leakmech.datasets.relation.mismatched`): irrelevant
    prompts of the very stems and injections that relevant prompts have."""
    pairs: Sequence[AffectPair] = ()

    def texts(self) -> Iterator[tuple[Role, str]]:
        """Every stem and injection, with its role."""
        texts: dict[tuple[Role, str], None] = {}
        for dataset in (self.irrelevant, *self.relevant, *self.mismatched):
            for sample in dataset or ():
                injections = (sample.positive, sample.neutral, sample.negative)
                texts |= dict.fromkeys([("stem", sample.stem), *(("injection", text) for text in injections)])
        yield from texts
        for pair in self.pairs:
            yield "stem", pair.stem
            yield "injection", pair.injection

    def hashes(self) -> dict[str, str]:
        """Content hash of each source."""
        datasets = (self.irrelevant, *self.relevant, *self.mismatched)
        found: dict[str, str] = {}
        for dataset in filter(None, datasets):
            same = sum(name.partition("#")[0] == dataset.name for name in found)
            found[f"{dataset.name}#{same + 1}" if same else dataset.name] = dataset.content_hash
        if self.pairs:
            found["relevant_pairs"] = content_hash(*(str(pair.to_dict()) for pair in self.pairs))
        return found


@dataclass(frozen=True)
class _Candidate:
    """A prompt before it is rendered."""

    kind: ExampleKind
    stem: str
    injection: str | None = None
    polarity: Polarity | None = None


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
    candidates = _candidates(sources, polarities, seed)
    counts = _counts(candidates, shares, n_examples, completions)
    drawn: list[tuple[_Candidate, int]] = []
    for kind, count in counts.items():
        drawn += _draw(candidates[kind], count, completions, seed)
    references = [_rendered(renderer, candidate, reference=True) for candidate, _ in drawn]
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
    return _counts(_candidates(sources, polarities, 0), shares, n_examples, completions)


# -- candidates --------------------------------------------------------------------------------------------------------


def _candidates(
    sources: TrainingSources, polarities: Sequence[Polarity], seed: int
) -> dict[ExampleKind, list[_Candidate]]:
    """Every prompt once, by kind."""
    found = dict.fromkeys(
        (*_of_samples(sources, polarities, seed), *(c for p in sources.pairs for c in _of_pair(p, polarities)))
    )
    return {kind: [candidate for candidate in found if candidate.kind == kind] for kind in KINDS}


def _of_samples(sources: TrainingSources, polarities: Sequence[Polarity], seed: int) -> Iterator[_Candidate]:
    irrelevant = sources.irrelevant.samples if sources.irrelevant else ()
    for sample in irrelevant:
        yield _Candidate("plain", sample.stem)
        yield _Candidate("neutral", sample.stem, sample.neutral)
        for polarity in polarities:
            yield _Candidate("irrelevant", sample.stem, sample.injection(polarity), polarity)
    for sample in (sample for dataset in sources.mismatched for sample in dataset):
        for polarity in polarities:
            yield _Candidate("irrelevant", sample.stem, sample.injection(polarity), polarity)
    for sample in (sample for dataset in sources.relevant for sample in dataset):
        yield _Candidate("plain", sample.stem)
        yield _Candidate("neutral", sample.stem, sample.neutral)
        for polarity in polarities:
            yield _Candidate("relevant", sample.stem, sample.injection(polarity), polarity)
            if irrelevant:
                other = irrelevant[stable_hash(seed, "other", sample.stem) % len(irrelevant)]
                yield _Candidate("irrelevant", sample.stem, other.injection(polarity), polarity)


def _of_pair(pair: AffectPair, polarities: Sequence[Polarity]) -> Iterator[_Candidate]:
    yield _Candidate("plain", pair.stem)
    if pair.polarity in polarities:
        kind: ExampleKind = "relevant" if pair.relevant else "irrelevant"
        yield _Candidate(kind, pair.stem, pair.injection, pair.polarity)


def _counts(
    candidates: Mapping[ExampleKind, Sequence[_Candidate]],
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


def _draw(
    candidates: Sequence[_Candidate], count: int, completions: int, seed: int
) -> Iterator[tuple[_Candidate, int]]:
    by_stem: dict[str, list[_Candidate]] = {}
    for candidate in sorted(candidates, key=lambda c: stable_hash(seed, "injection", c.stem, c.injection)):
        by_stem.setdefault(candidate.stem, []).append(candidate)
    stems = sorted(by_stem, key=lambda stem: stable_hash(seed, "stem", stem))
    rounds = zip_longest(*(by_stem[stem] for stem in stems))
    ranked = [candidate for chosen in rounds for candidate in chosen if candidate is not None]
    for place in range(min(count, completions * len(ranked))):
        index, position = divmod(place, len(ranked))
        yield ranked[position], index


# -- examples ----------------------------------------------------------------------------------------------------------


def _rendered(renderer: Renderer, candidate: _Candidate, *, reference: bool = False) -> str:
    without = reference and candidate.kind == "irrelevant"
    return renderer.read(candidate.stem, None if without else candidate.injection)


def _example(
    candidate: _Candidate, draw: Draw, completion: Completion, renderer: Renderer, end: int
) -> TrainingExample:
    prompt = _rendered(renderer, candidate)
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
    )
