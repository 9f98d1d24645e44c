"""The tasks of inspect_ai give the numbers of `leakmech score` on the same texts."""

import json
import math

import pytest

import leakmech
from leakmech.core.errors import ConfigError
from leakmech.integrations.numbers import NUMBERS

inspect_ai = pytest.importorskip("inspect_ai", reason="needs the extra [harness]")

from inspect_ai.model import ModelOutput, ModelUsage, get_model  # noqa: E402

from leakmech.integrations.inspect_tasks import all_epochs, hexl, leakage  # noqa: E402

TEXTS = ("a wonderful, lovely plan.", "a terrible and sad mess.", "cooking on a quiet street.", "the awful weather.")


def scripted(prompt: str, seed: int) -> str:
    """A fake model: what it says depends on prompt and seed."""
    return TEXTS[(sum(map(ord, prompt)) + seed) % len(TEXTS)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished log, and what was asked of the model."""
    folder = tmp_path_factory.mktemp("inspect")
    asked = []

    def answer(messages, tools, tool_choice, config):
        system, user = messages
        asked.append((system.text, user.text, config.seed, config.temperature, config.top_k))
        output = ModelOutput.from_content("scripted", scripted(user.text, config.seed))
        output.usage = ModelUsage()  # without it the mock counts tokens, with a file from the internet
        return output

    model = get_model("mockllm/scripted", custom_outputs=answer, memoize=False)
    logs = inspect_ai.eval(
        hexl(estimator="vader", generations=3), model=model, limit=16, log_dir=str(folder), display="none"
    )
    return logs[0], asked, folder


def test_each_epoch_has_a_seed_and_the_papers_decoding(run):
    _, asked, _ = run
    assert len(asked) == 48
    assert len({(text, seed) for _, text, seed, *_ in asked}) == 48
    assert {(system, temperature, top_k) for system, _, _, temperature, top_k in asked} == {
        ("You are a helpful assistant.", 1.0, 50)
    }


def test_the_harness_gives_the_numbers_of_score(run, tmp_path):
    log, _, folder = run
    assert log.status == "success"
    (score,) = log.results.scores
    numbers = {name: found.value for name, found in score.metrics.items()}
    assert list(numbers) == list(NUMBERS)
    texts = tmp_path / "texts.jsonl"
    with texts.open("w") as file:
        for sample in log.samples:
            row = sample.metadata | {"generation": sample.epoch - 1, "text": sample.output.completion}
            file.write(json.dumps(row) + "\n")
    expected = leakmech.score(texts, out=tmp_path / "scored", dataset="hexl", limit=4, estimator="vader").summary
    assert 0.2 < numbers["mu_el"] < 0.8
    assert numbers["mu_el"] == expected["overall"]["mu_el"]
    assert [numbers["mu_el_low"], numbers["mu_el_high"]] == expected["overall"]["mu_el_ci"]
    assert numbers["auc_el"] == expected["overall"]["auc_el"]
    assert numbers["valence_shift"] == expected["overall"]["valence_shift"]
    assert numbers["topic_rate"] == expected["overall"]["topic_rate"]
    (file,) = folder.glob("*.eval")
    from_log = leakmech.score(file, out=tmp_path / "from-log", limit=4)
    assert from_log.summary["overall"] == expected["overall"]
    assert from_log.summary["model"] == "mockllm/scripted"


def test_a_metric_of_nothing_has_every_number_as_nan():
    numbers = leakage("{}")([])
    assert list(numbers) == list(NUMBERS)
    assert all(map(math.isnan, numbers.values()))


def test_the_reducer_keeps_all_epochs_in_order():
    from inspect_ai.scorer import Score

    scores = [Score(value=f"text {epoch}", metadata={"epochs": [epoch]}) for epoch in (3, 1, 2)]
    reduced = all_epochs()(scores)
    assert reduced.value == ["text 1", "text 2", "text 3"]
    assert reduced.metadata == {"epochs": [1, 2, 3]}


def test_a_misspelt_setting_is_refused():
    with pytest.raises(ConfigError, match="cleaning"):
        hexl(cleaning="echofree")
