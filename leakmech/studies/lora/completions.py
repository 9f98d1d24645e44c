"""Completions that the base model samples for training, kept in a cache.

A draw is addressed by (seed, rendered prompt, index), so the same prompt in two data sets has the same completions,
and a longer training data set begins with those of a shorter one. The cache's name covers weights, tokenizer, number
format, decoding and seed: a changed model never gets another model's completions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leakmech.core.paths import cache_root
from leakmech.core.progress import Progress, no_progress
from leakmech.core.store import append_jsonl, content_hash, mended_rows
from leakmech.generation.decode import FinishReason, Generation, Row
from leakmech.generation.decoding import Decoding
from leakmech.generation.engine import generate
from leakmech.generation.hf_engine import HFEngine
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import Renderer

Draw = tuple[str, int]
"""A rendered prompt and the index of one of its completions."""


@dataclass(frozen=True)
class Completion:
    """What the base model wrote: its text, and its tokens without the one that ended it."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason


def sample_completions(
    loaded: LoadedModel,
    draws: Iterable[Draw],
    *,
    renderer: Renderer,
    decoding: Decoding,
    seed: int = 0,
    batch_size: int | str = "auto",
    cache_dir: Path | None = None,
    progress: Progress = no_progress,
) -> dict[Draw, Completion]:
    """Completions of rendered prompts; those that were sampled before are read from the cache.

    Without `cache_dir` the cache is :func:`leakmech.core.paths.cache_root`.
    """
    wanted = list(dict.fromkeys(draws))
    path = (
        (cache_root() if cache_dir is None else Path(cache_dir))
        / "completions"
        / f"{_key(loaded, decoding, seed)}.jsonl"
    )
    known = _read(path)
    missing = [draw for draw in wanted if (_prompt_id(draw[0]), draw[1]) not in known]

    def keep(ended: list[Generation]) -> None:
        made = {(g.prompt_id, g.generation): Completion(g.text, g.tokens, g.finish_reason) for g in ended}
        append_jsonl(path, (_row(key, completion) for key, completion in made.items()))
        known.update(made)

    if missing:
        tokens = {prompt: tuple(renderer.token_ids(prompt)) for prompt, _ in missing}
        rows = [Row(_prompt_id(prompt), index, tokens[prompt]) for prompt, index in missing]
        generate(
            HFEngine.of(loaded),
            rows,
            decoding,
            seed=seed,
            batch_size=batch_size,
            coupled=True,
            keep=keep,
            progress=progress,
            label="completions",
            n_before=len(wanted) - len(missing),
        )
    return {draw: known[_prompt_id(draw[0]), draw[1]] for draw in wanted}


def _key(loaded: LoadedModel, decoding: Decoding, seed: int) -> str:
    settings = json.dumps([decoding.to_dict(), seed, str(loaded.dtype)], sort_keys=True)
    return content_hash(loaded.weights_hash, loaded.tokenizer_hash, settings)


def _prompt_id(rendered: str) -> str:
    return f"train/{content_hash(rendered)}"


def _row(key: Draw, completion: Completion) -> dict[str, Any]:
    return {"prompt_id": key[0], "generation": key[1], **vars(completion)}


def _read(path: Path) -> dict[Draw, Completion]:
    return {
        (row["prompt_id"], row["generation"]): Completion(row["text"], tuple(row["tokens"]), row["finish_reason"])
        for row in mended_rows(path)
    }
