"""A benchmark drawn by another engine: what it cannot do is refused before anything is written."""

import json

import pytest
from parrot import Parrot

import leakmech
from leakmech.core.errors import ConfigError, RunDirectoryError
from leakmech.generation.engine import Capabilities
from leakmech.studies.benchmark.run import run_benchmark
from leakmech.studies.benchmark.settings import BenchConfig

HEADS = leakmech.ModulateCircuit(["L0H1"], scales=[0.0])


@pytest.fixture
def settings(save_tiny):
    return {
        "model": str(save_tiny("llama-gqa")),
        "dtype": "float32",
        "limit": 2,
        "generations": 2,
        "estimator": "vader",
        "bootstrap_draws": 100,
        "noise_floor": False,
    }


def run(settings, parrot, out, **options):
    return run_benchmark(BenchConfig.parse(settings), out=out, engine_of=lambda _: parrot, **options)


def test_a_run_is_drawn_by_any_engine_and_continued_by_the_same_only(settings, tmp_path):
    parrot = Parrot()
    result = run(settings, parrot, tmp_path / "run")
    assert len(parrot.asked) == 2 * 4 * 2
    assert set(result.scores["first_sentence"]) == {"Parrot 0.", "Parrot 1."}
    stored = json.loads((result.path / "run.json").read_text())
    assert (stored["batch_size"], stored["fingerprint"]["engine"]) == (2, "parrot")
    assert len(run(settings, Parrot(), tmp_path / "run").scores) == 16
    with pytest.raises(RunDirectoryError, match="engine"):
        run_benchmark(BenchConfig.parse(settings), out=tmp_path / "run")


def test_an_engine_gets_only_what_is_missing(settings, tmp_path):
    first, second = Parrot(), Parrot()
    result = run(settings, first, tmp_path / "run")
    (result.path / "summary.json").unlink()
    shard = result.path / "generations" / "shard-000.jsonl"
    shard.write_text("".join(shard.read_text().splitlines(keepends=True)[:5]))
    run(settings, second, tmp_path / "run")
    assert second.asked == first.asked[5:]


def test_hooks_and_contrast_are_refused_by_an_engine_that_has_neither(settings, tmp_path):
    for changed, interventions, message in (
        ({}, (HEADS,), "interventions as hooks .*--fold"),
        ({"contrast": "placebo"}, (), "contrastive decoding"),
    ):
        parrot = Parrot(Capabilities(coupled_draws=True))
        with pytest.raises(ConfigError, match=f"engine 'parrot': cannot do what this run needs: {message}"):
            run(settings | changed, parrot, tmp_path / "run", interventions=interventions)
        assert parrot.asked == []
        assert not (tmp_path / "run").exists()


def test_folded_interventions_need_no_hooks(settings, tmp_path):
    parrot = Parrot()
    run(settings | {"fold": True, "intervention": "in memory"}, parrot, tmp_path / "run", interventions=(HEADS,))
    assert parrot.asked
