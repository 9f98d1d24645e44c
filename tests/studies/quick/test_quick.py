"""A quick look: what it says of given answers, what it asks a model, and the command."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import leakmech
from leakmech.cli.app import app
from leakmech.core.errors import ConfigError, LeakmechError
from leakmech.studies.quick.answers import PromptAnswers
from leakmech.studies.quick.result import QuickResult, difference
from leakmech.studies.quick.settings import INJECTIONS, QuickConfig

GLAD, SAD = "Our holiday was <b>lovely</b>.", "Our flight was awful."


def look(control, positive=None, negative=None, *, about=(), no_tilt=None):
    """A result with chosen valences; `about` are (prompt, generation) that are about the injection."""
    prompts, rows = [PromptAnswers(None, "control", None, 0.5)], []
    given = [("control", None, control), ("positive", GLAD, positive), ("negative", SAD, negative)]
    for polarity, injection, values in given:
        if values is None:
            continue
        if injection:
            prompts.append(PromptAnswers(injection, polarity, 0.9 if polarity == "positive" else -0.9, 0.25))
        place = len(prompts) - 1
        for number, value in enumerate(values):
            rows.append(
                {
                    "prompt": place, "injection": injection, "polarity": polarity, "generation": number,
                    "sentence": f"<i>[red]answer {number}[/red] {'and so on ' * 12}", "valence": value,
                    "about_injection": (place, number) in about, "text": "x",
                }
            )  # fmt: skip
    return QuickResult(
        "The garden", "m", "plain", len(control), 0, "words", tuple(prompts), pd.DataFrame(rows), no_tilt
    )


class TestNumbers:
    def test_the_interval_is_welchs(self):
        high, low = np.array([0.9, 0.5, 0.7, 0.8]), np.array([0.1, 0.3, -0.4])
        from scipy.stats import ttest_ind

        expected = ttest_ind(high, low, equal_var=False).confidence_interval()
        found = difference(high, low)
        assert found["shift"] == pytest.approx(high.mean() - low.mean())
        assert found["shift_ci"] == pytest.approx([expected.low, expected.high])

    def test_a_sad_injection_that_makes_answers_sadder_is_a_shift_towards_it(self):
        found = look([0.5, 0.6, 0.4], negative=[-0.5, -0.6, -0.4])
        assert found.shift()["shift"] == pytest.approx(1.0)
        assert found.headline.startswith("the model leaks on this stem: valence shift towards the injection +1.00 [+")

    def test_with_both_polarities_control_answers_do_not_count(self):
        found = look([9.0, -9.0], positive=[0.5, 0.3], negative=[0.1, -0.1])
        assert found.shift()["shift"] == pytest.approx(0.4)

    def test_an_interval_that_holds_zero_is_not_shown(self):
        assert look([0.5, -0.6], positive=[0.6, -0.5]).headline.startswith("not shown on this stem")

    def test_answers_against_the_injection_are_not_called_leakage(self):
        assert "against the injection" in look([0.5, 0.6, 0.55], positive=[-0.5, -0.6, -0.55]).headline

    @pytest.mark.parametrize(("control", "own"), [([0.2], [0.9]), ([0.2, 0.2], [0.9, 0.9])])
    def test_without_spread_there_is_no_interval_and_no_verdict(self, control, own):
        found = look(control, positive=own)
        assert found.shift()["shift_ci"] is None
        assert found.headline.startswith("not shown")

    def test_answers_about_the_injection_are_counted_and_left_out_where_asked(self):
        found = look([0.0, 0.1], positive=[1.0, 0.0, np.nan], about={(1, 0)})
        assert "1 of 2 answers are about the injection" in found.headline
        assert found.shift(topic_free=True)["shift"] == pytest.approx(-0.05)
        assert found.table().rows[1][4] == "1 of 2"

    def test_tilt_stands_from_control(self):
        rows = look([0.1, 0.2], positive=[0.3, 0.4]).table().rows
        assert [row[-1] for row in rows] == ["–", "-0.25"]


class TestDrawing:
    def test_bars_begin_in_the_middle_and_lines_fit(self):
        lines = look([0.5, -1.0, np.nan], positive=[0.0, 0.2]).to_text(width=80).splitlines()
        assert max(map(len, lines)) <= 80
        assert lines[3].startswith("  +0.50         │████    ")
        assert lines[4].startswith("  -1.00 ████████│        ")
        assert "nothing but the prompt" in lines[5]

    def test_lines_in_a_pipe_stay_whole(self):
        assert "and so on and so on \n" in look([0.5, 0.1], positive=[0.0, 0.2]).to_text().replace("on\n", "on \n")

    def test_texts_are_escaped_in_a_notebook(self):
        page = look([0.5, 0.1], positive=[0.0, 0.2])._repr_html_()
        assert "<b>lovely" not in page
        assert "&lt;b&gt;lovely" in page
        assert "<i>" not in page
        assert page.count("<svg") == 4

    def test_the_figure_has_a_point_for_each_answer(self, tmp_path):
        figure = look([0.5, 0.1], positive=[0.0, 0.2], about={(1, 0)}).plot(tmp_path / "look")
        assert sum(len(points.get_offsets()) for points in figure.axes[0].collections) == 4
        assert {file.suffix for file in tmp_path.iterdir()} == {".png", ".pdf", ".csv"}

    def test_repr_is_one_line(self):
        assert "\n" not in repr(look([0.5, 0.1], positive=[0.0, 0.2]))


class FakeEncoder:
    """A fake: a unit vector for each text, by its letters."""

    def __call__(self, texts):
        rows = np.array([[text.count(letter) + 0.01 for letter in "abcdefghij"] for text in texts])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class FakeEstimator:
    """A fake: awful and lovely decide, else the length of a text does."""

    name = "words"

    def __call__(self, texts):
        rows = np.full((len(texts), 3), 1 / 3)
        for row, text in zip(rows, texts, strict=True):
            glad = 0.05 if "awful" in text else 0.95 if "wonderful" in text else 0.2 + (len(text) % 7) / 10
            row[:] = [0.98 - glad, 0.02, glad]
        return rows


@pytest.fixture
def scorers(monkeypatch):
    monkeypatch.setattr("leakmech.studies.quick.run.load_encoder", lambda **_: FakeEncoder())
    monkeypatch.setattr("leakmech.studies.quick.run.load_estimator", lambda *_, **__: FakeEstimator())


@pytest.fixture
def tiny(make_tiny, chat_tokenizer):
    return leakmech.load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)


@pytest.mark.usefixtures("scorers")
class TestAsked:
    def ask(self, tiny, *words, **settings):
        settings = {"generations": 6, "decoding": {"max_new_tokens": 6}, "prompt_form": "plain"} | settings
        return leakmech.quick("The garden looks", *words, model=tiny, **settings)

    def test_every_prompt_is_answered_k_times(self, tiny):
        found = self.ask(tiny)
        assert [prompt.injection for prompt in found.prompts] == [None, *INJECTIONS]
        assert [prompt.polarity for prompt in found.prompts] == ["control", "positive", "negative"]
        assert found.to_frame().groupby("prompt").size().tolist() == [6, 6, 6]

    def test_what_is_injected_beside_it_does_not_change_an_answer(self, tiny):
        both, one = self.ask(tiny), self.ask(tiny, INJECTIONS[1])
        for injection in (None, INJECTIONS[1]):
            texts = [
                found.answers[found.answers["injection"].isna() if injection is None else
                              found.answers["injection"] == injection]["text"].tolist()
                for found in (both, one)
            ]  # fmt: skip
            assert texts[0] == texts[1]

    def test_tilt_is_the_covariance_of_valence_and_likelihood(self, tiny):
        found = self.ask(tiny, SAD)
        from leakmech.prompts.render import Prompting, Renderer

        renderer = Renderer(tiny.tokenizer, Prompting("plain"))
        own = found.answers[(found.answers["prompt"] == 0) & found.answers["valence"].notna()]
        values = []
        rendered = [prompt.rendered for prompt in _prompts(tiny, SAD)]
        for text in rendered:
            start = renderer.token_ids(text)
            log_p = []
            for answer in own["text"]:
                ids = tiny.tokenizer(answer, add_special_tokens=False)["input_ids"]
                with torch.no_grad():
                    logits = tiny.model(torch.tensor([[*start, *ids]])).logits[0, len(start) - 1 : -1].double()
                chosen = torch.log_softmax(logits, -1)[range(len(ids)), ids]
                log_p.append(float(chosen.mean()))
            values.append(float(np.cov(own["valence"], log_p)[0, 1]))
        assert [prompt.tilt for prompt in found.prompts] == pytest.approx(values, rel=1e-4)

    def test_an_intervention_changes_answers_and_tilt_stays_on_the_base_models(self, tiny):
        plain = self.ask(tiny, SAD)
        changed = self.ask(tiny, SAD, interventions=leakmech.ScaleHeads([(1, 0), "L1H1", (2, 0)], scales=4.0))
        assert plain.answers["text"].tolist() != changed.answers["text"].tolist()
        assert changed.prompts[0].tilt != plain.prompts[0].tilt
        assert changed.no_tilt is None

    def test_too_few_answers_have_no_tilt(self, tiny):
        found = self.ask(tiny, SAD, generations=2)
        assert found.prompts[1].tilt is None
        assert "fewer than 5 different completions" in found.table().notes[0]

    @pytest.mark.parametrize(
        ("words", "settings", "message"),
        [
            (("...",), {}, "inject.* must have words"),
            ((SAD,), {"generations": 0}, "generations must be"),
            ((SAD,), {"estimator": "vader,embedded"}, "takes one estimator"),
            ((SAD,), {"prompt_form": "plane"}, "did you mean 'plain'"),
            ((SAD,), {"generation": 3}, "unknown key 'generation'; did you mean 'generations'"),
            ((SAD,), {"intervention": "none.json"}, "none.json"),
        ],
    )
    def test_bad_input_is_one_line_before_work(self, tiny, words, settings, message):
        with pytest.raises(LeakmechError, match=message) as caught:
            leakmech.quick("The garden", *words, model=tiny, **settings)
        assert "\n" not in str(caught.value)

    def test_a_stem_has_words(self, tiny):
        with pytest.raises(ConfigError, match=r"stem.* must"):
            leakmech.quick(" ... ", SAD, model=tiny)


def _prompts(tiny, injection):
    from leakmech.datasets.samples import Sample
    from leakmech.prompts.render import Prompting, Renderer

    renderer = Renderer(tiny.tokenizer, Prompting("plain"))
    sample = Sample("s", "The garden looks", injection, injection, injection)
    return [renderer.prompt(sample, condition) for condition in ("control", "negative")]


def test_the_form_is_plain_for_embedded_models_unless_it_is_said():
    assert QuickConfig.parse({}).prompting.form == "plain"
    assert QuickConfig.parse({"prompt_form": "auto"}).prompting.form == "auto"
    assert QuickConfig.parse({"model": "some/model"}).prompting.form == "auto"


@pytest.mark.usefixtures("scorers")
def test_the_command_ends_with_the_headline(tmp_path, make_tiny, chat_tokenizer):
    make_tiny("llama-gqa").save_pretrained(tmp_path / "model")
    chat_tokenizer.save_pretrained(tmp_path / "model")
    words = ["quick", "The garden looks", "--inject", SAD, "--generations", "2", "--max-new-tokens", "4"]
    done = CliRunner().invoke(app, [*words, "--model", str(tmp_path / "model"), "--figure", str(tmp_path / "f")])
    assert done.exit_code == 0, done.output
    lines = done.stdout.rstrip().splitlines()
    assert lines[0] == "The garden looks"
    assert lines[-1].startswith(("the model leaks", "not shown", "answers go against"))
    assert (tmp_path / "f.png").exists()


@pytest.mark.slow
def test_a_look_at_the_embedded_model_takes_seconds(embedded_model):
    started = time.perf_counter()
    found = leakmech.quick("The garden next door looks", "Our flight was awful.", model=embedded_model)
    assert time.perf_counter() - started < 60  # the machine may be busy; twenty seconds as a command on two cores
    assert found.prompt_form == "plain"
    assert found.prompts[1].polarity == "negative"
    assert found.no_tilt is None
