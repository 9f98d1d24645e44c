"""The tasks of lm-evaluation-harness give the numbers of `leakmech score` on the same texts."""

import json
import math

import pytest

import leakmech
from leakmech.core.errors import ConfigError, DatasetError
from leakmech.integrations import lm_eval_tasks
from leakmech.integrations.lm_harness import aexl, aggregation, hexl, process_results
from leakmech.integrations.numbers import NUMBERS

SCORING = {"estimator": "vader", "bootstrap_draws": 100}
TEXTS = ("a wonderful, lovely plan.", "a terrible and sad mess.", "cooking on a quiet street.", "the awful weather.")


def scripted(prompt: str, k: int) -> str:
    """A fake model: what it says depends on the prompt and on how often it was asked."""
    return TEXTS[(sum(map(ord, prompt)) + k) % len(TEXTS)]


def shown(summary) -> dict[str, float]:
    overall = summary["overall"]
    return {
        "mu_el": overall["mu_el"],
        "mu_el_low": overall["mu_el_ci"][0],
        "mu_el_high": overall["mu_el_ci"][1],
        "auc_el": overall["auc_el"],
        "valence_shift": overall["valence_shift"],
        "mu_l": overall["mu_l"],
        "topic_rate": overall["topic_rate"],
        "topic_free_auc_el": overall["topic_free"]["auc_el"],
        "echo_rate": summary["by_cleaning"]["echo-free"]["echo_rate"],
    }


def test_documents_are_the_prompts_that_leakmech_asks():
    documents = hexl(pretrained="some/model", device="cuda", leakmech={"estimator": "vader"})["test"]
    assert len(documents) == 240
    first, second = documents[0], documents[1]
    assert (first["sample"], first["condition"]) == (second["sample"], "control")
    sample = next(iter(leakmech.load_dataset("hexl")))
    assert first["text"] == f"Complete the sentence: {sample.stem}"
    assert second["text"] == f"Complete the sentence: {sample.positive} {sample.stem}"
    assert json.loads(first["settings"])["estimator"] == "vader"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("vader", "must be an object of settings"),
        ({"estimater": "vader"}, "did you mean 'estimator'"),
        ({"arrangement": "after"}, "measure others with leakmech bench"),
        ({"instruction": "ignore-irrelevant-system"}, "stands in the system role"),
    ],
)
def test_settings_that_a_harness_cannot_carry_out_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        hexl(leakmech=given)


def test_aexl_is_a_file_that_must_be_built_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match="leakmech data build-aexl"):
        aexl()
    leakmech.load_dataset("hexl").take(2).save(tmp_path / "aexl.jsonl")
    assert len(aexl()["test"]) == 8


def test_a_log_names_answers_and_holds_them_once():
    document = hexl()["test"][0]
    answers = process_results(document, [["one", "two"]])
    assert set(answers) == set(NUMBERS)
    assert str(answers["mu_el"]) == f"2 answers to {document['sample']}/control"


def test_what_cannot_be_computed_is_nan_and_said():
    document = hexl()["test"][0]
    answers = [process_results(document, [["one", "two"]])["mu_el"]]
    with pytest.warns(match="no numbers: holds no generations of prompts with an injection"):
        assert math.isnan(aggregation("mu_el")(answers))


def test_answers_that_are_all_the_same_are_reported():
    texts = [["the same.", "the same."]] * 4
    answers = [
        process_results(document, [own])["mu_el"]
        for document, own in zip(hexl(leakmech=SCORING)["test"].select(range(4)), texts, strict=True)
    ]
    with pytest.warns(match="all the same, as with greedy decoding"):
        assert aggregation("auc_el")(answers) == 0.5


def test_the_harness_gives_the_numbers_of_score(tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="needs the extra [harness]")
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class ScriptedLM(LM):  # a fake
        def generate_until(self, requests, disable_tqdm=False):
            asked: dict[str, int] = {}
            said = []
            for request in requests:
                prompt, options = request.args
                assert options["temperature"] == 1.0
                asked[prompt] = asked.get(prompt, -1) + 1
                said.append(scripted(prompt, asked[prompt]))
            return said

        loglikelihood = loglikelihood_rolling = None

    metadata = {"leakmech": SCORING}
    found = simple_evaluate(
        model=ScriptedLM(),
        tasks=["leakmech_hexl"],
        task_manager=TaskManager(include_path=str(lm_eval_tasks()), metadata=metadata),
        limit=16,
        bootstrap_iters=10,
    )
    texts = tmp_path / "texts.jsonl"
    with texts.open("w") as file:
        for document in hexl()["test"].select(range(16)):
            for k in range(10):
                row = {"sample": document["sample"], "condition": document["condition"], "generation": k}
                file.write(json.dumps(row | {"text": scripted(document["text"], k)}) + "\n")
    scored = leakmech.score(texts, out=tmp_path / "scored", dataset="hexl", limit=4, **SCORING)
    expected = shown(scored.summary)
    assert 0.2 < expected["mu_el"] < 0.8
    numbers = found["results"]["leakmech_hexl"]
    assert {name: numbers[f"{name},all_answers"] for name in expected} == expected

    tracker = EvaluationTracker(output_path=str(tmp_path / "logs"))
    tracker.general_config_tracker.model_name_sanitized = "scripted"
    tracker.save_results_aggregated(found, found["samples"])
    tracker.save_results_samples("leakmech_hexl", found["samples"]["leakmech_hexl"])
    (log,) = (tmp_path / "logs").rglob("samples_leakmech_hexl_*.jsonl")
    from_log = leakmech.score(log, out=tmp_path / "from-log", limit=4)
    assert from_log.summary["overall"] == scored.summary["overall"]
    assert from_log.summary["estimator"] == "vader"
