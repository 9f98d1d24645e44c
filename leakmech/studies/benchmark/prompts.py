"""What the model reads in a benchmark run: prompts, what became of them by rewriting, and their references.

The data set's prompts are the user's texts. A configuration may have them rewritten before they are completed
(:mod:`leakmech.generation.rewriting`; kept in ``rewrites.jsonl`` as they are made, so that an interrupted run goes on),
and may have other versions of each read beside it (:mod:`leakmech.generation.contrast`).

Rows are generated in blocks of whole samples, which are drawn without replacement: whenever a run stops, what is
finished is a random part of the data set (:mod:`leakmech.studies.benchmark.interim`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from leakmech.core.errors import UsageError
from leakmech.core.progress import Progress
from leakmech.core.seeds import numpy_generator
from leakmech.core.store import append_jsonl, hash_of_parts, mended_rows
from leakmech.datasets.samples import CONDITIONS, Condition, PromptSet
from leakmech.generation.decode import Row
from leakmech.generation.engine import Engine
from leakmech.generation.rewriting import RewrittenPrompt, request_tokens, rewrite_counts, rewrite_prompts
from leakmech.generation.variants import Continuation, ModelVariant
from leakmech.interventions.applied import Applied
from leakmech.interventions.base import Intervention
from leakmech.interventions.hooks import apply
from leakmech.interventions.positions import PromptSpans
from leakmech.models.batching import parse_batch_size
from leakmech.models.limits import refuse_unreadable
from leakmech.models.load import LoadedModel
from leakmech.prompts.locate import locate
from leakmech.prompts.render import Prompt, Prompting, Renderer
from leakmech.prompts.rewrites import PromptRewrite, find_rewrite
from leakmech.prompts.table import PromptTable
from leakmech.runs.directory import RunDirectory, RunRecord
from leakmech.scoring.semantic import SentenceEncoder, load_encoder
from leakmech.studies.benchmark.settings import BenchConfig

_ROWS_PER_BLOCK = 100
"""Whole samples with at least so many rows make a block."""
_ROWS_PER_PART = 10_000
"""Whole blocks with at least so many rows are in memory at a time."""


@dataclass(frozen=True)
class RunPrompts:
    """The prompts of one run."""

    config: BenchConfig
    files: RunDirectory
    loaded: LoadedModel
    engine: Engine
    samples: PromptSet
    progress: Progress
    hooked: tuple[Intervention, ...] = ()

    @cached_property
    def renderer(self) -> Renderer:
        return Renderer(self.loaded.tokenizer, Prompting.of(self.config))

    @cached_property
    def given(self) -> Mapping[str, Prompt]:
        """By id, the prompts as the data set has them."""
        return PromptTable(self.renderer, self.samples, self.config.conditions)

    @cached_property
    def rewrite(self) -> PromptRewrite | None:
        return find_rewrite(self.config.prompt_rewrite) if self.config.prompt_rewrite else None

    @cached_property
    def rewritten(self) -> dict[str, RewrittenPrompt]:
        """By id, what became of the prompts; what is not in the run directory yet is made when this is asked for."""
        if self.rewrite is None:
            return {}
        done = {row["prompt_id"]: RewrittenPrompt(**row) for row in mended_rows(self.files.rewrites_file)}
        if len(done) < len(self.given):
            with self.progress("rewriting", total=len(self.given), done=len(done)) as advance:
                for finished in rewrite_prompts(
                    list(self.given.values()),
                    self.rewrite,
                    engine=self.engine,
                    renderer=self.renderer,
                    batch_size=self.batch_size(),
                    encode=self._rewriting_encoder,
                    variant=ModelVariant(self.loaded),
                    done=list(done),
                ):
                    append_jsonl(self.files.rewrites_file, (found.to_dict() for found in finished))
                    done |= {found.prompt_id: found for found in finished}
                    advance(len(finished))
        return done

    @cached_property
    def _rewriting_encoder(self) -> SentenceEncoder | None:
        """What a threshold of similarity was chosen with: the shipped encoder, whatever the run is scored with."""
        threshold = None if self.rewrite is None else self.rewrite.threshold
        return None if threshold is None else load_encoder()

    @cached_property
    def completed(self) -> Mapping[str, Prompt]:
        """By id, the prompts that the model completes: rewritten if the configuration says so."""
        if self.rewrite is None:
            return self.given
        return {name: self.renderer.with_body(p, self.rewritten[name].body) for name, p in self.given.items()}

    @property
    def inserted(self) -> str:
        """What rewriting and references say and the user did not."""
        sources = (self.rewrite, self.config.contrast)
        return " ".join(dict.fromkeys(source.inserted for source in sources if source and source.inserted))

    @property
    def instruction_text(self) -> str:
        """All that the model is told besides injection and stem; a generation that repeats it is an echo."""
        return ". ".join(part for part in (self.renderer.instruction_text, self.inserted) if part)

    # -- rows ----------------------------------------------------------------------------------------------------

    def _n_generations(self, condition: Condition) -> int:
        """The control prompts' second K are the noise floor."""
        k = self.config.generations
        return 2 * k if self.config.noise_floor and condition == "control" else k

    @cached_property
    def n_rows(self) -> int:
        return len(self.samples) * sum(map(self._n_generations, set(self.config.conditions)))

    def has_row(self, prompt_id: str, generation: int) -> bool:
        """Whether a generation is one of the run's."""
        condition: Any = prompt_id.rpartition("/")[2]
        return prompt_id in self.given and generation < self._n_generations(condition)

    @property
    def rows(self) -> list[Row]:
        """Every generation of the run; made anew each time, since they are many."""
        return self._rows_of(self.completed, self._blocks(), self._spans())

    def rows_in_parts(self) -> Iterator[list[Row]]:
        """The same, in parts of whole blocks and in their order."""
        blocks, spans = self._blocks(), self._spans()
        conditions: list[Condition] = [condition for condition in CONDITIONS if condition in self.config.conditions]
        rows_each = sum(map(self._n_generations, conditions))
        part: list[str] = []
        n_rows, last = 0, 0
        for sample in sorted(blocks, key=lambda name: blocks[name]):
            if n_rows >= _ROWS_PER_PART and blocks[sample] != last:
                yield self._rows_of(part, blocks, spans)
                part, n_rows = [], 0
            part += [f"{sample}/{condition}" for condition in conditions]
            n_rows, last = n_rows + rows_each, blocks[sample]
        yield self._rows_of(part, blocks, spans)

    def _rows_of(self, names: Iterable[str], blocks: Mapping[str, int], spans: Mapping[str, PromptSpans]) -> list[Row]:
        """The rows of some prompts."""
        rows = []
        ids: dict[int, int] = {}  # one object for each token id, where a tokenizer makes one for each token
        for prompt in map(self.completed.__getitem__, names):
            tokens, *references = (tuple(ids.setdefault(i, i) for i in read) for read in self._tokens_read(prompt))
            rows += [
                Row(
                    prompt.id,
                    i,
                    tokens,
                    references=tuple(references),
                    spans=spans.get(prompt.id),
                    block=blocks[prompt.sample],
                )
                for i in range(self._n_generations(prompt.condition))
            ]
        return rows

    def _blocks(self) -> dict[str, int]:
        """The block of every sample, drawn by the content of the data set."""
        names = [sample.id for sample in self.samples]
        per_block = math.ceil(_ROWS_PER_BLOCK * len(names) / self.n_rows)
        order = numpy_generator("blocks", self.samples.content_hash).permutation(len(names))
        return {names[number]: place // per_block for place, number in enumerate(order.tolist())}

    def _spans(self) -> dict[str, PromptSpans]:
        """Where injection and stem stand, by prompt, if hooks must know it."""
        if not any(intervention.spans for intervention in self.hooked):
            return {}
        if self.rewrite is not None or self.config.contrast is not None:
            raise UsageError(
                "an intervention at the injection or the stem cannot go with rewritten prompts or contrastive "
                "decoding, which read texts without them; use one or the other"
            )
        return {found.id: PromptSpans.of(found) for found in locate(list(self.given.values()), self.renderer)}

    def _tokens_read(self, prompt: Prompt) -> list[tuple[int, ...]]:
        """Token ids of a prompt and of its references."""
        rendered = [prompt.rendered, *(reference.rendered for reference in self._references(prompt))]
        return [tuple(self.renderer.token_ids(text)) for text in rendered]

    def _references(self, prompt: Prompt) -> list[Prompt]:
        bodies = self.config.contrast.bodies(prompt) if self.config.contrast else ()
        return [self.renderer.with_body(prompt, body) for body in bodies]

    @cached_property
    def longest_read(self) -> int:
        """Tokens of the longest prompt or reference; those that the model cannot read are refused."""
        read = ((prompt.id, tokens) for prompt in self.given.values() for tokens in self._tokens_read(prompt))
        return refuse_unreadable(self.loaded.model, read, new_tokens=self.config.decoding.max_new_tokens)

    def auto_batch_size(self) -> int:
        """Rows that a batch may have, from the longest text that the model reads."""
        longest = self.longest_read
        if self.rewrite is not None and self.rewrite.request:
            requests = (request_tokens(prompt, self.rewrite, self.renderer) for prompt in self.given.values())
            longest = max(longest, *map(len, requests))
        return self.engine.auto_batch_size(
            longest_prompt=longest,
            max_new_tokens=self.config.decoding.max_new_tokens,
            n_streams=1 + (self.config.contrast.n_references if self.config.contrast else 0),
        )

    def batch_size(self) -> int:
        """What the user asks for, else what the run began with: in another batch bfloat16 would round otherwise."""
        return parse_batch_size(self.config.batch_size) or int(RunRecord.read(self.files.path).fact("batch_size"))

    # -- likelihoods ---------------------------------------------------------------------------------------------

    @cached_property
    def variant(self) -> ModelVariant:
        """The model as the run has it, under its interventions."""
        model, hooked = self.loaded.model, self.hooked

        def change() -> AbstractContextManager[Applied]:
            return apply(model, hooked)

        return ModelVariant(self.loaded, change if hooked else None)

    @cached_property
    def unanswered(self) -> dict[str, dict[Condition, Continuation]]:
        """By sample and condition, what the model reads, with nothing after it yet."""
        found: dict[str, dict[Condition, Continuation]] = {}
        for row in self.rows:
            prompt, spans = self.completed[row.prompt_id], row.spans
            parts = {} if spans is None else {"injection": spans.injection or (0, 0), "stem": spans.stem or (0, 0)}
            read = Continuation(row.prompt_id, prompt.sample, row.prompt_tokens, (), **parts)
            found.setdefault(prompt.sample, {})[prompt.condition] = read
        return found

    # -- what the run's files say --------------------------------------------------------------------------------

    def fingerprint(self) -> dict[str, str]:
        """Hashes of what is read: the prompts, how they are rewritten, and their references."""
        found = {"prompts": hash_of_parts(f"{p.id}\x1f{p.rendered}" for p in self.given.values())}
        if self.rewrite is not None:
            found["prompt_rewrite"] = self.rewrite.hash
        if self._rewriting_encoder is not None:
            found["rewriting_encoder"] = self._rewriting_encoder.hash
        if self.config.contrast is not None:
            references = (reference.rendered for p in self.given.values() for reference in self._references(p))
            found["contrast"] = hash_of_parts(references)
        return found

    def provenance(self) -> dict[str, Any]:
        """What ``run.json`` says of form, instruction and rewriting."""
        return {
            "prompt_form": self.renderer.resolved_form,
            "instruction": self.renderer.resolved_instruction.to_dict(),
            **({"prompt_rewrite": self.rewrite.to_dict()} if self.rewrite else {}),
            **({"inserted_text": self.inserted} if self.inserted else {}),
        }

    def record(self, prompt: Prompt) -> dict[str, Any]:
        """A line of ``prompts.jsonl``: the user's text, what the model completes, and what became of it on the way."""
        if self.rewrite is None:
            return dict(prompt.to_dict())
        found = self.rewritten[prompt.id]
        changed = {"rendered": self.completed[prompt.id].rendered, "rewritten": found.body}
        return prompt.to_dict() | changed | {"rewrite_status": found.status}

    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` says of rewriting and contrast, if there is any."""
        changes: dict[str, Any] = {"oracle": True} if self.config.oracle else {}
        if self.config.contrast is not None:
            changes["contrast"] = self.config.contrast.to_dict()
        if self.rewrite is not None:
            changes["prompt_rewrite"] = self.rewrite.name
            changes["rewrites"] = rewrite_counts(self.given, self.rewritten)
        return changes
