"""`temperature: model` is the checkpoint's own temperature, and nothing else of the checkpoint's."""

import pytest
import torch
from transformers import GenerationConfig

import leakmech
from leakmech.core.errors import ConfigError, RunDirectoryError
from leakmech.core.store import read_json
from leakmech.generation.decoding import Decoding
from leakmech.generation.sampler import sample_tokens
from leakmech.studies.benchmark.settings import BenchConfig

OWN = GenerationConfig(do_sample=True, temperature=0.3, top_k=3, top_p=0.2, repetition_penalty=2.0, max_new_tokens=1)
SETTINGS = {
    "dtype": "float32",
    "limit": 2,
    "generations": 2,
    "estimator": "vader",
    "bootstrap_draws": 100,
    "prompt_form": "plain",
}


@pytest.fixture
def with_own(make_tiny):
    model = make_tiny("llama-gqa")
    model.generation_config = OWN
    return model


def test_only_the_temperature_is_taken(with_own):
    assert Decoding(temperature="model").resolved(with_own) == Decoding(temperature=0.3)
    assert Decoding(temperature=0.7).resolved(with_own) == Decoding(temperature=0.7)


def test_a_checkpoint_without_one_has_1(make_tiny):
    model = make_tiny("llama-gqa")
    model.generation_config = GenerationConfig(top_p=0.2)
    assert Decoding(temperature="model").resolved(model) == Decoding(temperature=1.0)


def test_nothing_is_drawn_before_it_is_a_number():
    keys = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ConfigError, match="is not resolved"):
        sample_tokens(
            torch.zeros(1, 8), torch.zeros(1, 1, dtype=torch.long), keys=keys, steps=keys,
            decoding=Decoding(temperature="model"),
        )  # fmt: skip


def test_it_is_an_option_and_other_words_are_refused():
    assert BenchConfig.parse({"decoding": {"temperature": "model"}}).decoding.temperature == "model"
    assert BenchConfig.parse({"decoding": {"temperature": "0.7"}}).decoding.temperature == 0.7
    with pytest.raises(ConfigError, match="temperature"):
        BenchConfig.parse({"decoding": {"temperature": "models"}})


def _texts(result):
    return {(row["prompt_id"], row["generation"]): row["text"] for row in result.files.generations()}


def test_a_run_is_the_one_at_that_number_and_says_where_it_comes_from(with_own, chat_tokenizer, tmp_path):
    def bench(temperature, name, model=with_own):
        decoding = {"max_new_tokens": 8, "temperature": temperature}
        return leakmech.bench(model, tokenizer=chat_tokenizer, out=tmp_path / name, decoding=decoding, **SETTINGS)

    own, number = bench("model", "own"), bench(0.3, "number")
    assert _texts(own) == _texts(number)
    assert own.summary["decoding"] == number.summary["decoding"] == Decoding(8, 0.3).to_dict()
    assert own.summary["temperature_from"] == "model"
    assert "temperature_from" not in number.summary
    assert read_json(tmp_path / "own" / "run.json")["fingerprint"]["temperature"] == "0.3"
    assert "temperature" not in number.record.fingerprint
    # The weights are the same, but the checkpoint has another temperature by now.
    (tmp_path / "own" / "summary.json").unlink()
    with_own.generation_config = GenerationConfig(temperature=0.9)
    with pytest.raises(RunDirectoryError, match="other temperature"):
        bench("model", "own")
    with_own.generation_config = GenerationConfig()
    assert "names none: 1" in bench("model", "none").summary["temperature_from"]
