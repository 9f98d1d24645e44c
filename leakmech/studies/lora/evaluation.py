"""What early stopping goes by: how selective is the adapter so far, on samples that it is not trained on?

    score = 2 / (1 / R + 1 / T),    R leakage reduction, T retention of relevant affect, each clipped to [0, 1]

from small benchmark runs of base and adapted model with the same noise (:mod:`leakmech.side_effects.selectivity`, which
also counts fluency: here an adapter that breaks the text is left to the final comparison). Where training pairs the
stems of relevant samples with injections of other themes, so does R: an adapter that tells sets of texts apart, and not
whether injection and stem belong together, has a low score.

:class:`Pairing` makes the two sides of what an adapter is to tell apart from samples of relevant affect.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from leakmech.core.progress import Progress, no_progress
from leakmech.core.store import append_jsonl
from leakmech.datasets.clear_pairs import Encode, clearly_irrelevant, clearly_relevant
from leakmech.datasets.relation import mismatched, with_exchanged, without_self_reports
from leakmech.datasets.samples import CONDITIONS, POLARITIES, PromptSet, load_dataset, pooled
from leakmech.models.load import LoadedModel
from leakmech.scoring.leakage import LeakageScores
from leakmech.scoring.records import leakage_scores
from leakmech.scoring.semantic import load_encoder
from leakmech.side_effects.selectivity import Pair, harmonic_mean, leakage_reduction, retention
from leakmech.studies.benchmark.run import run_benchmark
from leakmech.studies.benchmark.settings import BenchConfig
from leakmech.training.settings import ClearPairs, LoraTrainingConfig

SCORES = "scores.jsonl"
_DRAWS = 100  # the intervals are not used
_AT_ONCE = 512
"""Texts that are embedded before progress is shown."""


class TuneSelectivity:
    """Scores an adapted model on the samples that ``config.tune`` names.

    Call :meth:`measure_base` before the base model gets an adapter, which changes its modules in place. `folder` keeps
    the base model's runs, the samples, and every score with its two parts (:data:`SCORES`).
    """

    def __init__(
        self, loaded: LoadedModel, config: LoraTrainingConfig, folder: Path, progress: Progress = no_progress
    ) -> None:
        if config.tune is None:
            raise AssertionError("needs samples to choose on")
        self._loaded, self._config, self._tune, self._folder = loaded, config, config.tune, folder
        relevant = without_self_reports(pooled([_to_tune(load_dataset(name)) for name in self._tune.relevant]))
        number = self._tune.samples
        leakage = _to_tune(load_dataset(self._tune.leakage)).take(number)
        pairing = Pairing.of(config, progress)
        if config.mismatched:
            leakage = with_exchanged(leakage, pairing.irrelevant(relevant).spread(number))
        relevant = pairing.relevant(relevant)
        self._sets = {"leakage": leakage, "relevant": relevant.spread(number)}
        self._base: dict[str, LeakageScores] = {}

    def measure_base(self) -> None:
        """Measure the base model, or read what is there of it."""
        self._base = {name: self._scores(self._loaded.model, name, self._folder) for name in self._sets}

    def __call__(self, model: Any) -> float:
        """Score of a Hugging Face or PEFT model with the base model's tokenizer."""
        with tempfile.TemporaryDirectory() as folder:
            found = {name: self._scores(model, name, Path(folder)) for name in self._sets}
        pairs = {name: Pair(self._base[name], scores) for name, scores in found.items()}
        reduction = leakage_reduction(pairs["leakage"], draws=_DRAWS).value
        kept = retention(pairs["relevant"], draws=_DRAWS).value
        score = float(harmonic_mean(np.array([[reduction, kept]]))[0])
        score = score if np.isfinite(score) else 0.0
        append_jsonl(self._folder / SCORES, [{"score": score, "leakage_reduction": reduction, "retention": kept}])
        return score

    def _scores(self, model: Any, name: str, folder: Path) -> LeakageScores:
        c = self._config
        config = BenchConfig.parse(
            {
                "model": c.model,
                "dataset": str(self._file(name)),
                "generations": self._tune.generations,
                "noise_floor": False,
                "conditions": POLARITIES if name == "relevant" else CONDITIONS,
                "bootstrap_draws": _DRAWS,
                "seed": c.seed,
                "prompt_form": c.prompt_form,
                "system": c.system,
                "instruction": c.instruction,
                "task": c.task,
            }
        )
        topic, tokenizer = name != "relevant", self._loaded.tokenizer
        result = run_benchmark(config, model=model, tokenizer=tokenizer, out=folder / name, topic=topic)
        return leakage_scores(result.scores, config.cleaning)

    def _file(self, name: str) -> Path:
        path = self._folder / f"{name}.jsonl"
        self._sets[name].save(path)
        return path


def _to_tune(samples: PromptSet) -> PromptSet:
    """The samples marked ``tune``, of a set that has any marks: the others are for fitting or reporting."""
    return samples.split("tune") if any(sample.split is not None for sample in samples) else samples


# -- pairing -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairing:
    """Pairs of injections and stems; `seed` decides which stem gets whose injections."""

    clear: ClearPairs | None = None
    """Bounds for pairs that leave no doubt (:mod:`leakmech.datasets.clear_pairs`); None: all pairs."""
    seed: int = 0
    progress: Progress = no_progress
    """Of reading the texts, which takes a minute or two for thousands of them."""

    @classmethod
    def of(cls, config: LoraTrainingConfig, progress: Progress = no_progress) -> Pairing:
        """Read it from the settings of a training."""
        return cls(config.clear_pairs, config.seed, progress)

    def relevant(self, samples: PromptSet) -> PromptSet:
        """The samples whose injections should show."""
        if self.clear is None:
            return samples
        return clearly_relevant(samples, self._encoder(self.clear), least=self.clear.relevant)

    def irrelevant(self, samples: PromptSet, *, number: int = 0) -> PromptSet:
        """Stems that :meth:`relevant` keeps, with injections of other samples; another `number` gives other pairs."""
        seed = self.seed + number
        if self.clear is None:
            return mismatched(samples, seed=seed)
        encode, most = self._encoder(self.clear), self.clear.irrelevant
        return clearly_irrelevant(self.relevant(samples), samples, encode, most=most, seed=seed)

    def _encoder(self, clear: ClearPairs) -> Encode:
        """A sentence encoder that reads a text once, however often it is asked."""
        encoder, known = load_encoder(clear.encoder), _embedded(clear.encoder)

        def encode(texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
            new = [text for text in dict.fromkeys(texts) if text not in known]
            if new:
                with self.progress("embedding stems and injections", total=len(new), done=0) as advance:
                    for start in range(0, len(new), _AT_ONCE):
                        part = new[start : start + _AT_ONCE]
                        known.update(zip(part, encoder(part), strict=True))
                        advance(len(part))
            return np.stack([known[text] for text in texts])

        return encode


@cache
def _embedded(_name: str) -> dict[str, Float[np.ndarray, " d"]]:
    """What an encoder made of texts so far."""
    return {}
