"""Rewritten prompts: what counts as a rewrite, and what becomes of one that failed."""

import numpy as np
import pytest

from leakmech.core.errors import ConfigError
from leakmech.datasets.samples import Sample, load_dataset
from leakmech.generation.hf_engine import HFEngine
from leakmech.generation.rewriting import (
    judge_rewrite,
    request_tokens,
    rewrite_counts,
    rewrite_prompts,
    text_of_answer,
)
from leakmech.prompts.render import Prompting, Renderer
from leakmech.prompts.rewrites import PROMPT_REWRITES, find_rewrite
from leakmech.prompts.unrelated import without_unrelated
from leakmech.prompts.views import VIEWS, split_context

SAMPLE = Sample(id="s", stem="Her passion is", positive="Joy!", neutral="Fact.", negative="I lost my keys.")


@pytest.fixture
def renderer(chat_tokenizer):
    return Renderer(chat_tokenizer, Prompting(instruction="self-reminder"))


@pytest.fixture
def prompt(renderer):
    return renderer.prompt(SAMPLE, "negative")


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        ("Her passion is", "rewritten", "Her passion is"),
        ('Text: "Her passion is..."\nMore of it.', "rewritten", "Her passion is"),
        ("The last sentence of the text is: Text: Her passion is.", "rewritten", "Her passion is"),
        ("Some keys were lost. Her passion is", "rewritten", "Some keys were lost. Her passion is"),
        ("I lost my keys. Her passion is", "unchanged", "I lost my keys. Her passion is"),
        ("Her passion is painting.", "completed", "I lost my keys. Her passion is"),
        ("I lost my keys.", "lost-stem", "I lost my keys. Her passion is"),
        (" \n", "empty", "I lost my keys. Her passion is"),
    ],
)
def test_a_failed_rewrite_leaves_the_prompt_as_it_was(prompt, answer, status, body):
    found = judge_rewrite(prompt, text_of_answer(answer, body=prompt.body), answer=answer)
    assert (found.status, found.body, found.answer) == (status, body, answer)


def test_the_rules_and_the_oracle_leave_the_stem(renderer):
    prompts = [renderer.prompt(SAMPLE, c) for c in ("control", "positive", "neutral", "negative")]
    for name, bodies in {
        "last-sentence": {"Her passion is"},
        "control": {"Her passion is"},
        "neutral-context": {"Her passion is", "Here is a sentence. Her passion is"},
    }.items():
        (found,) = rewrite_prompts(
            prompts, find_rewrite(name), engine=HFEngine(None, None), renderer=renderer, batch_size=4
        )
        assert {rewritten.body for rewritten in found} == bodies
        assert found[0].status == "unchanged"
    assert {name: rewrite.told for name, rewrite in PROMPT_REWRITES.items()} == {
        "self": "layout", "self-examples": "layout", "last-sentence": "layout", "neutral-context": "layout",
        "drop-unrelated-text": "layout", "leave-one-out": "layout", "control": "boundary",
    }  # fmt: skip
    for view in VIEWS.values():  # what is told the layout at most gets a text, in which nothing is marked
        if view.name != "control":
            assert isinstance(view.make("One. Two"), str)


def test_the_last_sentence_of_every_prompt_of_the_data_set_is_its_stem(plain_tokenizer):
    renderer = Renderer(plain_tokenizer)
    for prompt in renderer.prompts(load_dataset("hexl")):
        assert split_context(prompt.body) == (prompt.injection or "", prompt.stem)


def test_the_model_rewrites_greedily_and_the_same_in_every_batch(make_tiny, chat_tokenizer, renderer):
    prompts = [renderer.prompt(sample, "negative") for sample in load_dataset("hexl").take(2)]
    rewrites = []
    for batch_size in (1, 2):
        parts = rewrite_prompts(
            prompts,
            find_rewrite("self"),
            engine=HFEngine(make_tiny("qwen2"), chat_tokenizer),
            renderer=renderer,
            batch_size=batch_size,
        )
        rewrites.append({found.prompt_id: found for part in parts for found in part})
    assert rewrites[0] == rewrites[1]
    assert len({found.answer for found in rewrites[0].values()}) > 1


def test_the_request_holds_the_body_and_not_the_instruction(prompt, renderer, chat_tokenizer):
    request = chat_tokenizer.decode(request_tokens(prompt, find_rewrite("self-examples"), renderer))
    assert "Text: I lost my keys. Her passion is\nRewritten text:<|im_end|>" in request
    assert "Remember" not in request


def test_rewrites_are_counted_by_condition(renderer):
    prompts = {p.id: p for p in (renderer.prompt(SAMPLE, c) for c in ("control", "positive", "neutral", "negative"))}
    answers = ["Her passion is", "Her passion is", "Fact.", "Her passion is nice"]
    rewritten = {p.id: judge_rewrite(p, answer) for p, answer in zip(prompts.values(), answers, strict=True)}
    counts = rewrite_counts(prompts, rewritten)
    assert counts["control"]["unchanged"] == 1
    assert counts["positive"] == {
        "n": 1, "rewritten": 1, "unchanged": 0, "lost_stem": 0, "completed": 0, "empty": 0, "only_stem": 1,
        "failed_share": 0.0,
    }  # fmt: skip
    assert counts["overall"]["failed_share"] == 0.5
    assert counts["overall"]["only_stem"] == 2


def test_an_unknown_rewrite_is_named():
    with pytest.raises(ConfigError, match="did you mean 'self-examples'"):
        find_rewrite("self-example")


# -- sentences that have nothing to do with the request ---------------------------------------------------------------


def encode(texts):
    """By hand: the angle of a text to "It ends" is 60 degrees if it speaks of rain, else 90."""
    rows = {"It ends": (1.0, 0.0)}
    return np.array([rows.get(text, (0.5, 0.75**0.5) if "rain" in text else (0.0, 1.0)) for text in texts])


@pytest.mark.parametrize(
    ("text", "threshold", "expected"),
    [
        ("I lost. A rain fell. It ends", 0.4, "A rain fell. It ends"),
        ("I lost. A rain fell. It ends", 0.6, "It ends"),
        ("I lost. A rain fell.  It ends", -0.1, "I lost. A rain fell.  It ends"),  # to the letter
        ("It ends", 0.9, "It ends"),
        ("", 0.9, ""),
        ("...", 0.9, "..."),
    ],
)
def test_sentences_below_the_threshold_are_dropped_and_the_last_one_never(text, threshold, expected):
    assert without_unrelated([text], threshold=threshold, encode=encode) == [expected]


def test_dropping_text_of_one_sentence_leaves_it_and_a_request_that_stands_first_is_never_lost(chat_tokenizer):
    renderer = Renderer(chat_tokenizer, Prompting(place="after"))
    sample = Sample(id="s", stem="It ends", positive="Joy!", neutral="A rain fell.", negative="I lost.")
    prompts = [renderer.prompt(sample, condition) for condition in ("control", "positive")]
    rewrite = find_rewrite("drop-unrelated-text:0.9")
    options = {"engine": HFEngine(None, None), "renderer": renderer, "batch_size": 4, "encode": encode}
    ((alone, first),) = rewrite_prompts(prompts, rewrite, **options)
    assert (alone.status, alone.body) == ("unchanged", "It ends")
    # The layout is not what the rule was told: it would drop the request, so the prompt is completed as it was.
    assert (first.status, first.body) == ("lost-stem", "It ends\nJoy!")


def test_a_threshold_is_part_of_the_name_and_of_what_a_rewrite_is():
    assert find_rewrite("drop-unrelated-text:0.30") == find_rewrite("drop-unrelated-text:0.3")
    assert find_rewrite("drop-unrelated-text:0.3").hash != find_rewrite("drop-unrelated-text").hash
    for name, message in {
        "drop-unrelated-text:2": "a number from -1 to 1",
        "drop-unrelated-text:much": "a number from -1 to 1",
        "drop-unrelated-text:nan": "a number from -1 to 1",
        "self:0.3": "self has no threshold",
    }.items():
        with pytest.raises(ConfigError, match=message):
            find_rewrite(name)
