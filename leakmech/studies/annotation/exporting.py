"""Pairs of a finished run on blinded sheets, and the key.

Texts are those of the echo-free cleaning policy, whatever the run's headline is: a sentence that repeats the injection
would show it. What the blinding cannot hide is a generation that goes on about the injected sentence in other words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from leakmech.core.errors import UsageError
from leakmech.core.seeds import numpy_generator
from leakmech.core.store import file_hash, write_json, write_text
from leakmech.datasets.samples import POLARITIES
from leakmech.reports.examples import printable, sample_texts
from leakmech.scoring.leakage import LeakageScores
from leakmech.scoring.records import column, leakage_scores
from leakmech.scoring.sentence import Cleaning
from leakmech.scoring.topic import shares_content_word
from leakmech.studies.annotation.form import annotation_form, instructions
from leakmech.studies.annotation.settings import ExportConfig
from leakmech.studies.annotation.sheets import Item, Key, Side, sheet_text
from leakmech.studies.benchmark.result import BenchResult

CLEANING: Cleaning = "echo-free"

_ID_LETTERS = list("bcdfghjkmnpqrstvwxz")  # neither words nor numbers: a spreadsheet would read 1e5 as 100000
_ID_LENGTH = 7
_TEXT = column(CLEANING, "text")


@dataclass(frozen=True)
class AnnotationExport:
    """What :func:`export_annotation` wrote.

    Attributes
    ----------
    path
        The folder.
    key
        The content of its ``key.json``.
    """

    path: Path
    key: Key


def export_annotation(
    run: str | Path, *, annotators: int = 3, n: int = 100, out: str | Path | None = None, seed: int = 0
) -> AnnotationExport:
    """Write blinded sheets for annotators: ``sheets/`` is handed out, ``key.json`` beside it is kept.

    Half of the pairs are of positive prompts, half of negative ones, over as many samples as possible. Pairs of which
    a sentence was not scored are left out and counted.

    Parameters
    ----------
    run
        Directory of a finished benchmark run.
    annotators
        Number of people; everybody judges all pairs, each in another order.
    n
        Number of pairs.
    out
        A folder that does not exist or is empty; by default ``annotation`` in the run.
    seed
        Seed of the choice and the orders; the same run, seed and numbers give the same files.

    Returns
    -------
    AnnotationExport
        ``.path`` (the folder) and ``.key`` (which sentence was which).

    Raises
    ------
    RunDirectoryError
        `run` is not a finished benchmark run.
    UsageError
        `annotators` or `n` is below 1, the run has too few scored pairs, or `out` is in use.
    """
    chosen = ExportConfig.parse({"annotators": annotators, "n": n, "seed": seed}, where="annotate export")
    result = BenchResult.load(run)
    folder = result.path / "annotation" if out is None else Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: is not an empty folder, and answers may be in it; choose another --out")
    key = _make_key(result, annotators=chosen.annotators, n=chosen.n, seed=chosen.seed)
    for name in key.annotators:
        write_text(folder / "sheets" / f"{name}.csv", sheet_text(key, name))
        write_text(folder / "sheets" / f"{name}.html", annotation_form(key, name))
    write_text(folder / "sheets" / "instructions.txt", instructions(chosen.n))
    write_json(folder / "key.json", key.to_json())
    return AnnotationExport(folder, key)


def choose_pairs(
    valid: Bool[np.ndarray, "polarities samples generations"], *, n: int, generator: np.random.Generator
) -> list[tuple[int, int, int]]:
    """Addresses of `n` valid pairs: as many of each polarity, each from as many samples as possible.

    Every sample gives one pair before any gives a second. The polarities go through samples and generations in
    opposite orders, so that together they use more samples, and a control sentence twice only where they must.
    """
    shares = generator.permutation([n - n // 2, n // 2])
    samples = generator.permutation(valid.shape[1])
    generations = generator.permuted(np.tile(np.arange(valid.shape[2]), (valid.shape[1], 1)), axis=1)
    chosen: list[tuple[int, int, int]] = []
    for polarity, share in enumerate(shares):
        available = int(valid[polarity].sum())
        if available < share:
            raise UsageError(
                f"annotate export: {n} pairs need {share} of {POLARITIES[polarity]} prompts, and the run has "
                f"{available} that are scored; at most {2 * int(valid.sum(axis=(1, 2)).min())} pairs can be had"
            )
        step = 1 if polarity == 0 else -1
        turns = {s: [int(i) for i in generations[s, ::step] if valid[polarity, s, i]] for s in samples[::step].tolist()}
        rounds = [
            (polarity, s, own[turn]) for turn in range(valid.shape[2]) for s, own in turns.items() if turn < len(own)
        ]
        chosen += rounds[:share]
    return chosen


def _make_key(result: BenchResult, *, annotators: int, n: int, seed: int) -> Key:
    """Choose pairs, give them ids and orders; everything that is drawn follows from run, numbers and seed."""
    run_hash = file_hash(result.files.scores_file)
    generator = numpy_generator("annotation", run_hash, annotators, n, seed)
    scores = leakage_scores(result.scores, CLEANING)
    scored = {condition: ~np.isnan(values).any(axis=2) for condition, values in scores.probabilities.items()}
    valid = np.stack([scored["control"] & scored[condition] for condition in POLARITIES])
    export, *ids = _random_ids(n + 1, generator)
    chosen = choose_pairs(valid, n=n, generator=generator)
    items = dict(sorted(zip(ids, _items(result, chosen, scores), strict=True)))
    return Key(
        export=export,
        run={"name": result.path.resolve().name, "hash": run_hash}
        | {name: result.summary[name] for name in ("model", "dataset", "estimator")},
        seed=seed,
        cleaning=CLEANING,
        n_available=int(valid.sum()),
        n_unscored=int((~valid).sum()),
        items=items,
        annotators={f"annotator-{i + 1}": _order(list(items), generator) for i in range(annotators)},
    )


def _items(result: BenchResult, addresses: Sequence[tuple[int, int, int]], scores: LeakageScores) -> Iterator[Item]:
    """The pairs at (polarity, sample, generation)."""
    main = result.scores.loc[~result.scores["resampled"]]
    texts = {key: group.iloc[0] for key, group in main.groupby(["sample", "condition", "generation"])[_TEXT]}
    prompts, probabilities = sample_texts(result), scores.probabilities
    for polarity, position, generation in addresses:
        sample, condition = prompts[scores.samples[position]], POLARITIES[polarity]
        control, test = (texts[sample.id, name, generation] for name in ("control", condition))
        yield Item(
            sample=sample.id,
            condition=condition,
            generation=generation,
            stem=printable(sample.stem),
            control=printable(control),
            test=printable(test),
            names_injection=shares_content_word(test, sample.injections[condition], besides=(sample.stem, control)),
            p_control=tuple(probabilities["control"][position, generation].tolist()),
            p_test=tuple(probabilities[condition][position, generation].tolist()),
        )


def _random_ids(number: int, generator: np.random.Generator) -> list[str]:
    """Different names that say nothing."""
    names: dict[str, None] = {}
    while len(names) < number:
        names["".join(generator.choice(_ID_LETTERS, size=_ID_LENGTH))] = None
    return list(names)


def _order(items: Sequence[str], generator: np.random.Generator) -> list[tuple[str, Side]]:
    """An annotator's order of the items; half of them show the test sentence first."""
    sides: list[Side] = ["test" if i % 2 else "control" for i in generator.permutation(len(items))]
    return [(items[int(i)], sides[int(i)]) for i in generator.permutation(len(items))]
