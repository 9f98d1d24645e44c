"""Prompts that are rewritten before they are completed.

First pass: the body of the prompt (injection and stem) is rewritten, by the model itself with greedy decoding, by a
rule, or by what its sentences have to do with the last one. Second pass: what came out is completed as any prompt is,
under the id of the prompt that it replaces, so that the noise of the draws is that of the base run.

A rewrite is of use only if the sentence to complete is still its end. A rewrite is

``rewritten``     another text that ends with the stem, word for word;
``unchanged``     the same words as before;
``lost-stem``     without the stem: failed;
``completed``     with the stem and a completion of it, where it should only have been kept: failed;
``empty``         without words: failed.

For a failed one **the original body is completed**, as a user would who notices that the last sentence is gone; the
failures are counted by condition and stand in the run's summary, beside how many rewrites left the stem alone
(``only_stem``). A method whose rewrites mostly fail is then mostly the base model, and the table says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from leakmech.core.text import WORD, normalised_words
from leakmech.datasets.samples import CONDITIONS
from leakmech.generation.decode import Row
from leakmech.generation.decoding import Decoding
from leakmech.generation.engine import Engine
from leakmech.generation.leave_one_out import without_idle
from leakmech.generation.variants import ModelVariant
from leakmech.prompts.render import Prompt, Renderer
from leakmech.prompts.rewrites import PromptRewrite
from leakmech.prompts.unrelated import Encode, without_unrelated
from leakmech.prompts.views import find_view

RewriteStatus = Literal["rewritten", "unchanged", "lost-stem", "completed", "empty"]
FAILED: tuple[RewriteStatus, ...] = ("lost-stem", "completed", "empty")
_ROOM = 16  # tokens that a rewrite may be longer than the longest body
_LABEL = re.compile(r"^(?P<label>[^.!?:]{1,60}):\s*")


@dataclass(frozen=True)
class RewrittenPrompt:
    """What became of one prompt: the status of its rewrite, the body that is completed, and the rewriter's answer."""

    prompt_id: str
    status: RewriteStatus
    body: str
    answer: str

    def to_dict(self) -> dict[str, str]:
        """A line of ``rewrites.jsonl``."""
        return asdict(self)


def text_of_answer(answer: str, *, body: str) -> str:
    """The rewritten text in an answer of a model: its first line, without labels and quotation marks around it.

    A label is what stands before a colon and not in `body`: "The rewritten text is: …".
    """
    text = next((line.strip() for line in answer.splitlines() if line.strip()), "")
    while (found := _LABEL.match(text)) and found["label"] not in body:
        text = text[found.end() :]
    return text.strip().strip('"“”')


def judge_rewrite(prompt: Prompt, text: str, *, answer: str | None = None) -> RewrittenPrompt:
    """Decide what becomes of `prompt` when its body is rewritten as `text`; `answer` is what that was read from."""
    answer = text if answer is None else answer
    words, stem = normalised_words(text), normalised_words(prompt.stem)
    if not words:
        return RewrittenPrompt(prompt.id, "empty", prompt.body, answer)
    if words == normalised_words(prompt.body):
        return RewrittenPrompt(prompt.id, "unchanged", prompt.body, answer)
    if words[-len(stem) :] == stem:
        return RewrittenPrompt(prompt.id, "rewritten", _ending_as(prompt.stem, text), answer)
    inside = any(words[i : i + len(stem)] == stem for i in range(len(words)))
    return RewrittenPrompt(prompt.id, "completed" if inside else "lost-stem", prompt.body, answer)


def _ending_as(stem: str, text: str) -> str:
    """`text` with what follows its last word as it is in the stem: models like to put a full stop."""
    return text[: _end_of_words(text)] + stem[_end_of_words(stem) :]


def _end_of_words(text: str) -> int:
    return max(match.end() for match in WORD.finditer(text))


def rewrite_prompts(
    prompts: Sequence[Prompt],
    rewrite: PromptRewrite,
    *,
    engine: Engine,
    renderer: Renderer,
    batch_size: int,
    encode: Encode | None = None,
    variant: ModelVariant | None = None,
    done: Collection[str] = (),
) -> Iterator[list[RewrittenPrompt]]:
    """Rewrite prompts, and yield them as they are finished; those whose id is in `done` are left out.

    Give all prompts of the run. The request stands under the system role of `renderer`, in chat form, or in plain form
    where the prompts are plain. `encode` is needed where the rewrite has a threshold, `variant` where it goes by
    likelihood.
    """
    waiting = {prompt.id: prompt for prompt in prompts if prompt.id not in done}
    if rewrite.threshold is not None:
        if encode is None:
            raise AssertionError("a threshold of similarity needs an encoder")
        bodies = without_unrelated([prompt.body for prompt in prompts], threshold=rewrite.threshold, encode=encode)
        texts = {prompt.id: body for prompt, body in zip(prompts, bodies, strict=True)}
        yield [judge_rewrite(prompt, texts[prompt.id]) for prompt in waiting.values()]
        return
    if rewrite.gain is not None:
        if variant is None:
            raise AssertionError("what a sentence does for the request is said by a model")
        kept = without_idle(list(waiting.values()), threshold=rewrite.gain, variant=variant, renderer=renderer)
        yield [judge_rewrite(prompt, body) for prompt, body in zip(waiting.values(), kept, strict=True)]
        return
    if rewrite.request is None:
        view = find_view(rewrite.view or "same")
        yield [judge_rewrite(prompt, view.body(prompt)) for prompt in waiting.values()]
        return
    rows = [Row(p.id, 0, request_tokens(p, rewrite, renderer)) for p in waiting.values()]
    # From all prompts, so that it is the same when a run is continued.
    longest = max(len(renderer.tokenizer(p.body, add_special_tokens=False)["input_ids"]) for p in prompts)
    decoding = Decoding(temperature=0.0, repetition_penalty=1.0, max_new_tokens=longest + _ROOM)
    for ended in engine.complete(rows, decoding, stop=lambda _, text: "\n" in text.lstrip(), batch_size=batch_size):
        yield [
            judge_rewrite(
                waiting[made.prompt_id], text_of_answer(made.text, body=waiting[made.prompt_id].body), answer=made.text
            )
            for made in ended
        ]


def request_tokens(prompt: Prompt, rewrite: PromptRewrite, renderer: Renderer) -> tuple[int, ...]:
    """Token ids of the request to rewrite `prompt`; the instruction of the run does not stand in it."""
    prompting = replace(renderer.prompting, instruction="none", place="before")
    if renderer.resolved_form == "prefill":  # there is no stem to open the answer with
        prompting = replace(prompting, form="chat")
    plain = Renderer(renderer.tokenizer, prompting)
    request = (rewrite.request or "{text}").replace("{text}", prompt.body)
    return tuple(renderer.token_ids(plain.render(request)))


def rewrite_counts(
    prompts: Mapping[str, Prompt], rewritten: Mapping[str, RewrittenPrompt]
) -> dict[str, dict[str, int | float]]:
    """By condition and overall: prompts of each status, those left with the stem only, and the share that failed."""
    counts: dict[str, dict[str, int | float]] = {}
    for group in (*CONDITIONS, "overall"):
        ids = [name for name, prompt in prompts.items() if group in (prompt.condition, "overall")]
        found = Counter(rewritten[name].status for name in ids)
        only_stem = sum(rewritten[name].body == prompts[name].stem for name in ids)
        statuses = {status.replace("-", "_"): found[status] for status in ("rewritten", "unchanged", *FAILED)}
        failed = sum(found[status] for status in FAILED)
        counts[group] = {"n": len(ids), **statuses, "only_stem": only_stem, "failed_share": failed / max(1, len(ids))}
    return counts
