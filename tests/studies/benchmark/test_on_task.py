"""A benchmark says which answers the model could have given without the injection."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import leakmech
from leakmech.core.errors import ConfigError
from leakmech.interventions.component_edits import AblateHeads
from leakmech.studies.benchmark.report import write_report

SETTINGS = {
    "dtype": "float32",
    "limit": 5,
    "generations": 6,
    "decoding": {"max_new_tokens": 12},
    "estimator": "vader",
    "bootstrap_draws": 100,
    "on_task": True,
}


@pytest.fixture(scope="module")
def model(make_tiny):
    return make_tiny("llama-gqa")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model, chat_tokenizer):
    return leakmech.bench(model, tokenizer=chat_tokenizer, out=tmp_path_factory.mktemp("on-task") / "run", **SETTINGS)


def by_hand(model, tokenizer, prompt, answer):
    """Mean log p of the answer's tokens, from one plain forward pass."""
    given, said = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer))
    with torch.inference_mode():
        log_p = model(torch.tensor([given + said])).logits[0].double().log_softmax(-1)
    return float(np.mean([log_p[len(given) - 1 + i, token] for i, token in enumerate(said)]))


def test_log_p_is_that_of_the_answer_after_the_control_prompt(finished, model, chat_tokenizer):
    prompts = {row["id"]: row["rendered"] for row in map(json.loads, finished.files.prompts_file.open())}
    scores = finished.scores.set_index(["prompt_id", "generation"])
    checked = 0
    for record in list(finished.files.generations())[::9]:
        row = scores.loc[record["prompt_id"], record["generation"]]
        # In these the whole text is one sentence, and it is scored.
        if row["raw_text"] and row["raw_text"] == row["echo_free_text"] and record["text"].endswith(row["raw_text"]):
            expected = by_hand(model, chat_tokenizer, prompts[f"{record['sample']}/control"], record["text"])
            assert row["log_p_control"] == pytest.approx(expected, abs=1e-5)
            checked += 1
    assert checked >= 3


def test_rates_stand_in_summary_table_and_page(finished):
    summary, scores = finished.summary, finished.scores
    for name, own in scores[~scores["resampled"]].groupby("condition"):
        assert summary["conditions"][name]["on_task_rate"] == pytest.approx(own["on_task"].mean())
    charged = scores[scores["condition"].isin(["positive", "negative"])]
    assert summary["overall"]["on_task_rate"] == pytest.approx(charged["on_task"].mean())
    assert summary["on_task"]["n_control"] >= 20
    assert summary["on_task"]["control_again_rate"] == pytest.approx(scores[scores["resampled"]]["on_task"].mean())
    assert "| on task |" in finished.to_markdown()
    assert "Answers on task" in write_report(finished.path).read_text()


def test_a_run_that_does_not_ask_says_nothing(finished, model, chat_tokenizer, tmp_path):
    settings = SETTINGS | {"on_task": False}
    plain = leakmech.bench(model, tokenizer=chat_tokenizer, out=tmp_path / "run", **settings)
    assert "on_task" not in plain.record.config
    assert "on task" not in plain.to_markdown()
    assert plain.summary["overall"] == {
        name: value for name, value in finished.summary["overall"].items() if not name.startswith("on_task")
    }
    again = leakmech.score(plain.path, out=tmp_path / "again")
    assert again.summary["on_task"] == {"reason": "likelihoods need the model: leakmech bench --on-task"}
    assert "on task: not told (likelihoods need the model" in again.to_markdown()


def test_an_interrupted_run_goes_on_with_the_samples_that_are_missing(finished, model, chat_tokenizer, tmp_path):
    lines = finished.files.control_likelihoods_file.read_text().splitlines(keepends=True)
    changed = json.loads(lines[0])
    changed.pop("crc32")
    changed["answers"][0]["log_p"] = -1e6  # it is seen whether this line is read or made again
    path = tmp_path / "run"
    leakmech.bench(model, tokenizer=chat_tokenizer, out=path, **SETTINGS)
    (path / "summary.json").unlink()
    (path / "control_likelihoods.jsonl").write_text(json.dumps(changed) + "\n" + lines[1] + lines[2][:40])
    again = leakmech.bench(model, tokenizer=chat_tokenizer, out=path, **SETTINGS)
    found, expected = (run.scores["log_p_control"].to_numpy() for run in (again, finished))
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    assert (~same).sum() == 1
    assert np.nanmin(found) < -1e4


def test_a_run_scored_again_keeps_its_likelihoods_unless_other_sentences_are_scored(finished, tmp_path):
    again = leakmech.score(finished.path, out=tmp_path / "again", estimator="embedded", bootstrap_draws=100)
    assert again.summary["on_task"] == finished.summary["on_task"]
    assert again.scores["on_task"].equals(finished.scores["on_task"])
    raw = leakmech.score(finished.path, out=tmp_path / "raw", cleaning="raw")
    assert "are those of other sentences" in raw.summary["on_task"]["reason"]


def test_likelihoods_are_those_of_the_model_under_its_interventions(model, chat_tokenizer, tmp_path, finished):
    heads = AblateHeads(components=("L0H0", "L1H1"))
    settings = SETTINGS | {"limit": 2, "generations": 10}
    hooked, folded = (
        leakmech.bench(
            model, tokenizer=chat_tokenizer, interventions=heads, fold=fold, out=tmp_path / str(fold), **settings
        )
        for fold in (False, True)
    )
    assert hooked.scores["raw_text"].equals(folded.scores["raw_text"])
    np.testing.assert_allclose(hooked.scores["log_p_control"], folded.scores["log_p_control"], atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conditions": ["positive", "negative"]}, "add control to the conditions"),
        ({"contrast": "subtract-context"}, "contrastive decoding draws from several prompts"),
    ],
)
def test_what_has_no_likelihood_is_refused_before_any_model_is_loaded(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        leakmech.bench("no/such-model", out=tmp_path / "run", **SETTINGS, **settings)
    assert not (tmp_path / "run").exists()
