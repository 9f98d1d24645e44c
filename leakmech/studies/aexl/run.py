"""AEXL from any corpus: read, score, select, combine, check, write, with a data card beside the samples.

:mod:`leakmech.studies.aexl.selection` says what is computed, :mod:`~leakmech.studies.aexl.scan` reads and
:mod:`~leakmech.studies.aexl.choice` chooses. Here the parts are put together: the corpus is streamed
once, usable sentences are scored in chunks whose scores stay in the user's cache, and memory holds one chunk, the best
`m` sentences of each class and a pool of stems, however long the corpus is. A build that was interrupted is begun again
with the same call: chunks that were scored are read, not scored.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leakmech.core.errors import UsageError
from leakmech.core.progress import Shown, shown_progress
from leakmech.core.store import read_json, sweep, write_json, write_text
from leakmech.datasets.corpus import open_corpus
from leakmech.datasets.filters import words
from leakmech.datasets.samples import INJECTIONS, PromptSet, Sample, load_dataset
from leakmech.reports.tables import Table
from leakmech.runs.interrupt import interruptible
from leakmech.runs.settings import DEFAULT_MODEL
from leakmech.scoring.expression import Estimator, load_estimator
from leakmech.scoring.semantic import load_encoder
from leakmech.studies.aexl.card import card_markdown, card_tables
from leakmech.studies.aexl.check import token_counter
from leakmech.studies.aexl.choice import choose
from leakmech.studies.aexl.scan import Scan
from leakmech.studies.aexl.score_cache import ScoreCache
from leakmech.studies.aexl.selection import Candidate, Combining, check_disjoint, combine
from leakmech.studies.aexl.settings import FIT, TEST, TUNE, AexlSettings, file_of_test_split

FORMAT_VERSION = 1


@dataclass(frozen=True)
class AexlResult:
    """The data set that was built.

    Attributes
    ----------
    samples
        All samples; ``samples.split("test")`` and so on.
    files
        The file of each split.
    card
        Everything that the data card says (also in the .json file beside the samples).
    """

    samples: PromptSet
    files: dict[str, Path]
    card: dict[str, Any]

    def tables(self) -> list[Table]:
        """Counts of every stage, and lengths."""
        return card_tables(self.card)


def build_aexl(
    out: str | Path,
    *,
    estimator: str | Estimator = "embedded",
    tokenizer: str | None = DEFAULT_MODEL,
    progress: Shown = None,
    **settings: Any,
) -> AexlResult:
    """Build AEXL (Köprü et al. 2025, Algorithm 1) from a corpus.

    Parameters
    ----------
    out
        A .jsonl file for the test split; ``<name>_fit.jsonl`` and ``<name>_tune.jsonl``, the data card ``<name>.md``
        and the same as ``<name>.json`` are written beside it. A folder stands for ``aexl.jsonl`` in it.
    estimator
        Name of an expression estimator, or one that is loaded already.
    tokenizer
        Model whose tokenizer counts the tokens of the card; None leaves them out.
    progress
        A function that draws progress, True or False; None draws it in a notebook only.
    **settings
        Fields of :class:`AexlSettings`, e.g. ``samples=100, fit=50, seed=0``; ``algorithm="paper"`` leaves out what is
        added to the paper's algorithm.

    Returns
    -------
    AexlResult
        The same settings, corpus and estimator give the same files, to the byte.

    Raises
    ------
    UsageError
        A setting is out of range, the corpus cannot be read or holds too few sentences, or `out` holds a data set
        that was built otherwise.
    InterruptedRunError
        Ctrl-C or SIGTERM; what was scored is kept and the same call goes on from there.
    """
    chosen = AexlSettings.parse(settings | {"estimator": getattr(estimator, "name", estimator)})
    path = file_of_test_split(Path(out))
    _refuse_other(path, chosen)
    _sweep(path)
    corpus = open_corpus(
        chosen.corpus,
        text_column=chosen.text_column,
        group_column=chosen.group_column,
        subset=chosen.subset,
        split=chosen.corpus_split,
        revision=chosen.revision,
    )
    encoder = load_encoder(chosen.encoder) if chosen.max_similarity < 1 else None
    count = token_counter(tokenizer) if tokenizer else None
    cache = ScoreCache(load_estimator(estimator) if isinstance(estimator, str) else estimator)
    with interruptible(path, lambda: "scores so far are saved", "the same call"):
        found = Scan(corpus, chosen, cache).run(shown_progress(progress))
        drawn, stems = choose(found, chosen, cache)
        combining = Combining(
            name="aexl",
            seed=chosen.seed,
            match_length=chosen.match_length,
            max_similarity=chosen.max_similarity,
            separate=chosen.separate_sources,
            embed=encoder or _no_embedding,
        )
        samples = combine(drawn, stems, sizes=chosen.sizes, combining=combining)
    check_disjoint(samples, chosen.max_overlap)
    if chosen.draws_stems:
        whole = {stem.text for stem in stems if stem.text == stem.origin}
        found.counts["stems"] |= {"whole_sentences": sum(sample.stem in whole for sample in samples)}
    _refuse_changed(path, samples, chosen)
    files = _write_samples(path, samples, chosen)
    card = _card(
        found,
        files,
        encoder=encoder.details if encoder else None,
        tokenizer=tokenizer,
        lengths=_lengths(drawn, samples, count),
    )
    _write_card(path, card, chosen)
    return AexlResult(PromptSet(path.stem, tuple(samples)), files, card)


def _no_embedding(texts: Sequence[str]) -> Any:
    raise AssertionError(f"nothing asks for the meaning of {len(texts)} texts")


# -- writing -----------------------------------------------------------------------------------------------------------


def _refuse_other(path: Path, settings: AexlSettings) -> None:
    """Refuse to write over a data set of other settings, and over any file that is not as a build wrote it."""
    card, marker = path.with_suffix(".json"), _marker(path)
    if card.exists():
        stored = read_json(card)
        if stored.get("settings") != settings.identity():
            raise UsageError(f"{path}: exists and was built with other settings; choose another --out, or delete it")
        written = {entry["file"]: entry["sha256"] for entry in stored.get("files", {}).values()}
        # Cards of older versions have no hash of their page.
        written |= {card.name: None, path.with_suffix(".md").name: stored.get("page")}
    else:
        unfinished = read_json(marker) if marker.exists() else {}
        written = unfinished.get("files", {}) if unfinished.get("settings") == settings.identity() else {}
    for file in _names(path):
        if not file.exists():
            continue
        if file.name not in written:
            raise UsageError(f"{file}: exists and is not of this build; choose another --out, or delete it")
        if written[file.name] not in (None, _sha256(file)):
            raise UsageError(f"{file}: was changed after it was built; choose another --out, or delete it")


def _sweep(path: Path) -> None:
    """Remove the temporary files of a build that was killed."""
    written = (*_names(path), _marker(path))
    sweep(file for name in written for file in path.parent.glob(f".{glob.escape(name.name)}.*.tmp"))


def _refuse_changed(path: Path, samples: Sequence[Sample], settings: AexlSettings) -> None:
    """Refuse to put other samples into a finished data set: its corpus or estimator is another one by now."""
    if not path.with_suffix(".json").exists():
        return
    for split, file in {split: _split_file(path, split) for split in settings.sizes}.items():
        own = tuple(sample for sample in samples if sample.split == split)
        if file.exists() and load_dataset(file).samples != own:
            raise UsageError(
                f"{file}: holds other samples than these settings give now, so that its corpus or estimator has "
                "changed; choose another --out, or delete it"
            )


def _split_file(path: Path, split: str) -> Path:
    return path if split == TEST else path.with_stem(f"{path.stem}_{split}")


def _names(path: Path) -> list[Path]:
    """All files that a build may write."""
    return [*(_split_file(path, split) for split in (TEST, FIT, TUNE)), *map(path.with_suffix, (".md", ".json"))]


def _write_samples(path: Path, samples: Sequence[Sample], settings: AexlSettings) -> dict[str, Path]:
    files = {split: _split_file(path, split) for split in settings.sizes}
    for split, file in files.items():
        own = tuple(sample for sample in samples if sample.split == split)
        _note(path, settings, file, None)  # a kill may come before its hash is noted
        PromptSet(file.stem, own).save(file)
        _note(path, settings, file, _sha256(file))
    return files


def _write_card(path: Path, card: dict[str, Any], settings: AexlSettings) -> None:
    """Write the card to be read and, last, the one that says that the build is complete."""
    page = path.with_suffix(".md")
    _note(path, settings, page, None)
    write_text(page, card_markdown(card))
    card["page"] = _sha256(page)
    write_json(path.with_suffix(".json"), card)
    _marker(path).unlink(missing_ok=True)


# What a build has written so far stands in a hidden file beside it, until the card says it.


def _marker(path: Path) -> Path:
    return path.with_name(f".{path.stem}.unfinished.json")


def _note(path: Path, settings: AexlSettings, file: Path, sha256: str | None) -> None:
    """Say of a file that this build writes it, or has written it."""
    marker = _marker(path)
    known = read_json(marker)["files"] if marker.exists() else {}
    write_json(marker, {"settings": settings.identity(), "files": known | {file.name: sha256}})


def _card(
    found: Scan,
    files: Mapping[str, Path],
    *,
    encoder: Mapping[str, Any] | None,
    tokenizer: str | None,
    lengths: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that the data card says."""
    settings = found.settings
    return {
        "format_version": FORMAT_VERSION,
        "kind": "dataset",
        "settings": settings.identity(),
        "departures": settings.departures(),
        "corpus": dict(found.corpus.details) | {"texts": found.n_texts, "hash": found.hash},
        "estimator": dict(found.cache.estimator.details),
        "encoder": encoder,
        "counts": found.counts,
        "tokenizer": tokenizer,
        "lengths": lengths,
        "files": {
            split: {"file": file.name, "samples": settings.sizes[split], "sha256": _sha256(file)}
            for split, file in files.items()
        },
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _lengths(
    drawn: dict[str, list[Candidate]], samples: Sequence[Sample], count: Callable[[list[str]], list[int]] | None
) -> dict[str, dict[str, float]]:
    """Mean lengths of the injections of each condition, as drawn and as chosen, and of the stems."""
    texts = {f"{label} drawn": [one.text for one in drawn[label]] for label in INJECTIONS}
    texts |= {f"{label} chosen": [getattr(sample, label) for sample in samples] for label in INJECTIONS}
    texts["stem"] = [sample.stem for sample in samples]
    lengths: dict[str, dict[str, float]] = {}
    for name, own in texts.items():
        lengths[name] = {"words": round(sum(len(words(text)) for text in own) / len(own), 2)}
        if count is not None:
            lengths[name]["tokens"] = round(sum(count(own)) / len(own), 2)
    return lengths
