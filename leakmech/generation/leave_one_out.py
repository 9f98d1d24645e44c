"""Which sentences does the request need? Each one before it is left out in turn, and the model says what is missing.

Let s_1 … s_n be the sentences of a text, of which the last is the request (that much is told: the layout), and p the
model. What sentence i does for the request is what the words of the request gain from it, in nats a token,

    gain_i = ( log p(s_n | s_1 … s_{n-1}) - log p(s_n | s_1 … s_{n-1} without s_i) ) / tokens(s_n),

and the teacher reads the text without the sentences whose gain is below a threshold. It uses the model's own
likelihoods, where :mod:`leakmech.prompts.unrelated` uses a sentence encoder. A request after any sentence is more
likely than one that begins a text, so that zero is not a threshold by itself: it is chosen on other samples. A text of
one sentence stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from leakmech.core.progress import Progress, no_progress
from leakmech.core.text import split_sentences
from leakmech.generation.likelihood import log_likelihoods
from leakmech.generation.variants import Continuation, ModelVariant
from leakmech.prompts.locate import tokens_of
from leakmech.prompts.render import Prompt, Renderer


def sentence_gains(
    prompts: Sequence[Prompt],
    *,
    variant: ModelVariant,
    renderer: Renderer,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> list[tuple[float, ...]]:
    """Compute the gain of each sentence before the last one of every prompt's body; none of a body of one sentence."""
    counts, asked = [], []
    for prompt in prompts:
        *before, last = split_sentences(prompt.body) or [""]
        texts = [" ".join([*before[:i], *before[i + 1 :], last]) for i in range(len(before))]
        counts.append(len(before))
        if before:
            asked += [_request(prompt, text, last, renderer) for text in (prompt.body, *texts)]
    found = log_likelihoods(variant, asked, batch_size=batch_size, progress=progress)
    values = iter((found.log_likelihood / found.n_tokens).tolist() if asked else ())
    gains = []
    for count in counts:
        whole = next(values) if count else 0.0
        gains.append(tuple(whole - next(values) for _ in range(count)))
    return gains


def without_idle(
    prompts: Sequence[Prompt],
    *,
    threshold: float,
    variant: ModelVariant,
    renderer: Renderer,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> list[str]:
    """Bodies without the sentences of less gain than `threshold`; one that keeps all stays as it is, to the letter."""
    found = sentence_gains(prompts, variant=variant, renderer=renderer, batch_size=batch_size, progress=progress)
    bodies = []
    for prompt, gains in zip(prompts, found, strict=True):
        if all(gain >= threshold for gain in gains):
            bodies.append(prompt.body)
            continue
        *before, last = split_sentences(prompt.body)
        bodies.append(" ".join([*(s for s, gain in zip(before, gains, strict=True) if gain >= threshold), last]))
    return bodies


def _request(prompt: Prompt, text: str, last: str, renderer: Renderer) -> Continuation:
    """The last sentence of `text`, in the prompt whose body that is; what follows it there is left out."""
    ids, (start, end) = tokens_of(last, renderer.with_body(prompt, text), renderer)
    return Continuation(f"{prompt.id}/{len(text)}", prompt.sample, ids[:start], ids[start:end])
