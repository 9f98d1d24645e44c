"""How like two personas are inside a model, by named recipes.

    last            cosine of centroids at the last token of the prompt: means over questions, less that of all personas
    reply           the same over the tokens of a reply
    js              1 - Jensen-Shannon divergence (bits) of next-token distributions after either persona's prompt, mean
                    over the tokens of the reply that the model gives without any persona
    text            cosine of the sentence encoder's embeddings of the two system prompts
    shared words    Jaccard of their words

Recipes disagree with each other (the original's six do everywhere), so none stands without its name. Text and words are
covariates: a correlation that they explain says nothing of the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import UsageError
from leakmech.core.progress import Progress, no_progress
from leakmech.core.text import normalised_words
from leakmech.generation.variants import Batch, Continuation, ModelVariant

_ROWS = 16
"""Personas whose logits are in memory at once."""


def centred(h: Float[np.ndarray, "question persona d"]) -> Float[np.ndarray, "persona d"]:
    """Centroids of personas over questions, minus their mean over personas."""
    means = h.astype(np.float64).mean(axis=0)
    return means - means.mean(axis=0)


def cosines(centroids: Float[np.ndarray, "persona d"], sources: Sequence[int]) -> Float[np.ndarray, "source persona"]:
    """Cosine of every source's centroid with every persona's; 0 for a persona that lies at the mean."""
    lengths = np.linalg.norm(centroids, axis=1, keepdims=True)
    unit = np.divide(centroids, lengths, out=np.zeros_like(centroids), where=lengths > 0)
    return unit[list(sources)] @ unit.T


def shared_words(prompts: Sequence[str], sources: Sequence[int]) -> Float[np.ndarray, "source persona"]:
    """Words in common over words in either."""
    sets = [set(normalised_words(prompt)) for prompt in prompts]
    return np.array([[len(sets[s] & own) / max(len(sets[s] | own), 1) for own in sets] for s in sources])


def js_similarity(
    variant: ModelVariant,
    prompts: Sequence[Sequence[tuple[int, ...]]],
    replies: Sequence[tuple[int, ...]],
    sources: Sequence[int],
    *,
    progress: Progress = no_progress,
) -> Float[np.ndarray, "source persona"]:
    """Similarity by teacher-forced outputs, from 0 to 1.

    Parameters
    ----------
    variant
        The base model.
    prompts
        Token ids of each question under each persona: question by question, personas in one order.
    replies
        Token ids of the reply to each question without a persona; questions with an empty one say nothing.
    sources
        Places of the sources among the personas.

    Raises
    ------
    UsageError
        There is no reply, or not one prompt for each persona.
    """
    n_personas = len(prompts[0]) if prompts else 0
    if not any(replies) or len(prompts) != len(replies) or any(len(own) != n_personas for own in prompts):
        raise UsageError("js similarity: give each question a prompt for every persona, and a reply to some")
    total, n_tokens = np.zeros((len(sources), n_personas)), 0
    with progress("JS divergence", total=len(replies), done=0) as advance:
        for own, reply in zip(prompts, replies, strict=True):
            if reply:
                total += _question(variant, own, reply, sources)
                n_tokens += len(reply)
            advance(1)
    return 1 - total / n_tokens


def _question(
    variant: ModelVariant, prompts: Sequence[tuple[int, ...]], reply: tuple[int, ...], sources: Sequence[int]
) -> Float[np.ndarray, "source persona"]:
    """Divergences in bits, summed over the tokens of one reply."""
    wanted = torch.cat(list(_distributions(variant, [prompts[place] for place in sources], reply)))
    found = []
    for log_p in _distributions(variant, prompts, reply):
        found.append(torch.stack([js_divergence(source, log_p).sum(dim=-1) for source in wanted]))
    return torch.cat(found, dim=1).cpu().numpy()


def _distributions(
    variant: ModelVariant, prompts: Sequence[tuple[int, ...]], reply: tuple[int, ...]
) -> Iterable[Float[Tensor, "row token vocab"]]:
    """Log-probabilities of the next token at every place of the reply, a few prompts at a time."""
    for start in range(0, len(prompts), _ROWS):
        rows = [Continuation(str(n), "", ids, reply) for n, ids in enumerate(prompts[start : start + _ROWS])]
        batch = Batch.of(rows, device=variant.device)
        logits = variant.logits(batch, keep=len(reply) + 1)[:, :-1]
        yield torch.log_softmax(logits.float(), dim=-1)


def js_divergence(
    log_p: Float[Tensor, "*batch vocab"], log_q: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, " *batch"]:
    """Jensen-Shannon divergence in bits, between 0 and 1, from log-probabilities in nats."""
    middle = torch.logaddexp(log_p, log_q) - np.log(2)
    halves = [(log.exp() * (log - middle)).sum(dim=-1) for log in (log_p, log_q)]
    return (halves[0] + halves[1]).clamp(min=0) / (2 * np.log(2))
