"""Runs of fewer conditions end with their numbers and a page of what there is."""

from __future__ import annotations

import pytest

import leakmech
from leakmech.reports.examples import examples_table, sample_texts

ALL = ("control", "positive", "neutral", "negative")


@pytest.mark.parametrize(
    ("conditions", "told"),
    [
        (("control",), "the run has no positive, no neutral, no negative prompts"),
        (("positive",), "the run has no control, no neutral, no negative prompts"),
        (("control", "neutral"), "the run has no positive, no negative prompts"),
        (("neutral", "positive", "negative"), "the run has no control prompts"),
    ],
)
@pytest.mark.fault(
    "X412", "runs", "bench with fewer conditions", "ends with its numbers; the page says what is not there"
)
def test_a_run_of_fewer_conditions_has_a_page(make_tiny, chat_tokenizer, tmp_path, conditions, told):
    result = leakmech.bench(
        make_tiny("llama-gqa"),
        tokenizer=chat_tokenizer,
        out=tmp_path / "run",
        conditions=conditions,
        limit=2,
        generations=1,
        estimator="vader",
        decoding={"max_new_tokens": 8},
        bootstrap_draws=100,
        device="cpu",
    )
    assert result.summary["overall"]["mu_el"] is None
    assert f"No comparison could be made: {told}." in result.report().read_text()
    assert result.to_markdown()
    assert len(examples_table(result.path)) == 3
    stems = [sample.stem for sample in leakmech.load_dataset("hexl").samples[:2]]
    assert [texts.stem for texts in sample_texts(result).values()] == stems
    assert {texts.conditions for texts in sample_texts(result).values()} == {
        tuple(name for name in ALL if name in conditions)
    }
