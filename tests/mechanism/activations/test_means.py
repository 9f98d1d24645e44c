"""Means of components by kind of position, and their file."""

from __future__ import annotations

import pytest
import torch
from mechanism_samples import SAMPLES

from leakmech.interventions.component_edits import AblateHeads, AblateNeurons
from leakmech.mechanism.activations.means import ComponentMeans, component_means
from leakmech.mechanism.behaviour import sample_continuations
from leakmech.models.components import Component
from leakmech.models.layout import layout_of
from leakmech.models.load import load_model
from leakmech.models.sites import recording
from leakmech.prompts.render import Prompting, Renderer

PLAIN = Prompting(form="plain")


@pytest.fixture(scope="module")
def loaded(make_tiny, chat_tokenizer):
    return load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def means(loaded):
    return component_means(loaded, SAMPLES, prompting=PLAIN, seed=3)


def test_prompt_tokens_come_from_prompts_and_generated_ones_from_answers(loaded, means):
    layout, renderer = layout_of(loaded.model), Renderer(loaded.tokenizer, PLAIN)
    answers = sample_continuations(loaded, SAMPLES, conditions=("control",), seed=3, prompting=PLAIN)
    seen = {"prompt": [], "generated": []}
    for sample in SAMPLES:
        prompt = renderer.prompt(sample, "control")
        ids, answer = renderer.token_ids(prompt.rendered), answers[prompt.id]
        with torch.no_grad(), recording(layout, sites=["z"], layers=[1], pick=lambda hidden: hidden) as found:
            loaded.model(torch.tensor([[*ids, *answer]]))
        seen["prompt"].append(found["z", 1][0, : len(ids)])
        seen["generated"].append(found["z", 1][0, len(ids) :])
    for name, parts in seen.items():
        rows = torch.cat(parts)
        assert means.n_tokens[name] == len(rows)
        torch.testing.assert_close(means.by_site["z", name][1], rows.mean(dim=0), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(means.by_site["z", "prompt"], means.by_site["z", "generated"], atol=1e-3)


def test_means_of_components_are_values_of_edits_and_survive_their_file(loaded, means, tmp_path):
    layout = layout_of(loaded.model)
    means.save(tmp_path)
    again = ComponentMeans.load(tmp_path)
    heads = [Component(1, "head", 2), Component(0, "head", 0)]
    values = again.of(heads, layout)
    assert values["generated"].shape == (2, layout.d_head)
    first = 2 * layout.d_head
    torch.testing.assert_close(values["prompt"][0], means.by_site["z", "prompt"][1, first : first + layout.d_head])
    AblateHeads(heads, method="mean", values=values).check_fit(layout)
    neurons = [Component(2, "neuron", 5)]
    narrow = {name: own[:, 0] for name, own in again.of(neurons, layout).items()}
    assert narrow["prompt"][0] == means.by_site["mlp_post", "prompt"][2, 5]
    AblateNeurons(neurons, method="mean", values=narrow).check_fit(layout)
