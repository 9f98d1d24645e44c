"""The texts whose likelihood is measured: what the base model wrote, and neutral texts that nobody generated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from leakmech.core.errors import DatasetError, UsageError
from leakmech.core.text import normalised_words
from leakmech.datasets.archive import fetch_archive, load_ratings
from leakmech.datasets.corpus import EMBEDDED, open_corpus
from leakmech.datasets.samples import Sample
from leakmech.generation.variants import Continuation
from leakmech.prompts.locate import LocatedPrompt, locate
from leakmech.prompts.render import Prompt, Renderer
from leakmech.side_effects.answers import Answers

_SOURCE = "nyt"
_NEUTRAL = 0.5
_MIN_WORDS = 8


def prompt_continuations(
    prompts: Iterable[Prompt], renderer: Renderer, *, tokens: Mapping[str, Sequence[int]]
) -> list[Continuation]:
    """Put generated token ids after rendered prompts, by prompt id; prompts without an entry are left out."""
    kept = [prompt for prompt in prompts if prompt.id in tokens]
    if not kept:
        raise UsageError("continuations: none of the prompts has generated tokens; give them by prompt id")
    return [_continued(located, located.id, tuple(tokens[located.id])) for located in locate(kept, renderer)]


def control_continuations(
    samples: Iterable[Sample], generations: Iterable[Mapping[str, Any]], renderer: Renderer
) -> list[Continuation]:
    """Put the first control generation of every sample, of those of a run, after its prompt."""
    tokens = {
        record["prompt_id"]: plain_ids(renderer.tokenizer, record["text"])
        for record in generations
        if record["condition"] == "control" and record["generation"] == 0
    }
    prompts = (renderer.prompt(sample, "control") for sample in samples)
    return prompt_continuations(prompts, renderer, tokens=tokens)


def _continued(located: LocatedPrompt, name: str, tokens: tuple[int, ...]) -> Continuation:
    spans = located.spans
    ids = tuple(located.ids.tolist())
    return Continuation(name, located.sample, ids, tokens, injection=spans["injection"], stem=spans["stem"])


def answer_continuations(answers: Answers, controls: Mapping[str, Prompt], renderer: Renderer) -> list[Continuation]:
    """Put every scored answer after the *control* prompt of its sample.

    What a model answers after an injection is judged as an answer to the stem alone: an answer that keeps free of the
    injection is then as probable as one that was never tempted.
    """
    missing = [sample for sample in answers.samples if sample not in controls]
    if missing:
        raise UsageError(f"answers: sample {missing[0]!r} has no control prompt")
    prompts = dict(zip(controls, locate(list(controls.values()), renderer), strict=True))
    encoded: dict[tuple[str, str], tuple[int, ...]] = {}
    found = []
    for sample, condition, number, text in zip(
        answers.samples, answers.conditions, answers.generations, answers.answers, strict=True
    ):
        key = (sample, text)
        if key not in encoded:
            encoded[key] = renderer.answer_ids(controls[sample].stem, text)
        found.append(_continued(prompts[sample], f"{sample}/{condition}#{number}", encoded[key]))
    return found


def plain_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Tokenise a text without special tokens."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def neutral_continuations(
    tokenizer: Any, source: str = EMBEDDED, *, limit: int = 200, max_tokens: int = 128, text_column: str = "text"
) -> list[Continuation]:
    """Choose `limit` neutral texts, evenly spaced over the source; the first token of each is given, the others scored.

    Where the tokenizer puts a beginning-of-text token before a text, that is what is given. The source ``embedded``
    holds sentences of newspaper editorials from the archive of Hutto & Gilbert (2014) whose mean human rating lies
    within 0.5 of neutral (on a scale from -4 to 4) and that have 8 words or more; an editorial is one unit. Any other
    source is a corpus (:func:`leakmech.datasets.corpus.open_corpus`), each text a unit.
    """
    if limit < 1 or max_tokens < 2:
        raise UsageError(
            f"neutral texts: limit must be 1 or more and max_tokens 2 or more; found {limit}, {max_tokens}"
        )
    texts = _editorials() if source == EMBEDDED else _corpus(source, text_column)
    chosen = sorted(set(np.linspace(0, len(texts) - 1, num=min(limit, len(texts))).round().astype(int).tolist()))
    found = []
    for index in chosen:
        unit, text = texts[index]
        ids = tuple(tokenizer(text)["input_ids"][:max_tokens])
        if len(ids) > 1:
            found.append(Continuation(f"{source}:{index}", unit, ids[:1], ids[1:]))
    if not found:
        raise DatasetError(f"neutral texts {source}: none of them has two tokens")
    return found


def _editorials() -> list[tuple[str, str]]:
    """List (editorial, sentence) of the neutral sentences."""
    frame = load_ratings(fetch_archive())
    frame = frame[(frame["source"] == _SOURCE) & (frame["mean_rating"].abs() <= _NEUTRAL)]
    rows = zip(frame["document"].tolist(), frame["text"].tolist(), strict=True)
    return [(document, text) for document, text in rows if len(normalised_words(text)) >= _MIN_WORDS]


def _corpus(source: str, text_column: str) -> list[tuple[str, str]]:
    corpus = open_corpus(source, text_column=text_column)
    return [(str(text.position), text.text.strip()) for text in corpus]
