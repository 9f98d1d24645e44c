"""Activations of labelled texts: equal to a plain forward pass of each text alone, whatever shares its batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import leakmech
from leakmech.core.errors import ActivationError, ConfigError
from leakmech.mechanism.activations.labelled import LabelledText, read_labelled
from leakmech.models.layout import layout_of
from leakmech.models.sites import recording


@pytest.fixture(scope="module", params=["llama-gqa", "gpt2", "gemma3"])
def model(request, make_tiny, chat_tokenizer):
    return leakmech.load_model(make_tiny(request.param), tokenizer=chat_tokenizer)


TEXTS = [
    LabelledText("long", tuple(range(1, 40)), ((3, 9),)),
    LabelledText.at_last("last", range(5, 17)),
    LabelledText("all", (9, 8, 7), ((0, 3),)),
    LabelledText("tail", tuple(range(60, 82)), ((20, 22),)),
]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_values_are_those_of_each_text_alone(model, batch_size):
    sites = ["attn_out", "resid_post", "z", "mlp_post"]
    found = read_labelled(model, TEXTS, sites=sites, layers=[0, 2], batch_size=batch_size)
    for place, text in enumerate(TEXTS):
        layout = layout_of(model.model)
        with recording(layout, sites=sites, layers=[0, 2], pick=lambda x: x) as alone, torch.inference_mode():
            model.model(input_ids=torch.tensor([text.ids]))
        for site in sites:
            for row, layer in enumerate((0, 2)):
                ((first, end),) = text.spans
                expected = alone[site, layer][0, first:end].mean(dim=0).numpy()
                np.testing.assert_allclose(found[site][place, 0, row], expected, atol=2e-4, rtol=1e-3)


def test_several_spans_of_a_text_are_those_of_texts_with_one(model):
    spans = ((5, 6), (5, 20), (0, 39))
    ids = tuple(range(1, 40))
    whole = read_labelled(model, [LabelledText("all", ids, spans), LabelledText("again", ids, spans)])["resid_post"]
    each = read_labelled(model, [LabelledText(str(span), ids, (span,)) for span in spans])["resid_post"]
    assert whole.shape == (2, 3, 3, each.shape[-1])
    np.testing.assert_allclose(whole[0], each[:, 0], atol=1e-4, rtol=1e-3)


def test_what_cannot_be_read_is_refused(model):
    with pytest.raises(ActivationError, match=r"text 'x': tokens 2 to 2 are not among its 3"):
        LabelledText("x", (1, 2, 3), ((2, 2),))
    with pytest.raises(ActivationError, match="tokens 1 to 4 are not among its 3"):
        LabelledText("x", (1, 2, 3), ((0, 1), (1, 4)))
    with pytest.raises(ActivationError, match=r"text 'two': has 2 spans, and others have 1"):
        read_labelled(model, [*TEXTS, LabelledText("two", (1, 2, 3), ((0, 1), (1, 2)))])
    with pytest.raises(ActivationError, match="no text to read"):
        read_labelled(model, [])
    with pytest.raises(ConfigError, match="unknown site"):
        read_labelled(model, TEXTS, sites=["resid_pots"])
