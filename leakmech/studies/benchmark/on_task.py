"""How probable the answers of a run are after the control prompts, under the model of the run.

Of every answer counts what the model wrote up to the end of the sentence that is scored. Only its text is kept, so it
is tokenised again: 99 % (plain form) and 97 % (chat) of the embedded model's generations then have as many tokens as
were drawn. The control prompt is read as the run has it (rewritten, if prompts are), once for all answers of its
sample. What is known of a sample is one line of ``control_likelihoods.jsonl``, so that an interrupted run goes on with
the next one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

from leakmech.core.store import append_jsonl, mended_rows
from leakmech.generation.likelihood import log_likelihoods
from leakmech.scoring.records import ControlLikelihoods
from leakmech.scoring.sentence import FirstSentences
from leakmech.side_effects.texts import plain_ids
from leakmech.studies.benchmark.prompts import RunPrompts


@dataclass(frozen=True)
class AnswersAfterControl:
    """The answers of one run, put after the control prompts."""

    prompts: RunPrompts
    sentences: FirstSentences

    def log_p(self) -> ControlLikelihoods:
        """Log p per token of every answer that is scored; what is not in the run directory yet is computed."""
        file = self.prompts.files.control_likelihoods_file
        known = mended_rows(file)
        answers = self._answers()
        waiting = {sample: answers[sample] for sample in answers.keys() - {line["sample"] for line in known}}
        n_answers, n_waiting = (sum(map(len, part.values())) for part in (answers, waiting))
        with self.prompts.progress("control likelihoods", total=n_answers, done=n_answers - n_waiting) as advance:
            for sample in [name for name in answers if name in waiting]:
                known.append(self._measured(sample, waiting[sample]))
                append_jsonl(file, known[-1:])
                advance(len(waiting[sample]))
        return {
            (row["prompt_id"], row["generation"]): row["log_p"] / row["n_tokens"]
            for line in known
            for row in line["answers"]
        }

    def _answers(self) -> dict[str, list[tuple[str, int, str]]]:
        """By sample, prompt id, generation and text of the answers that are scored."""
        policy, found = self.prompts.config.cleaning, defaultdict(list)
        for record in self.prompts.files.generations():
            text = self.sentences.up_to_scored(record["prompt_id"], record["text"], policy)
            found[record["sample"]] += [(record["prompt_id"], record["generation"], text)] if text.strip() else []
        return {sample.id: sorted(found[sample.id]) for sample in self.prompts.samples}

    def _measured(self, sample: str, answers: list[tuple[str, int, str]]) -> dict[str, Any]:
        control, tokenizer = self.prompts.unanswered[sample]["control"], self.prompts.renderer.tokenizer
        texts = [
            replace(control, id=f"{name}#{number}", tokens=plain_ids(tokenizer, text)) for name, number, text in answers
        ]
        found = log_likelihoods(self.prompts.variant, texts, share_prompts=True)
        return {
            "sample": sample,
            "answers": [
                {"prompt_id": name, "generation": number, "n_tokens": int(count), "log_p": float(value)}
                for (name, number, _), count, value in zip(answers, found.n_tokens, found.log_likelihood, strict=True)
            ],
        }
