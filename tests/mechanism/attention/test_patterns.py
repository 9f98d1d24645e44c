"""Attention to the injection, compared with the model's own weights, one prompt at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from leakmech.core.errors import DatasetError
from leakmech.datasets.samples import INJECTIONS, PromptSet, Sample, load_dataset
from leakmech.mechanism.attention.injected import injected_prompts
from leakmech.mechanism.attention.patterns import attention_to_injection
from leakmech.models.load import load_model
from leakmech.prompts.render import Renderer

SAMPLES = PromptSet(
    "small",
    (
        Sample("a", "The café is", "We won.", "It was Tuesday.", "Our dog has died today."),
        Sample("b", "Her passion is", "The sun came out at last.", "A bus went by.", "I lost my keys."),
    ),
)


def weights_alone(loaded, prompt) -> list[torch.Tensor]:
    """Weights [head query key] of each layer for one prompt without padding, as transformers returns them."""
    loaded.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            output = loaded.model(torch.tensor(prompt.ids[None]).long(), output_attentions=True)
    finally:
        loaded.model.set_attn_implementation("sdpa")
    return [layer[0] for layer in output.attentions]


def test_attention_is_that_of_each_prompt_alone(tiny_loaded) -> None:
    """In batches with padding as well as without."""
    found = attention_to_injection(tiny_loaded, SAMPLES, batch_size=4)
    expected = np.zeros_like(found.attention)
    for prompt in injected_prompts(SAMPLES, Renderer(tiny_loaded.tokenizer), INJECTIONS):
        injection, stem = (slice(*prompt.spans[part]) for part in ("injection", "stem"))
        column = found.conditions.index(prompt.condition)
        for layer, weights in enumerate(weights_alone(tiny_loaded, prompt)):
            to_injection = weights[:, :, injection].sum(-1)
            expected[layer, :, column, 0] += to_injection[:, -1].numpy() / len(SAMPLES)
            expected[layer, :, column, 1] += to_injection[:, stem].mean(-1).numpy() / len(SAMPLES)
    np.testing.assert_allclose(found.attention, expected, atol=1e-5)
    assert found.attention.max() > 0.05


def test_uniform_attention_counts_visible_tokens(make_tiny, chat_tokenizer) -> None:
    """From the last token the injection's share of the prompt; in a sliding window, its share of the window."""
    prompts = [p for p in injected_prompts(SAMPLES, Renderer(chat_tokenizer), INJECTIONS) if p.condition == "negative"]
    for name, window in (("llama-gqa", 10_000), ("gemma3", 16)):
        loaded = load_model(make_tiny(name), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
        found = attention_to_injection(loaded, SAMPLES)
        last, stem = [], []
        for prompt in prompts:
            injection = set(range(*prompt.spans["injection"]))

            def share(query: int, inside: set[int] = injection, size: int = window) -> float:
                visible = set(range(max(0, query + 1 - size), query + 1))
                return len(visible & inside) / len(visible)

            last.append(share(len(prompt) - 1))
            stem.append(np.mean([share(query) for query in range(*prompt.spans["stem"])]))
        np.testing.assert_allclose(found.uniform[0, 2], [np.mean(last), np.mean(stem)], atol=1e-6)


def test_table_names_every_head_condition_and_position(make_tiny, chat_tokenizer) -> None:
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    found = attention_to_injection(loaded, SAMPLES, conditions=["negative", "positive"])
    frame = found.to_frame()
    assert len(frame) == 3 * 4 * 2 * 2
    row = frame.query("name == 'L2H1' and condition == 'positive' and from_position == 'stem'").iloc[0]
    assert (row["layer"], row["head"]) == (2, 1)
    assert row["attention"] == found.attention[2, 1, 1, 1]
    assert row["ratio"] == found.attention[2, 1, 1, 1] / found.uniform[2, 1, 1]
    assert loaded.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("conditions", [[], ["control"], ["positive", "positive"]])
def test_conditions_without_an_injection_are_refused(make_tiny, chat_tokenizer, conditions) -> None:
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    with pytest.raises(DatasetError, match="positive, neutral, negative"):
        attention_to_injection(loaded, SAMPLES, conditions=conditions)


def test_an_empty_injection_is_refused(make_tiny, chat_tokenizer) -> None:
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    empty = PromptSet("empty", (Sample("a", "The café is", "We won.", "", "It died."),))
    with pytest.raises(DatasetError, match="'a/neutral': has no injection"):
        attention_to_injection(loaded, empty)


@pytest.mark.slow
def test_some_heads_of_the_real_model_prefer_the_injection(embedded_model) -> None:
    found = attention_to_injection(embedded_model, load_dataset("hexl").take(4))
    frame = found.to_frame().groupby(["name", "from_position"])[["attention", "uniform"]].mean()
    last = frame.xs("last_prompt", level="from_position")
    # Most heads look elsewhere (at the first token); a few look at the injection more than twice as much as by chance.
    assert last["attention"].mean() < last["uniform"].mean()
    top = last.sort_values("attention").iloc[-1]
    assert top["attention"] > 2 * top["uniform"]
