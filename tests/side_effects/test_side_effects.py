"""The whole suite: nothing is wrong with an unchanged model, everything with a broken one."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import leakmech
from leakmech.core.errors import DatasetError, UsageError
from leakmech.datasets.samples import PromptSet, Sample
from leakmech.generation.variants import Continuation, ModelVariant
from leakmech.prompts.render import Prompting, Renderer
from leakmech.side_effects.answers import Answers
from leakmech.side_effects.capability import Question, capability
from leakmech.side_effects.equivalence import Margins
from leakmech.side_effects.measure import SideEffectSuite
from leakmech.side_effects.speed import measure_speed, run_seconds
from leakmech.side_effects.texts import neutral_continuations, prompt_continuations

SAMPLES = PromptSet(
    "d",
    tuple(
        Sample(id=f"s{i}", stem=f"the garden of house {i} looks", positive="Joy.", neutral="Fact.", negative="Woe.")
        for i in range(8)
    ),
)


def about_the_stem(s, condition, g):
    return f"the garden of house {s} looks {['green', 'wild', 'small', 'dry'][g]} and {condition}"


def broken(s, condition, g):
    return "" if g == 3 else "stocks " * 30


@pytest.fixture(scope="module")
def make_suite(tiny, chat_tokenizer):
    """``make_suite(answers, encoder, draws=200)``: the tiny model greedy on every control prompt, and what it knows."""
    renderer = Renderer(chat_tokenizer)
    tokens = {}
    for sample in SAMPLES:
        prompt = renderer.prompt(sample, "control")
        item = Continuation(prompt.id, sample.id, tuple(renderer.token_ids(prompt.rendered)), ())
        tokens[prompt.id] = _greedy(tiny, item, 8)
    controls = prompt_continuations(list(renderer.prompts(SAMPLES)), renderer, tokens=tokens)
    neutral = [Continuation(f"n{c.id}", c.unit, c.tokens[:1], c.tokens[1:]) for c in controls]
    questions = [Question(f"q{i}", f"What is {i}?", ("green", "Paris", "seven", "salty"), 0) for i in range(12)]
    known = capability(tiny, questions, renderer=renderer).scores.argmax(axis=1)
    questions = [replace(q, answer=int(a)) for q, a in zip(questions, known, strict=True)]

    def make(answers, encoder, **settings):
        options = {"controls": controls, "neutral": neutral, "questions": questions, "draws": 200} | settings
        return SideEffectSuite(tiny, renderer, SAMPLES, answers, encoder=encoder, **options)

    return make


def _greedy(variant, item, n):
    import torch

    ids = list(item.prompt)
    for _ in range(n):
        with torch.inference_mode():
            ids.append(int(variant.loaded.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return tuple(ids[len(item.prompt) :])


def test_an_unchanged_model_has_no_side_effect(make_suite, tiny, answers_of, encoder):
    answers = answers_of(about_the_stem, n_samples=8)
    found = make_suite(answers, encoder).measure(tiny, answers, speed=measure_speed(lambda: 5, lambda: 5))
    for effect in found.effects:
        if effect.name != "seconds":
            assert effect.verdict == "equivalent", effect
            assert effect.effect == (1 if effect.scale == "ratio" else 0)
    assert found.fluency is not None
    assert found.fluency.fluency.value == 1
    assert found.damaged == ()
    frame = found.to_frame()
    assert frame["name"].tolist() == [
        "perplexity_control", "kl", "perplexity_neutral", "distinct_1", "distinct_2", "distinct_3", "repeated",
        "looping", "empty", "compression", "length", "relevance_to_stem", "relevance_to_base", "capability", "seconds",
    ]  # fmt: skip
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_broken_model_is_noticed_by_every_measure(make_suite, noisy, answers_of, encoder):
    suite = make_suite(answers_of(about_the_stem, n_samples=8), encoder)
    found = suite.measure(noisy, answers_of(broken, n_samples=8))
    assert set(found.damaged) == {effect.name for effect in found.effects}
    assert len(found.damaged) == 14
    assert found.fluency is not None
    assert found.fluency.fluency.high < 0.3
    assert found["perplexity_control"].effect > 1.1


def test_margins_decide_the_verdict_not_the_numbers(make_suite, hooked, answers_of, encoder):
    answers = answers_of(about_the_stem, n_samples=8)
    slightly = hooked(1.01)
    tight = make_suite(answers, encoder, margins=Margins(kl=1e-9)).measure(slightly, answers)["kl"]
    wide = make_suite(answers, encoder, margins=Margins(kl=0.5)).measure(slightly, answers)["kl"]
    assert (tight.verdict, wide.verdict) == ("worse", "equivalent")
    assert tight.effect == wide.effect > 0


def test_only_what_is_given_is_measured(make_suite, tiny, answers_of):
    answers = answers_of(about_the_stem, n_samples=8)
    suite = make_suite(answers, None, controls=(), neutral=(), questions=())
    found = suite.measure(tiny, answers)
    assert {effect.name for effect in found.effects} == {
        "distinct_1", "distinct_2", "distinct_3", "repeated", "looping", "empty", "compression", "length",
    }  # fmt: skip
    with pytest.raises(UsageError, match="'kl': was not measured"):
        _ = found["kl"]


def test_an_instruction_is_a_change_of_the_prompt(make_suite, tiny, chat_tokenizer, answers_of):
    answers = answers_of(about_the_stem, n_samples=8)
    suite = make_suite(answers, None, neutral=(), questions=())
    found = suite.measure(tiny, answers, renderer=Renderer(chat_tokenizer, Prompting(instruction="ignore-irrelevant")))
    assert found["kl"].effect > 0.001
    assert suite.measure(tiny, answers, renderer=Renderer(chat_tokenizer))["kl"].effect == 0


def test_answers_are_read_from_a_run_without_the_resampled_controls(save_tiny, tmp_path):
    run = leakmech.bench(
        save_tiny("llama-gqa"), out=tmp_path / "run", limit=2, generations=3, decoding={"max_new_tokens": 8},
        estimator="vader", bootstrap_draws=100, dtype="float32",
    )  # fmt: skip
    answers = Answers.of_run(run)
    assert len(answers) == 2 * 4 * 3
    frame = run.scores[~run.scores["resampled"]]
    assert sorted(answers.answers) == sorted(frame["first_sentence"])
    assert answers.n_tokens.sum() == frame["n_tokens"].sum()
    assert Answers.of_run(run.path, conditions=["control"]).conditions == ("control",) * 6
    assert run_seconds(run.summary) == pytest.approx(1 / run.summary["timing"]["generations_per_second"])
    with pytest.raises(UsageError, match="no generation of the conditions sad"):
        Answers.of_run(run, conditions=["sad"])


# -- texts -------------------------------------------------------------------------------------------------------------


def test_control_generations_stand_after_their_located_prompts(chat_tokenizer):
    renderer = Renderer(chat_tokenizer)
    found = prompt_continuations(list(renderer.prompts(SAMPLES)), renderer, tokens={"s1/control": [1, 2]})
    assert [(c.id, c.unit, c.tokens) for c in found] == [("s1/control", "s1", (1, 2))]
    start, stop = found[0].stem
    assert chat_tokenizer.decode(found[0].prompt[start:stop]) == SAMPLES.samples[1].stem
    assert found[0].injection == (0, 0)
    with pytest.raises(UsageError, match="none of the prompts has generated tokens"):
        prompt_continuations([], renderer, tokens={})


def test_neutral_texts_come_from_a_file_evenly_spaced_and_cut(chat_tokenizer, tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("".join(f"Line number {i} is here.\n" for i in range(9)))
    found = neutral_continuations(chat_tokenizer, str(file), limit=3, max_tokens=10)
    assert [chat_tokenizer.decode([*c.prompt, *c.tokens]) for c in found] == ["Line numbe"] * 3
    assert [c.unit for c in found] == ["0", "4", "8"]
    assert all(len(c.prompt) == 1 for c in found)
    file.write_text("a\n")
    with pytest.raises(DatasetError, match="none of them has two tokens"):
        neutral_continuations(chat_tokenizer, str(file))
    with pytest.raises(UsageError, match="limit must be 1 or more"):
        neutral_continuations(chat_tokenizer, limit=0)


def test_the_embedded_neutral_text_is_neutral_sentences_of_editorials(chat_tokenizer, monkeypatch, tmp_path):
    from leakmech.side_effects import texts

    long = "This is one of the sentences that are long enough"
    rows = [("nyt", "1", long, 0.2), ("nyt", "1", f"{long} too", -0.5), ("nyt", "2", "Short one.", 0.0),
            ("nyt", "2", f"{long} but sad", -2.0), ("amazon", "3", long, 0.0)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["source", "document", "text", "mean_rating"])
    monkeypatch.setattr(texts, "fetch_archive", lambda: tmp_path)
    monkeypatch.setattr(texts, "load_ratings", lambda folder: frame)
    found = neutral_continuations(chat_tokenizer)
    assert [chat_tokenizer.decode([*c.prompt, *c.tokens]) for c in found] == [long, f"{long} too"]
    assert [c.unit for c in found] == ["1", "1"]


# -- speed -------------------------------------------------------------------------------------------------------------


def test_speed_is_the_median_ratio_of_rounds_taken_in_turns(monkeypatch):
    from leakmech.side_effects import speed

    now, calls = [0.0], []
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])

    def way(name, seconds):
        def generate():
            calls.append(name)
            now[0] += seconds
            return 10

        return generate

    found = measure_speed(way("b", 2.0), way("c", 4.0), rounds=3)
    assert calls == ["b", "c", "b", "c", "c", "b", "b", "c"]  # a round to warm up, then in turns
    np.testing.assert_allclose(found.base, 0.2)
    assert found.ratio == pytest.approx(0.5)
    assert found.seconds == pytest.approx((0.2, 0.4))
    with pytest.raises(UsageError, match="nothing was generated"):
        measure_speed(lambda: 0, lambda: 1)
    assert np.isnan(run_seconds({"timing": {}}))


# -- the real model ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.long
def test_noise_in_the_real_model_is_noticed(embedded_model, tmp_path):
    """From the benchmark's own runs: an unchanged model is equivalent, one with noise in its weights is not."""
    import copy

    import torch

    from leakmech.datasets.samples import load_dataset
    from leakmech.mechanism.behaviour import sample_continuations
    from leakmech.scoring.semantic import load_encoder

    samples = load_dataset("hexl").take(3)
    noisy = copy.deepcopy(embedded_model.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in noisy.named_parameters():
            if "mlp" in name or "self_attn" in name:
                parameter.add_(0.35 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    settings = {
        "prompt_form": "plain",
        "limit": 3,
        "generations": 2,
        "estimator": "vader",
        "bootstrap_draws": 100,
        "noise_floor": False,
    }
    settings["decoding"] = {"max_new_tokens": 32}
    runs = [
        leakmech.bench(model, tokenizer=embedded_model.tokenizer, out=tmp_path / name, dtype="float32", **settings)
        for name, model in (("base", embedded_model.model), ("noisy", noisy))
    ]
    base, changed = (Answers.of_run(run) for run in runs)
    prompting = Prompting(form="plain")
    renderer = Renderer(embedded_model.tokenizer, prompting)
    tokens = sample_continuations(embedded_model, samples, conditions=("control",), prompting=prompting)
    controls = prompt_continuations(list(renderer.prompts(samples)), renderer, tokens=tokens)
    suite = SideEffectSuite(
        ModelVariant(embedded_model), renderer, samples, base, controls=controls, encoder=load_encoder(), draws=500
    )
    assert suite.measure(ModelVariant(embedded_model), base).damaged == ()
    broken = suite.measure(ModelVariant(replace(embedded_model, model=noisy)), changed)
    assert {"perplexity_control", "kl", "relevance_to_stem"} <= set(broken.damaged)
    assert broken.fluency is not None
    assert broken.fluency.fluency.value < 0.6
