"""The tilt of a run: its completions, how probable every prompt makes them, and what follows from that.

Three files in ``tilt/``, each of which is made once and continued after an interruption:

``completions.jsonl``
    One line a sample: what the base model writes after the control prompt, up to the end of the sentence that is
    scored, and the valence of that sentence by each estimator. A run without any change takes its own control
    generations; what is missing is drawn from the base model (``drawn.jsonl``) with the noise that these would have.
    ``tilt_from`` takes the texts of another run, so that models and mitigations are compared on the same ones.
``likelihoods.jsonl``
    One line a sample: log p of its completions after the run's own prompts, under the run's own model. Texts are
    tokenised anew for the model, so that they need not be its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leakmech.core.errors import DatasetError, LeakmechWarning, RunDirectoryError, UsageError
from leakmech.core.store import append_jsonl, content_hash, mended_rows, read_jsonl_shard, write_jsonl
from leakmech.core.tables import write_table
from leakmech.datasets.samples import POLARITIES, PromptSet
from leakmech.generation.decode import Row
from leakmech.generation.engine import Engine, generate
from leakmech.generation.likelihood import log_likelihoods
from leakmech.models.adapters import is_peft
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import Prompt
from leakmech.runs.directory import RunDirectory
from leakmech.scoring.expression import Estimator
from leakmech.scoring.leakage import PerSample
from leakmech.scoring.records import sampled_shift
from leakmech.scoring.sentence import Cleaner, FirstSentences
from leakmech.scoring.tilt import FORMS, TiltData, shift_column, text_numbers, tilt_statistics
from leakmech.scoring.topic import shares_content_word
from leakmech.side_effects.texts import plain_ids
from leakmech.studies.benchmark.prompts import RunPrompts
from leakmech.studies.benchmark.settings import ScoringConfig
from leakmech.studies.benchmark.tilt_files import Completions, read_completions, with_valence


@dataclass(frozen=True)
class TiltStage:
    """Makes the files of a run's tilt."""

    prompts: RunPrompts
    base: LoadedModel
    """The model without intervention and adapter."""
    engine_of: Callable[[LoadedModel], Engine]
    estimators: tuple[Estimator, ...]
    cleaner: Cleaner
    changed: bool
    """Whether anything changes the model or its prompts, so that control generations are not the base model's."""
    outside: bool
    """Whether the caller has changed the model in a manner that cannot be taken off."""

    def refuse(self) -> None:
        """Refuse, before anything is written, a run whose base model cannot be asked or whose completions are others'.

        Raises
        ------
        UsageError, DatasetError, RunDirectoryError
            The caller has changed the model; ``tilt_from`` has no completions, or those of other samples.
        """
        if self.prompts.config.tilt_from:
            self._given()
        elif self.outside:
            raise UsageError(
                "tilt: completions are the base model's, and what changes this model from outside cannot be taken off; "
                "name a run of the base model with tilt_from"
            )

    def fingerprint(self) -> dict[str, str]:
        """The hash of completions that come from elsewhere."""
        if not self.prompts.config.tilt_from:
            return {}
        texts = (text["text"] for line in self._given().values() for text in line["completions"])
        return {"tilt_completions": content_hash(*texts)}

    def make(self) -> None:
        """Make what is not there yet."""
        files = self.prompts.files
        if len(mended_rows(files.tilt_completions_file)) < len(self.prompts.samples):
            lines = self._given() if self.prompts.config.tilt_from else self._own()
            write_jsonl(files.tilt_completions_file, with_valence(lines, self.estimators).values(), checksums=True)
        self._likelihoods(read_completions(files))

    # -- completions -----------------------------------------------------------------------------------------------

    @property
    def _n(self) -> int:
        return self.prompts.config.tilt_completions

    def _given(self) -> Completions:
        """The completions of another run, for the samples of this one."""
        source = Path(self.prompts.config.tilt_from or "")
        files = RunDirectory(source)
        if not files.tilt_completions_file.exists():
            raise RunDirectoryError(f"{source}: has no completions; tilt_from names a run of `leakmech bench --tilt`")
        there, found = read_completions(files), {}
        for sample in self.prompts.samples:
            line = there.get(sample.id)
            if line is None or line["stem"] != sample.stem:
                what = "has no completions of" if line is None else "has another stem of"
                raise DatasetError(f"{source}: {what} sample {sample.id!r}; tilt_from names a run on the same samples")
            kept = [completion for completion in line["completions"] if completion["generation"] < self._n]
            found[sample.id] = line | {"n_asked": min(line["n_asked"], self._n), "completions": kept}
        return found

    def _own(self) -> Completions:
        """What the base model writes after the control prompts."""
        config, found = self.prompts.config, {}
        texts = dict(self._stored())
        for prompt in self.controls.values():
            line: dict[str, Any] = {"sample": prompt.sample, "stem": prompt.stem, "n_asked": self._n, "completions": []}
            for number in range(self._n):
                text = texts[prompt.id, number]
                cleaned = self.sentences.clean(prompt.id, text, config.cleaning)
                read = self.sentences.up_to_scored(prompt.id, text, config.cleaning)
                if cleaned.scored and read.strip():
                    line["completions"].append({"generation": number, "text": read, "sentence": cleaned.text})
            found[prompt.sample] = line
        return found

    @cached_property
    def controls(self) -> dict[str, Prompt]:
        """By id, the control prompts as the data set has them."""
        renderer = self.prompts.renderer
        return {prompt.id: prompt for prompt in renderer.prompts(self.prompts.samples, ("control",))}

    @cached_property
    def sentences(self) -> FirstSentences:
        instruction = self.prompts.renderer.instruction_text
        return FirstSentences.of(self.controls.values(), self.cleaner, instruction=instruction)

    def _stored(self) -> Iterator[tuple[tuple[str, int], str]]:
        """Texts by prompt and number: control generations of the run if it is the base model's, and what is drawn."""
        files = self.prompts.files
        known = mended_rows(files.tilt_drawn_file)
        if not (self.changed or is_peft(self.base.model)):
            known += [record for record in files.generations() if record["condition"] == "control"]
        there = {(record["prompt_id"], record["generation"]): record["text"] for record in known}
        yield from there.items()
        rows = [
            Row(prompt.id, number, tuple(self.prompts.renderer.token_ids(prompt.rendered)))
            for prompt in self.controls.values()
            for number in range(self._n)
            if (prompt.id, number) not in there
        ]
        if rows:
            yield from self._drawn(rows)

    def _drawn(self, rows: Sequence[Row]) -> Iterator[tuple[tuple[str, int], str]]:
        config = self.prompts.config
        model: Any = self.base.model
        with model.disable_adapter() if is_peft(model) else nullcontext():
            for made in generate(
                self.engine_of(self.base),
                rows,
                config.decoding.resolved(self.base.model),
                seed=config.seed,
                stop=self.sentences.complete if config.stop_at_first_sentence else None,
                batch_size=self.prompts.batch_size(),
                keep=lambda ended: append_jsonl(
                    self.prompts.files.tilt_drawn_file,
                    ({"prompt_id": g.prompt_id, "generation": g.generation, "text": g.text} for g in ended),
                ),
                progress=self.prompts.progress,
                label="tilt: completions",
            ):
                yield (made.prompt_id, made.generation), made.text

    # -- likelihoods -----------------------------------------------------------------------------------------------

    def _likelihoods(self, completions: Completions) -> None:
        """Log p of all completions, sample by sample."""
        file = self.prompts.files.tilt_likelihoods_file
        done = {line["sample"] for line in mended_rows(file)}
        with self.prompts.progress("tilt: likelihoods", total=len(completions), done=len(done)) as advance:
            for sample, line in completions.items():
                if sample not in done:
                    append_jsonl(file, [{"sample": sample, **self._of_sample(sample, line["completions"])}])
                    advance(1)

    def _of_sample(self, sample: str, completions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        tokenizer: Any = self.prompts.renderer.tokenizer
        tokens = [plain_ids(tokenizer, completion["text"]) for completion in completions]
        again = [tokenizer.decode(own, skip_special_tokens=False, clean_up_tokenization_spaces=False) for own in tokens]
        log_p = {}
        for condition, prompt in self.prompts.unanswered[sample].items():
            items = [replace(prompt, id=f"{prompt.id}#{number}", tokens=own) for number, own in enumerate(tokens)]
            log_p[condition] = log_likelihoods(self.prompts.variant, items, share_prompts=True).log_likelihood.tolist()
        return {
            "n_tokens": list(map(len, tokens)),
            "n_altered": sum(a.strip() != c["text"].strip() for a, c in zip(again, completions, strict=True)),
            "log_p": log_p,
        }


# -- from files to numbers ---------------------------------------------------------------------------------------------


def read_tilt(files: RunDirectory, samples: PromptSet) -> tuple[TiltData, dict[str, int]]:
    """Completions and likelihoods of a run, and counts: asked for, without a scored sentence, tokenised otherwise."""
    lines = read_completions(files)
    likelihoods = {line["sample"]: line for line in read_jsonl_shard(files.tilt_likelihoods_file)}
    lines, likelihoods = ({sample.id: found[sample.id] for sample in samples} for found in (lines, likelihoods))
    first = next(iter(likelihoods.values()))
    conditions, n = tuple(first["log_p"]), max(line["n_asked"] for line in lines.values())
    shape = len(samples), n
    names = next((c["valence"] for line in lines.values() for c in line["completions"]), {})
    numbers, n_tokens = np.full(shape, -1), np.zeros(shape, dtype=int)
    log_p = np.full((len(samples), len(conditions), n), np.nan)
    valence, shares = {name: np.full(shape, np.nan) for name in names}, np.zeros(shape, dtype=bool)
    for i, sample in enumerate(samples):
        own, found = lines[sample.id]["completions"], likelihoods[sample.id]
        places = [completion["generation"] for completion in own]
        numbers[i, places] = text_numbers([completion["text"] for completion in own])
        n_tokens[i, places] = found["n_tokens"]
        log_p[i][:, places] = [found["log_p"][condition] for condition in conditions]
        injections = [sample.injection(polarity) or "" for polarity in POLARITIES]
        shares[i, places] = [
            any(shares_content_word(c["text"], injection, besides=[sample.stem]) for injection in injections)
            for c in own
        ]
        for name, values in valence.items():
            values[i, places] = [completion["valence"][name] for completion in own]
    data = TiltData(tuple(s.id for s in samples), conditions, numbers, n_tokens, log_p, valence, shares)
    counts = {
        "n_asked": sum(line["n_asked"] for line in lines.values()),
        "n_empty": sum(line["n_asked"] - len(line["completions"]) for line in lines.values()),
        "n_altered": sum(line["n_altered"] for line in likelihoods.values()),
    }
    return data, counts


def summarise_tilt(
    files: RunDirectory, samples: PromptSet, frame: pd.DataFrame, config: ScoringConfig
) -> dict[str, Any]:
    """Every number about the tilt of a run that holds it, as ``tilt``; ``tables/tilt.csv`` has one row a sample.

    Where no answer to any control prompt has a sentence that is scored, there is none, which is warned of.
    """
    data, counts = read_tilt(files, samples)
    if not data.there.any():
        warnings.warn(
            "tilt: no answer to a control prompt has a sentence that is scored; the run is without tilt",
            LeakmechWarning,
            stacklevel=2,
        )
        return {}
    told, sampled = sampled_shift(frame, config.cleaning)
    found = tilt_statistics(data, sampled=sampled, seed=config.seed, draws=config.bootstrap_draws)
    write_table(files.path / "tables" / "tilt.csv", per_sample(data, sampled))
    return {"tilt": {"estimator": data.headline, **counts, **found, "sampled": told}}


def per_sample(data: TiltData, sampled: PerSample) -> pd.DataFrame:
    """One row a sample: its completions, the tilt of each prompt in both forms, and why there is none."""
    columns: dict[str, Any] = {
        "sample": data.samples,
        "n_completions": data.there.sum(axis=1),
        "n_distinct": data.n_distinct(data.there),
        "left_out": data.reasons(data.headline, data.there),
    }
    for form in FORMS:
        tilts = data.tilts(form)
        columns |= {f"{form}_{name}": tilts[:, i] for i, name in enumerate(data.conditions)}
        columns[f"{form}_shift"] = data.shift(tilts, "positive", "negative")
    for name in list(data.valence)[1:]:
        columns[shift_column(name)] = data.shift(data.tilts("per_token", estimator=name), "positive", "negative")
    return pd.DataFrame(columns | {"sampled_shift": sampled})
