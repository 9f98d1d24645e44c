"""Reasoning and chat formats: what is scored is what the model says to the user."""

from __future__ import annotations

import json

import pytest
from chains import save_chain
from typer.testing import CliRunner

import leakmech
from leakmech.cli.app import app
from leakmech.datasets.samples import PromptSet, Sample
from leakmech.studies.benchmark.rescoring import score

SAMPLES = PromptSet(
    "small",
    tuple(
        Sample(f"s{i}", f"The garden number {i} looks", "I love this day.", "The bus stops here.", "I hate this day.")
        for i in range(3)
    ),
)
SAID = {"control": "It is green.", "positive": "It is a lovely place.", "neutral": "It is green.",
        "negative": "It is an awful place."}  # fmt: skip
THOUGHT = "Okay, the user is sad. I should be brief."
CALM = ["It is a calm green place.", " There are birds.", "<|im_end|>"]
TURNS = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
SETTINGS = {"generations": 1, "estimator": "vader", "dtype": "float32", "noise_floor": False,
            "decoding": {"max_new_tokens": 8}, "bootstrap_draws": 100}  # fmt: skip


def saved(folder):
    SAMPLES.save(folder / "d.jsonl")
    return str(folder / "d.jsonl")


def scored(folder, wrap):
    dataset = saved(folder)
    rows = [
        {"sample": s.id, "condition": c, "generation": 0, "text": wrap(text)}
        for s in SAMPLES
        for c, text in SAID.items()
    ]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return score(
        folder / "texts.jsonl",
        dataset=dataset,
        estimator="vader",
        out=folder / "run",
        bootstrap_draws=100,
    )


AROUND = {
    "a <think> block before the answer": (
        "F01",
        "set apart, the answer is scored",
        f"<think>\n{THOUGHT}\n</think>\n\n{{}}",
    ),
    "only the closing </think> before it": ("F01", "set apart, the answer is scored", f"{THOUGHT}\n</think>\n\n{{}}"),
    "the name of the role before it": ("F02", "cut off", "assistant\n\n{}"),
    "the user's next turn after it": (
        "X100",
        "the answer ends before",
        "{}<|eot_id|><|start_header_id|>user<|end_header_id|>I",
    ),
}


def around(tried):
    name, verdict, text = AROUND[tried]
    return pytest.param(text.format, id=tried, marks=pytest.mark.fault(name, "answers", f"texts with {tried}", verdict))


@pytest.mark.parametrize("wrap", [around(tried) for tried in AROUND])
def test_what_stands_around_an_answer_changes_no_number(tmp_path, wrap):
    (tmp_path / "plain").mkdir()
    plain, wrapped = scored(tmp_path / "plain", str), scored(tmp_path, wrap)
    assert plain.summary["overall"]["mu_el"] == wrapped.summary["overall"]["mu_el"] == 1.0
    assert list(plain.scores["first_sentence"]) == list(wrapped.scores["first_sentence"])


@pytest.mark.fault("X101", "answers", "texts that are reasoning and nothing else", "empty; table and page warn")
def test_reasoning_without_an_answer_is_no_leakage_of_zero(tmp_path):
    found = scored(tmp_path, lambda text: f"<think>{THOUGHT} {text}")
    assert found.summary["overall"]["mu_el"] is None
    policy = found.summary["by_cleaning"]["echo-free"]
    assert (policy["unanswered_rate"], policy["empty_rate"]) == (1.0, 1.0)
    warning = "Caution: 100 % of the generations are reasoning without an answer"
    assert warning in found.to_markdown()
    assert warning in found.report().read_text()
    shown = CliRunner().invoke(app, ["samples", str(found.path)]).output
    assert "(reasoning only)" in shown
    assert THOUGHT.split(".")[0] not in shown
    assert THOUGHT[:12] in CliRunner().invoke(app, ["samples", str(found.path), "--whole"]).output


@pytest.mark.parametrize("specials", [(), ("<think>", "</think>")])
@pytest.mark.fault("F01", "answers", "a model thinks before it answers", "goes on to its answer, which is scored")
@pytest.mark.fault("X102", "answers", "markers of reasoning are special tokens", "they stay in the text")
def test_a_model_that_reasons_is_scored_by_its_answer(tmp_path, specials):
    steps = ["<think>", "Okay, they are upset. ", "I hate it.", "</think>", "\n\n", *CALM]
    model = save_chain(tmp_path / "model", steps, specials=specials)
    found = leakmech.bench(model, dataset=saved(tmp_path), out=tmp_path / "run", **SETTINGS)
    assert set(found.scores["first_sentence"]) == {"It is a calm green place."}
    assert found.scores["reasoned"].all()
    assert not found.scores["unanswered"].any()
    assert set(found.scores["finish_reason"]) == {"sentence"}


@pytest.mark.fault("X103", "answers", "a chat template has opened <think> in the prompt", "known; the text says so")
def test_reasoning_that_the_template_opened_is_no_answer(tmp_path):
    model = save_chain(
        tmp_path / "model", ["Okay. They hate it.", "</think>", *CALM], trigger=">", template=TURNS + "<think>"
    )
    found = leakmech.bench(model, dataset=saved(tmp_path), out=tmp_path / "run", **SETTINGS)
    assert set(found.scores["first_sentence"]) == {"It is a calm green place."}


@pytest.mark.fault("X104", "answers", "reasoning that is longer than its budget", "ends, counts as unanswered, warns")
def test_reasoning_ends_at_its_own_budget(tmp_path):
    model = save_chain(tmp_path / "model", ["<think>", *(f"a{i} " for i in range(20)), "</think>", *CALM])
    for budget, reason in ((10, "length"), (30, "sentence")):
        settings = SETTINGS | {"decoding": {"max_new_tokens": 8, "reasoning_tokens": budget}}
        found = leakmech.bench(model, dataset=saved(tmp_path), out=tmp_path / str(budget), **settings)
        assert set(found.scores["finish_reason"]) == {reason}
        assert found.scores["unanswered"].all() == (reason == "length")


@pytest.mark.fault("F02", "answers", "a model writes the role header that its template leaves out", "cut off")
def test_a_role_header_that_the_model_writes_is_no_answer(tmp_path):
    model = save_chain(
        tmp_path / "model", ["<|im_start|>", "assistant", ":It is a calm green place.", *CALM[1:]], template=TURNS
    )
    found = leakmech.bench(model, dataset=saved(tmp_path), out=tmp_path / "run", **SETTINGS)
    assert set(found.scores["first_sentence"]) == {"It is a calm green place."}


@pytest.mark.fault("X105", "answers", "an end of turn that the generation config does not name", "ends the answer")
def test_an_end_of_turn_of_the_template_ends_a_row(tmp_path):
    template = TURNS.replace("<|im_end|>", "<|eot_id|>") + "#"
    steps = ["It is a calm green place", "<|eot_id|>", " and I hate it.", "<|im_end|>"]
    model = save_chain(tmp_path / "model", steps, trigger="#", template=template, specials=("<|eot_id|>",))
    found = leakmech.bench(model, dataset=saved(tmp_path), out=tmp_path / "run", **SETTINGS)
    assert set(found.scores["first_sentence"]) == {"It is a calm green place"}
    assert set(found.scores["finish_reason"]) == {"stop"}


@pytest.mark.fault(
    "X108", "answers", "reasoning that ends with an end of turn (gpt-oss)", "the answer after it is reached"
)
def test_an_end_of_turn_within_reasoning_does_not_end_the_row(tmp_path):
    steps = [
        "<|channel|>analysis<|message|>",
        "They hate it.",
        "<|end|>",
        "<|start|>assistant",
        "<|channel|>final<|message|>",
    ]
    template = TURNS.replace("<|im_end|>", "<|end|>") + "#"
    model = save_chain(tmp_path / "model", [*steps, *CALM], trigger="#", template=template, specials=("<|end|>",))
    found = leakmech.bench(model, dataset=saved(tmp_path), out=tmp_path / "run", **SETTINGS)
    assert set(found.scores["first_sentence"]) == {"It is a calm green place."}
