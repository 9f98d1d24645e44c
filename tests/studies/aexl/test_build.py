"""Building AEXL: the same file for the same settings, whatever was interrupted; what is missing is said."""

from __future__ import annotations

import itertools
import json
import socket
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from word_estimator import WordEstimator

import leakmech
from leakmech.cli.app import app
from leakmech.core.errors import ConfigError, DatasetError, InterruptedRunError, UsageError
from leakmech.core.store import content_hash
from leakmech.datasets.samples import INJECTIONS
from leakmech.studies.aexl import choice, scan, score_cache
from leakmech.studies.aexl import run as data_build
from leakmech.studies.aexl.check import check_dataset
from leakmech.studies.aexl.run import build_aexl
from leakmech.studies.aexl.selection import check_disjoint

ADJECTIVES = {"positive": "lovely", "neutral": "grey", "negative": "awful"}
THINGS = ["garden", "bridge", "engine", "market", "letter", "station", "museum", "kitchen", "planner", "harbour"]
PLACES = ["Bristol", "Calgary", "Dresden", "Everton", "Fresno", "Geneva", "Hobart", "Izmir", "Jakarta", "Kyoto"]


def sentences(label: str, n: int) -> list[str]:
    pairs = itertools.islice(itertools.product(THINGS, PLACES), n)
    return [f"My {ADJECTIVES[label]} {label}{thing} arrived from {place}{label} today." for thing, place in pairs]


def write_corpus(path: Path, *, n: int = 60, labels=INJECTIONS) -> Path:
    stems = [f"The {thing} {place.lower()} is open on Mondays." for thing in THINGS for place in PLACES]
    texts = [text for label in labels for text in sentences(label, n)] + stems
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LEAKMECH_CACHE", str(tmp_path / "cache"))
    for module in (scan, choice):
        monkeypatch.setattr(module, "CHUNK", 16)


@pytest.fixture
def build(tmp_path):
    """``build(**settings)``: AEXL from the corpus of made-up sentences, without encoder and tokenizer."""
    corpus = write_corpus(tmp_path / "corpus.jsonl")

    def run(out="out/aexl.jsonl", **settings):
        defaults = {"corpus": str(corpus), "samples": 6, "fit": 3, "tune": 2, "max_similarity": 1.0, "max_overlap": 0.9}
        estimator = settings.pop("estimator", None) or WordEstimator()
        return build_aexl(tmp_path / out, estimator=estimator, tokenizer=None, **(defaults | settings))

    return run


def contents(result) -> list[bytes]:
    return [file.read_bytes() for file in result.files.values()]


def test_samples_hold_one_injection_of_each_class_in_disjoint_splits(build):
    result = build()
    assert {split: len(leakmech.load_dataset(file)) for split, file in result.files.items()} == {
        "test": 6,
        "fit": 3,
        "tune": 2,
    }
    assert [file.name for file in result.files.values()] == ["aexl.jsonl", "aexl_fit.jsonl", "aexl_tune.jsonl"]
    samples = [sample for file in result.files.values() for sample in leakmech.load_dataset(file)]
    check_disjoint(samples, 0.9)
    for sample in samples:
        for label, adjective in ADJECTIVES.items():
            assert f"My {adjective} {label}" in getattr(sample, label)
        assert sample.stem.startswith("The ")
        assert sample.stem.endswith(" is")


@pytest.mark.fault("F11", "rows", "an empty line in a corpus", "passed over")
@pytest.mark.fault("R10", "text", "halves of surrogate pairs in a corpus", "read as U+FFFD")
def test_empty_lines_and_halves_of_emojis_in_a_corpus_do_not_stop_a_build(build, tmp_path):
    plain = build("plain/a.jsonl")
    file = write_corpus(tmp_path / "holes.jsonl")
    half = json.dumps({"text": "I love this \ud800 garden very much."})
    file.write_text(file.read_text().replace("\n", "\n\n", 3) + half + "\n")
    assert [s.to_dict() for s in build("holes/a.jsonl", corpus=str(file)).samples] == [
        s.to_dict() for s in plain.samples
    ]


def test_no_sentence_is_cut_to_a_stem_and_injected_too(build, tmp_path):
    texts = [f"My grey {thing} {place.lower()} is open for all." for thing in THINGS for place in PLACES]
    texts += [text for label in ("positive", "negative") for text in sentences(label, 60)]
    corpus = tmp_path / "both.txt"
    corpus.write_text("".join(f"{text}\n{text.upper()}\n" for text in texts))
    result = build(corpus=str(corpus), m=14, n=12, fit=0, tune=0)
    for sample in result.samples:
        assert sample.stem.startswith("My grey ")
        assert not any(
            getattr(other, label).startswith(sample.stem) for other in result.samples for label in INJECTIONS
        )


def test_the_same_settings_give_the_same_files_and_another_seed_others(build):
    first = build()
    again = build("again/aexl.jsonl")
    assert contents(first) == contents(again)
    assert (first.files["test"].with_suffix(".json")).read_text() == again.files["test"].with_suffix(
        ".json"
    ).read_text()
    assert contents(build("seed/aexl.jsonl", seed=1)) != contents(first)


def test_a_build_that_was_interrupted_goes_on_where_it_stopped(build, tmp_path, monkeypatch):
    whole = build("whole/aexl.jsonl")
    monkeypatch.setenv("LEAKMECH_CACHE", str(tmp_path / "other-cache"))
    with pytest.raises(InterruptedRunError, match="scores so far are saved; continue with: the same call"):
        build(estimator=WordEstimator(fail_after=4))
    assert not (tmp_path / "out").exists()
    rest = WordEstimator()
    resumed = build(estimator=rest)
    assert contents(resumed) == contents(whole)
    everything = WordEstimator()
    monkeypatch.setenv("LEAKMECH_CACHE", str(tmp_path / "third-cache"))
    build("third/aexl.jsonl", estimator=everything)
    assert rest.n_read == everything.n_read - 4 * 16


def test_other_choices_from_the_same_corpus_read_scores_instead_of_texts(build):
    build()
    again = WordEstimator()
    build("other/aexl.jsonl", samples=4, m=30, n=20, seed=0, stem_pool=220, estimator=again)
    assert again.n_read == 0


def test_with_another_seed_the_estimator_reads_no_more_than_the_pool_of_stems(build):
    first = build()
    again = WordEstimator()
    build("seed/aexl.jsonl", seed=1, estimator=again)
    assert again.n_read <= first.card["counts"]["stems"]["pool"]


def test_another_estimator_never_gets_these_scores(build):
    build()
    other = WordEstimator()
    other.details = {"name": "adjectives", "version": 2}
    build("other/aexl.jsonl", estimator=other)
    assert other.n_read > 0


def test_a_damaged_chunk_is_named(build, tmp_path):
    build()
    path = next((tmp_path / "cache" / "scores").glob("*/*.npy"))
    path.write_bytes(b"no array")
    with pytest.raises(leakmech.core.errors.StorageError, match=f"{path.name}: damaged"):
        build("again/aexl.jsonl")


def test_the_card_counts_every_stage(build):
    card = build().card
    counts = card["counts"]
    assert (counts["texts"], counts["sentences"]) == (280, 280)
    assert counts["usable"] + sum(v for k, v in counts["refused"].items() if k != "unsure class") == 280
    assert counts["classes"]["positive"]["found"] == 60
    assert counts["classes"]["positive"]["kept"] == 17
    assert counts["classes"]["positive"]["drawn"] == 14
    assert card["settings"]["m"] == 17
    assert set(card["files"]) == {"test", "fit", "tune"}


def test_the_card_names_hashes_of_the_files_that_were_written(build):
    import hashlib

    result = build()
    for split, file in result.files.items():
        assert result.card["files"][split]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    text = result.files["test"].with_suffix(".md").read_text()
    assert "no human judged" in text
    assert "| leans on another sentence |" not in text, "a rule that refused nothing has no row"


def test_a_class_that_is_missing_is_named_with_the_counts_of_all(build, tmp_path):
    corpus = write_corpus(tmp_path / "half.jsonl", labels=("positive", "negative"))
    corpus.write_text("".join(line for line in corpus.open() if "is open" not in line))
    message = r"class neutral \(found of needed: positive 60 of 17, neutral 0 of 17, negative 60 of 17\)"
    with pytest.raises(DatasetError, match=message):
        build(corpus=str(corpus))


def test_fewer_sentences_than_m_are_named_with_the_counts_of_all(build):
    with pytest.raises(DatasetError, match=r"class positive \(found of needed: positive 60 of 90, .* or lower --m"):
        build(m=90)


def test_near_duplicates_can_leave_too_few(build):
    with pytest.raises(DatasetError, match="are not near duplicates, fewer than n = 14; raise --m, lower --n"):
        build(max_overlap=0.4)


def test_a_file_of_other_settings_is_not_overwritten(build, tmp_path):
    build()
    with pytest.raises(UsageError, match="exists and was built with other settings"):
        build(seed=1)
    foreign = tmp_path / "mine.jsonl"
    foreign.write_text("my own data")
    with pytest.raises(UsageError, match=r"mine\.jsonl: exists"):
        build("mine.jsonl")
    assert foreign.read_text() == "my own data"


@pytest.mark.fault("X345", "runs", "AEXL built again after its corpus has changed", "refused; the data set stays")
def test_a_finished_data_set_is_not_replaced_by_that_of_another_corpus(build, tmp_path):
    before = contents(build())
    assert contents(build()) == before
    write_corpus(tmp_path / "corpus.jsonl", n=50)
    with pytest.raises(UsageError, match="corpus or estimator has changed"):
        build()
    assert [file.read_bytes() for file in sorted((tmp_path / "out").glob("*.jsonl"))] == before


SIBLINGS = ("aexl_fit.jsonl", "aexl_tune.jsonl", "aexl.md")


@pytest.mark.parametrize("name", SIBLINGS)
@pytest.mark.fault("R08", "runs", "a file of another origin has the name of a split or card", "refused before reading")
def test_no_file_of_another_origin_is_overwritten(build, tmp_path, name, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("my own data")
    monkeypatch.setattr(data_build, "open_corpus", None)
    with pytest.raises(UsageError, match=rf"{name}: exists and is not of this build"):
        build()
    assert (tmp_path / "out" / name).read_text() == "my own data"


@pytest.mark.parametrize("name", ["aexl.jsonl", *SIBLINGS])
@pytest.mark.fault("R08", "runs", "a split or card is edited by hand after the build", "not replaced without a word")
def test_what_was_edited_after_a_build_is_not_overwritten(build, tmp_path, name):
    build()
    with (tmp_path / "out" / name).open("a") as file:
        file.write("\n")
    edited = (tmp_path / "out" / name).read_bytes()
    with pytest.raises(UsageError, match=rf"{name}: was changed after it was built"):
        build()
    assert (tmp_path / "out" / name).read_bytes() == edited


@pytest.mark.fault("X413", "runs", "a split of a finished AEXL build is deleted", "the same call makes it again")
def test_a_split_that_is_gone_is_made_again(build, tmp_path):
    before = contents(build())
    (tmp_path / "out" / "aexl_fit.jsonl").unlink()
    assert contents(build()) == before


@pytest.mark.parametrize("n_files", range(12))
@pytest.mark.fault("R07", "runs", "build-aexl is killed after any of its files", "the same call goes on")
def test_a_build_killed_between_its_files_goes_on(build, tmp_path, monkeypatch, n_files):
    build()
    expected = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    replace, n = Path.replace, itertools.count()

    def killed(self, target):
        if Path(target).parent.name == "again" and next(n) == n_files:
            raise KilledError
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KilledError):
        build("again/aexl.jsonl")
    monkeypatch.undo()
    monkeypatch.setenv("LEAKMECH_CACHE", str(tmp_path / "cache"))
    build("again/aexl.jsonl")
    assert {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()} == expected


def test_what_a_killed_process_was_writing_is_swept_away(build, tmp_path):
    host, pid = content_hash(socket.gethostname())[:8], 2**22 + 1  # no process has that number
    names = ("aexl.jsonl", "aexl_fit.jsonl", "aexl.json", ".aexl.unfinished.json")
    folder = tmp_path / "out"
    folder.mkdir()
    left = [folder / f".{name}.{host}-{pid}.tmp" for name in names]
    foreign = folder / f".mine.jsonl.{host}-{pid}.tmp"
    for file in (*left, foreign):
        file.write_text("{", encoding="utf-8")
    build()
    assert [file for file in left if file.exists()] == []
    assert foreign.exists()


@pytest.mark.fault("X414", "runs", "a split is edited between a killed build and the next call", "not replaced")
def test_an_edit_after_a_kill_is_not_overwritten(build, tmp_path, monkeypatch):
    def fail(*_):
        raise KilledError

    monkeypatch.setattr(data_build, "card_markdown", fail)
    with pytest.raises(KilledError):
        build()
    (tmp_path / "out" / "aexl_fit.jsonl").write_text("mine")
    with pytest.raises(UsageError, match=r"aexl_fit\.jsonl: was changed after it was built"):
        build()


class KilledError(BaseException):
    """Stands for a kill."""


def test_out_may_be_a_folder_but_no_other_kind_of_file(build, tmp_path):
    assert build("folder").files["test"] == tmp_path / "folder" / "aexl.jsonl"
    with pytest.raises(UsageError, match=r"expected a .jsonl file or a folder"):
        build("aexl.csv")


def test_single_sentence_texts_can_be_asked_for(build, tmp_path):
    corpus = tmp_path / "pairs.jsonl"
    write_corpus(corpus)
    with corpus.open("a") as file:
        file.write(json.dumps({"text": "My lovely cat sleeps. My awful dog barks."}) + "\n")
    assert build("a/aexl.jsonl", corpus=str(corpus)).card["counts"]["sentences"] == 282
    refused = build("b/aexl.jsonl", corpus=str(corpus), sentences="single").card["counts"]["refused"]
    assert refused["text of several sentences"] == 2


def test_unknown_settings_are_refused_before_anything_is_read(build):
    with pytest.raises(ConfigError, match="unknown key 'match_lengths'; did you mean 'match_length'"):
        build(match_lengths=True)


def test_what_was_built_passes_the_check_of_data_sets(build, tmp_path, plain_tokenizer):
    folder = tmp_path / "tokenizer"
    plain_tokenizer.save_pretrained(folder)
    found = check_dataset(build().files["test"], tokenizer=str(folder), estimator="vader")
    assert found.problems == ()


def test_the_cache_keeps_scores_as_they_are_returned(tmp_path):
    cache = score_cache.ScoreCache(WordEstimator(), tmp_path / "scores")
    texts = ["A lovely day.", "An awful day."]
    first = cache.scores(texts)
    assert np.array_equal(first, cache.scores(texts))
    assert first.dtype == np.float32
    assert (cache.computed, cache.reused) == (2, 2)
    assert cache.scores([]).shape == (0, 3)


def test_the_command_builds_prints_and_names_the_files(tmp_path, monkeypatch, plain_tokenizer):
    monkeypatch.setattr(data_build, "load_estimator", lambda name: WordEstimator())
    plain_tokenizer.save_pretrained(tmp_path / "tokenizer")
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    options = ["--corpus", str(corpus), "--max-similarity", "1", "--max-overlap", "0.9", "--no-match-length"]
    options += ["--tokenizer", str(tmp_path / "tokenizer")]
    out = tmp_path / "aexl.jsonl"
    command = ["data", "build-aexl", "--samples", "5", "--fit", "2", "--seed", "3", "--out", str(out), *options]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "texts read" in result.output
    assert len(leakmech.load_dataset(out)) == 5
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["settings"]["seed"] == 3
    assert card["settings"]["match_length"] is False


def test_the_command_that_fetches_says_where_the_archive_is(tmp_path, monkeypatch):
    import pandas as pd

    from leakmech.datasets import archive

    monkeypatch.setattr(archive, "fetch_archive", lambda *, sdist: tmp_path / f"from-{sdist.name}")
    monkeypatch.setattr(archive, "load_ratings", lambda folder: pd.DataFrame({"source": ["tweets", "tweets", "nyt"]}))
    result = CliRunner().invoke(app, ["data", "fetch-archive", "--sdist", "a.tar.gz"], catch_exceptions=False)
    assert "3 texts: tweets 2, nyt 1" in result.output
    assert "from-a.tar.gz" in result.output
