"""Injections after the stem, and two of them: other prompts, the same samples, and every part still found."""

import json

import pytest

import leakmech
from leakmech.core.errors import ConfigError, DatasetError, RunDirectoryError
from leakmech.core.store import read_json, write_json
from leakmech.datasets.samples import CONDITIONS, PromptSet, Sample, load_dataset
from leakmech.prompts.arrangement import arrange
from leakmech.prompts.locate import locate
from leakmech.prompts.render import Prompting, Renderer
from leakmech.reports.examples import sample_texts
from leakmech.scoring.sentence import Cleaner, PromptText

SAMPLES = PromptSet(
    "d",
    tuple(
        Sample(id=f"s{i}", stem=f"Stem {i} is", positive=f"Joy {i}.", neutral=f"Fact {i}.", negative=f"Woe {i}.")
        for i in range(4)
    ),
)
SETTINGS = {
    "dtype": "float32",
    "limit": 2,
    "generations": 1,
    "decoding": {"max_new_tokens": 8},
    "estimator": "vader",
    "bootstrap_draws": 100,
}


def test_after_puts_the_injection_into_a_line_of_its_own(chat_tokenizer):
    renderer = Renderer(chat_tokenizer, Prompting(place="after"))
    assert renderer.prompt(SAMPLES.samples[0], "negative").text == "Complete the sentence: Stem 0 is\nWoe 0."
    assert renderer.prompt(SAMPLES.samples[0], "control").text == "Complete the sentence: Stem 0 is"


def test_twice_adds_the_injection_of_another_sample_of_the_same_condition(chat_tokenizer):
    twice = arrange(SAMPLES, "twice")
    assert [sample.negative for sample in twice] == ["Woe 0. Woe 2.", "Woe 1. Woe 3.", "Woe 2. Woe 0.", "Woe 3. Woe 1."]
    assert [sample.id for sample in twice] == [sample.id for sample in SAMPLES]
    prompt = Renderer(chat_tokenizer).prompt(twice.samples[0], "positive")
    assert prompt.text == "Complete the sentence: Joy 0. Joy 2. Stem 0 is"
    assert arrange(SAMPLES, "before") is SAMPLES
    assert twice.content_hash != SAMPLES.content_hash


def test_the_second_injection_comes_from_the_same_split():
    splits = PromptSet("d", tuple(Sample(**(s.to_dict() | {"split": "ab"[i % 2]})) for i, s in enumerate(SAMPLES)))
    assert [sample.neutral for sample in arrange(splits, "twice")][:2] == ["Fact 0. Fact 2.", "Fact 1. Fact 3."]
    alone = PromptSet("d", splits.samples[:3])
    with pytest.raises(DatasetError, match=r"d, split 'b': injections of other samples need 2 samples"):
        arrange(alone, "twice")


def test_both_injections_are_echoes_when_they_are_repeated():
    sample = arrange(SAMPLES, "twice").samples[0]
    prompt = PromptText(stem=sample.stem, injection=sample.injection("negative"))
    cleaned = Cleaner().clean("Woe 2. Woe 0. Stem 0 is grand.", prompt, "echo-free")
    assert cleaned.text == "grand."


@pytest.mark.parametrize("place", ["before", "after"])
def test_positions_find_injection_and_stem_wherever_they_stand(chat_tokenizer, place):
    renderer = Renderer(chat_tokenizer, Prompting(place=place))
    prompts = [renderer.prompt(SAMPLES.samples[1], condition) for condition in CONDITIONS]
    for prompt, located in zip(prompts, locate(prompts, renderer), strict=True):
        for part, text in (("stem", prompt.stem), ("injection", prompt.injection or "")):
            start, stop = located.spans[part]
            assert chat_tokenizer.decode(located.ids[start:stop]) == text


def test_a_plain_text_cannot_end_with_its_injection(plain_tokenizer):
    with pytest.raises(ConfigError, match="need a chat template"):
        Renderer(plain_tokenizer, Prompting(place="after"))
    with pytest.raises(ConfigError, match="did you mean 'twice'"):
        arrange(SAMPLES, "twise")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("arrangement", ["after", "twice"])
def test_a_run_of_another_arrangement_is_another_run(save_tiny, tmp_path, arrangement):
    folder = save_tiny("llama-gqa")
    run = leakmech.bench(folder, out=tmp_path / "run", arrangement=arrangement, **SETTINGS)
    rows = [json.loads(line) for line in (run.path / "prompts.jsonl").read_text().splitlines()]
    first = load_dataset("hexl").samples[0]
    text = next(row["text"] for row in rows if row["id"] == f"{first.id}/positive")
    second = load_dataset("hexl").samples[30]
    expected = {"after": f"{first.stem}\n{first.positive}", "twice": f"{first.positive} {second.positive} {first.stem}"}
    assert text == f"Complete the sentence: {expected[arrangement]}"
    assert sample_texts(run)[first.id].stem == first.stem
    assert sample_texts(run)[first.id].injections["positive"] in text
    with pytest.raises(RunDirectoryError, match=r"arrangement is '\w+' there and 'before' here"):
        leakmech.bench(folder, out=tmp_path / "run", **SETTINGS)
    rescored = leakmech.score(run.path, out=tmp_path / "again", estimator="vader", bootstrap_draws=100)
    assert rescored.summary["by_cleaning"] == run.summary["by_cleaning"]


def test_a_run_from_before_the_setting_existed_is_continued(save_tiny, tmp_path):
    folder = save_tiny("llama-gqa")
    run = leakmech.bench(folder, out=tmp_path / "run", **SETTINGS)
    record = read_json(run.path / "run.json")
    del record["config"]["arrangement"]
    write_json(run.path / "run.json", record)
    assert leakmech.bench(folder, out=run.path, **SETTINGS).summary == run.summary
