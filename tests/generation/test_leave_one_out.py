"""The teacher leaves each sentence out in turn: gains by hand, what is dropped, and the model's own likelihoods."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from leakmech.core.errors import ConfigError
from leakmech.datasets.samples import Sample
from leakmech.generation import leave_one_out
from leakmech.generation.leave_one_out import sentence_gains, without_idle
from leakmech.generation.likelihood import Likelihoods
from leakmech.generation.variants import ModelVariant
from leakmech.models.load import load_model
from leakmech.prompts.render import Prompting, Renderer
from leakmech.prompts.rewrites import find_rewrite
from leakmech.studies.mitigation.prompting import leave_one_out as mitigation

BODY = "The soup was cold. I lost my keys. The waiter felt"
KNOWN = {  # log p of the last sentence, of 15 tokens, after what stands before it
    "The soup was cold. I lost my keys.": -30.0,
    "I lost my keys.": -42.0,
    "The soup was cold.": -31.5,
}


@pytest.fixture
def variant(make_tiny, plain_tokenizer) -> ModelVariant:
    return ModelVariant(load_model(make_tiny("llama-gqa"), tokenizer=plain_tokenizer))


@pytest.fixture(params=["plain", "chat"])
def renderer(request, plain_tokenizer, chat_tokenizer) -> Renderer:
    return Renderer(chat_tokenizer if request.param == "chat" else plain_tokenizer, Prompting(form=request.param))


def prompt(renderer: Renderer, body: str = BODY):
    return renderer.with_body(renderer.prompt(Sample("a", "The waiter felt", "x.", "y.", "z."), "positive"), body)


@pytest.fixture
def known(monkeypatch, renderer):
    """Likelihoods from a table, by what the model reads before the request."""

    def look_up(_, continuations, **__) -> Likelihoods:
        values = []
        for one in continuations:
            assert renderer.tokenizer.decode(one.tokens).strip() == "The waiter felt"
            before = renderer.tokenizer.decode(one.prompt).rstrip()
            values.append(next(value for text, value in KNOWN.items() if before.endswith(f": {text}")))
        n = np.full(len(values), 15)
        return Likelihoods(("",) * len(values), ("",) * len(values), n, np.array(values))

    monkeypatch.setattr(leave_one_out, "log_likelihoods", look_up)


@pytest.mark.usefixtures("known")
def test_a_gain_is_what_the_request_loses_a_token_without_the_sentence(variant, renderer) -> None:
    (gains,) = sentence_gains([prompt(renderer)], variant=variant, renderer=renderer)
    assert gains == pytest.approx((12 / 15, 1.5 / 15))


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("threshold", "left"),
    [(0.05, BODY), (0.2, "The soup was cold. The waiter felt"), (0.9, "The waiter felt")],
)
def test_sentences_of_less_gain_than_the_threshold_go(variant, renderer, threshold, left) -> None:
    assert without_idle([prompt(renderer)], threshold=threshold, variant=variant, renderer=renderer) == [left]


def test_a_body_of_one_sentence_and_an_empty_one_stay(variant, renderer) -> None:
    bodies = ["The waiter felt", ""]
    prompts = [prompt(renderer, body) for body in bodies]
    assert without_idle(prompts, threshold=9.0, variant=variant, renderer=renderer) == bodies


def test_likelihoods_are_those_of_the_request_in_its_prompt(variant, renderer) -> None:
    model = variant.loaded.model

    def mean(body: str) -> float:
        rendered = prompt(renderer, body).rendered
        end = rendered.rfind("The waiter felt") + len("The waiter felt")  # one token a byte
        ids = torch.tensor([renderer.token_ids(rendered[:end])])
        with torch.no_grad():
            log_p = model(ids).logits[0].double().log_softmax(-1)
        n = len("The waiter felt")
        return float(log_p[-n - 1 : -1].gather(1, ids[0, -n:, None]).mean())

    (gains,) = sentence_gains([prompt(renderer)], variant=variant, renderer=renderer)
    without = [mean("I lost my keys. The waiter felt"), mean("The soup was cold. The waiter felt")]
    assert gains == pytest.approx([mean(BODY) - other for other in without], abs=1e-4)


def test_it_is_told_the_layout_and_its_threshold_decides_its_hash() -> None:
    found = mitigation(0.2)
    assert (found.told, found.kind, found.settings) == ("layout", "rewrite", {"prompt_rewrite": "leave-one-out:0.2"})
    assert find_rewrite("leave-one-out:0.2").hash != find_rewrite("leave-one-out:0.3").hash
    with pytest.raises(ConfigError, match="a number of nats a token"):
        find_rewrite("leave-one-out:much")
