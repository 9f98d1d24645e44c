"""While a run generates it says what leakage looks like so far, and nothing of that stays in the run."""

from __future__ import annotations

import re
from itertools import chain

import numpy as np
import pytest

import leakmech
from leakmech.core.progress import no_progress
from leakmech.datasets.samples import CONDITIONS, PromptSet
from leakmech.generation.hf_engine import HFEngine, plan
from leakmech.runs.directory import RunDirectory
from leakmech.scoring.expression import load_estimator
from leakmech.scoring.leakage import leakage_statistics
from leakmech.scoring.records import Scorer, leakage_scores
from leakmech.scoring.sentence import Cleaner
from leakmech.studies.benchmark import interim as interim_module
from leakmech.studies.benchmark.interim import Interim
from leakmech.studies.benchmark.prompts import RunPrompts
from leakmech.studies.benchmark.settings import BenchConfig

K = 2
SAMPLES = leakmech.load_dataset("hexl").take(20)
SETTINGS = {
    "dtype": "float32",
    "limit": 8,
    "generations": 5,
    "batch_size": 20,
    "decoding": {"max_new_tokens": 12},
    "estimator": "vader",
    "bootstrap_draws": 100,
}
SAID = {
    "control": ("It is late.", "It is good."),
    "neutral": ("It is late.", "It is a table."),
    "positive": ("It is good.", "It is wonderful."),
    "negative": ("It is late.", "It is terrible."),
}


class Clock:
    """Seconds that a test sets; scoring takes `per_row` of them."""

    def __init__(self):
        self.now = 100.0
        self.per_row = 0.0

    def __call__(self):
        return self.now


def records(sample, *, conditions=CONDITIONS, said=SAID):
    """Answers as they are stored, those of the noise floor included."""
    return [
        {
            "prompt_id": f"{sample.id}/{condition}",
            "sample": sample.id,
            "condition": condition,
            "generation": number,
            "text": said[condition][number % K],
            "first_sentence": said[condition][number % K],
            "n_tokens": 3,
            "finish_reason": "sentence",
        }
        for condition in conditions
        for number in range(2 * K)
        if condition == "control" or number < K
    ]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def scorer(clock):
    vader = load_estimator("vader")

    class Timed:
        name, details = "vader", vader.details

        def __call__(self, texts):
            clock.now += clock.per_row * len(texts)
            return vader(texts)

    return Scorer(
        cleaner=Cleaner(),
        estimators=(Timed(),),
        encoder=lambda texts: np.ones((len(texts), 1)),
        instruction="",
        headline="raw",
        generations=K,
        policies=("raw",),
        with_whole=False,
    )


@pytest.fixture
def said():
    return []


@pytest.fixture
def interim(scorer, clock, said):
    found = Interim(scorer, SAMPLES, n_rows=20 * 5 * K, say=said.append, clock=clock)
    found.begin([])
    return found


def n_samples(line):
    return int(re.search(r"from (\d+) of 20 samples x 2 generations \(interim\)", line)[1])


def test_the_estimate_is_that_of_a_run_on_the_finished_samples(interim, scorer, clock, said):
    finished = list(SAMPLES)[:7]
    calm = SAID | {"negative": ("It is late.", "It is late.")}
    answers = [records(sample, said=calm if i < 2 else SAID) for i, sample in enumerate(finished)]
    clock.now += 21
    interim.add(chain(*answers[:4]))
    assert said == []  # four samples are too few
    begun = records(SAMPLES.samples[10], conditions=("positive", "negative"))  # its control is still missing
    interim.add(chain(*answers[4:], begun))
    whole = scorer.score(PromptSet("seven", tuple(finished)), chain(*answers))
    expected = leakage_statistics(leakage_scores(whole, "raw"), seed=0, draws=1000)["overall"]
    low, high = expected["auc_el_ci"]
    # By hand: positive wins 3 and ties 1 of 4 pairs; negative wins 2 and ties 2, and in two samples ties all.
    assert expected["auc_el"] == pytest.approx((7 * 0.875 + 5 * 0.75 + 2 * 0.5) / 14)
    assert low < 0.77 < high
    assert said == [
        f"so far, from 7 of 20 samples x 2 generations (interim): leakage (all pairs) 0.78 [{low:.2f}, {high:.2f}]; "
        "74 of 200 generations, about 40 s left"  # 126 are missing, at 74 in 21 s
    ]


def test_no_more_samples_wait_than_the_bound_and_others_come_after_them(interim, clock, said, monkeypatch):
    monkeypatch.setattr(interim_module, "_MOST_WAITING", 6)
    for start in (0, 9):
        clock.now += 41
        interim.add(chain(*(records(sample) for sample in SAMPLES.samples[start : start + 9])))
    assert [n_samples(line) for line in said] == [6, 12]


def test_estimates_come_after_twenty_seconds_and_each_time_the_time_has_doubled(interim, clock, said):
    times = []
    for second, sample in zip(range(10, 210, 10), SAMPLES, strict=True):
        clock.now = 100 + second
        before = len(said)
        interim.add(records(sample))
        times += [second] * (len(said) - before)
    assert times == [50, 100]  # five samples are there after 50 s only, and after 200 s there is nothing left to do
    assert [n_samples(line) for line in said] == [5, 10]


def test_scoring_takes_a_small_part_of_the_time(interim, clock, said):
    clock.per_row = 0.2  # a sample has six rows: five of them take 6 s
    for second, sample in zip(range(30, 630, 30), SAMPLES, strict=True):
        clock.now = max(clock.now, 100 + second)
        interim.add(records(sample))
    assert [n_samples(line) for line in said] == [5, 10]
    assert interim.spent == pytest.approx(10 * 6 * 0.2)


def test_what_an_earlier_process_has_finished_is_not_scored_all_at_once(interim, clock, said):
    clock.per_row = 5.0
    late = Interim(interim.scorer, SAMPLES, n_rows=300, say=said.append, clock=clock)
    late.begin(chain(*map(records, list(SAMPLES)[1:])))
    clock.now += 21
    late.add(records(SAMPLES.samples[0]))
    assert n_samples(said[-1]) == 5


def test_a_run_that_speaks_is_the_run_that_does_not(save_tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(interim_module, "_FIRST_AFTER", 0.0)
    folder, said = save_tiny("llama-gqa"), []
    spoken = leakmech.bench(folder, out=tmp_path / "spoken", interim=said.append, **SETTINGS)
    silent = leakmech.bench(folder, out=tmp_path / "silent", **SETTINGS)
    assert "of 8 samples x 4 generations (interim): leakage (all pairs) " in said[0]
    assert ", topic-free " in said[0]
    timing = spoken.summary.pop("timing"), silent.summary.pop("timing")
    assert timing[0]["interim_s"] > 0
    assert "interim_s" not in timing[1]
    assert spoken.summary == silent.summary
    assert spoken.scores.equals(silent.scores)
    assert sorted(p.name for p in spoken.path.rglob("*")) == sorted(p.name for p in silent.path.rglob("*"))


def test_a_run_without_control_says_nothing(save_tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(interim_module, "_FIRST_AFTER", 0.0)
    said = []
    settings = SETTINGS | {"conditions": ("positive", "negative")}
    leakmech.bench(save_tiny("llama-gqa"), out=tmp_path / "run", interim=said.append, **settings)
    assert said == []


def test_rows_are_generated_in_blocks_of_whole_samples_in_random_order(save_tiny, tmp_path):
    loaded, samples = leakmech.load_model(save_tiny("llama-gqa")), leakmech.load_dataset("hexl")
    config, engine = BenchConfig.parse({"generations": 4}), HFEngine.of(loaded)
    rows = RunPrompts(config, RunDirectory(tmp_path), loaded, engine, samples, no_progress).rows
    order = [row.prompt_id.partition("/")[0] for row in plan(rows)]
    blocks = {row.prompt_id.partition("/")[0]: row.block for row in rows}
    n_rows = np.bincount([row.block for row in rows])
    assert set(n_rows[:-1]) == {100}
    assert [blocks[name] for name in order] == sorted(blocks[name] for name in order)
    assert abs(np.corrcoef(list(blocks.values()), range(60))[0, 1]) < 0.4  # not the order of the data set
