"""Heads and neurons: their scores are the drop of the projection when they are zeroed; circuits and modulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

import leakmech
from leakmech.core.errors import DatasetError, ModelError, UsageError
from leakmech.datasets.emotions import EMOTIONS
from leakmech.datasets.sev import Scenarios, load_scenarios
from leakmech.interventions.hooks import apply
from leakmech.interventions.types import AblateHeads, AblateNeurons
from leakmech.mechanism.activations.labelled import LabelledText, read_labelled
from leakmech.models.components import Component
from leakmech.models.layout import layout_of
from leakmech.studies.emotion_circuits.components import circuit, head_scores, jaccard, modulation, neuron_scores
from leakmech.studies.emotion_circuits.directions import changes, commanded_directions
from leakmech.studies.emotion_circuits.elicitation import Reply, ask
from leakmech.studies.emotion_circuits.reading import read_groups


@pytest.fixture(scope="module", params=["llama-gqa", "gpt2"])
def model(request, make_tiny, chat_tokenizer):
    return leakmech.load_model(make_tiny(request.param), tokenizer=chat_tokenizer)


@pytest.fixture(scope="module")
def asked(model):
    return ask(model, Scenarios("two", load_scenarios("sev").scenarios[:2]))


@pytest.fixture(scope="module")
def reading(model, asked):
    return read_groups(model, asked)["last"]


def test_groups_are_read_at_the_last_token_in_the_order_of_the_emotions(model, asked, reading):
    assert reading.events == tuple(dict.fromkeys(own.event for own in asked))
    assert reading.themes == ("work",) * 6
    one = next(own for own in asked if own.event == reading.events[2] and own.emotion == "surprise")
    alone = read_labelled(model, [LabelledText.at_last("x", one.ids)], sites=["resid_mid", "z"])
    np.testing.assert_allclose(
        reading.of("resid_mid", 1)[2, EMOTIONS.index("surprise")], alone["resid_mid"][0, 0, 1], atol=1e-4
    )
    every = [LabelledText.at_last(own.id, own.ids) for own in asked if own.emotion == "fear"]
    mean = read_labelled(model, every, sites=["z"])["z"][:, 0].mean(axis=0)
    np.testing.assert_allclose(reading.means["z"][EMOTIONS.index("fear")], mean, atol=1e-4)
    np.testing.assert_allclose(reading.changes["z"].sum(axis=0), 0, atol=1e-6)


def test_scores_are_what_the_projection_falls_by_when_the_unit_is_zeroed(model, asked, reading):
    layout, layer, emotion = layout_of(model.model), 1, EMOTIONS.index("sadness")
    after = {site: [commanded_directions(reading.of(site, n)) for n in range(3)] for site in reading.streams}
    heads = head_scores(layout, reading.means["z"], after["resid_mid"])
    neurons = neuron_scores(layout, reading.means["mlp_post"], after["resid_post"])
    assert heads.shape == (6, 3, 4)
    assert neurons.shape == (6, 3, layout.d_mlp)
    texts = [LabelledText.at_last(own.id, own.ids) for own in asked if own.emotion == "sadness"]
    for edit, site, scores in (
        (AblateHeads([f"L{layer}H2"], method="zero"), "resid_mid", heads[emotion, layer, 2]),
        (AblateNeurons([f"L{layer}N5"], method="zero"), "resid_post", neurons[emotion, layer, 5]),
    ):
        before = read_labelled(model, texts, sites=[site], layers=[layer])[site].mean(axis=0)[0, 0]
        with apply(model.model, [edit]):
            now = read_labelled(model, texts, sites=[site], layers=[layer])[site].mean(axis=0)[0, 0]
        assert (before - now) @ after[site][layer][emotion] == pytest.approx(scores, abs=1e-4)


def test_replies_are_read_in_the_same_pass_and_short_ones_leave_their_event_out(model, asked, reading):
    tokens = {own.id: tuple(range(40, 43 + place % 3)) for place, own in enumerate(asked)}
    tokens[asked[0].id] = (40, 41)
    replies = [Reply(own.id, own.event, own.theme, own.valence, own.emotion, "", tokens[own.id]) for own in asked]
    found = read_groups(model, asked, replies=replies, late=2, streams=("resid_post",))
    np.testing.assert_allclose(found["last"].streams["resid_post"], reading.streams["resid_post"], atol=1e-4)
    assert found["reply"].events == reading.events
    assert found["late"].events == reading.events[1:]
    one = asked[-1]
    n, whole = len(one.ids), (*one.ids, *tokens[one.id])
    alone = read_labelled(model, [LabelledText("x", whole, ((n, len(whole)), (n + 2, len(whole))))])["resid_post"][0]
    for span, name in enumerate(("reply", "late")):
        np.testing.assert_allclose(found[name].streams["resid_post"][-1, -1], alone[span], atol=1e-4)
    assert "late" not in read_groups(model, asked, replies=replies, late=9)


def test_scores_under_an_adapter_are_those_of_the_merged_model(make_tiny):
    def layout(merged):
        adapted = get_peft_model(make_tiny("llama-gqa"), LoraConfig(target_modules=["o_proj", "down_proj"]))
        generator = torch.Generator().manual_seed(1)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        return layout_of(adapted.merge_and_unload() if merged else adapted)

    own, merged, base = layout(False), layout(True), layout_of(make_tiny("llama-gqa"))
    generator = np.random.default_rng(0)
    vectors = list(generator.standard_normal((3, 6, own.d_model)))
    for scores, width in ((head_scores, own.n_heads * own.d_head), (neuron_scores, own.d_mlp)):
        means = generator.standard_normal((6, 3, width))
        found = scores(own, means, vectors)
        np.testing.assert_allclose(found, scores(merged, means, vectors), atol=1e-4)
        assert np.abs(found - scores(base, means, vectors)).max() > 0.1


def test_a_circuit_has_the_first_units_of_each_layer():
    heads = np.array([[1, 3, 2], [0, -1, 5]])
    neurons = np.array([[9, 8, 7, 6], [1, 2, 3, 4]])
    found = circuit(heads, neurons, head_budget=[2, 1], neuron_budget=[0, 2])
    assert list(map(str, found)) == ["L0H1", "L0H2", "L1H2", "L1N2", "L1N3"]
    other = circuit(-heads, neurons, head_budget=[0, 1], neuron_budget=[0, 2])
    assert jaccard({"anger": found, "fear": other}) == {("anger", "fear"): 2 / 6}


def test_modulation_adds_to_the_units_what_the_command_adds(model, asked, reading):
    layout, place = layout_of(model.model), EMOTIONS.index("fear")
    units = [Component(0, "head", 3), Component(2, "neuron", 7)]
    own = {site: values[place] for site, values in reading.changes.items()}
    edit = modulation(units, own, layout, scale=2.0, positions="last_prompt")
    text = [LabelledText.at_last("x", asked[0].ids)]
    before = read_labelled(model, text, sites=["z", "mlp_post"])
    assert (edit.scale, edit.positions) == (2.0, "last_prompt")
    z = own["z"].reshape(3, layout.n_heads, layout.d_head)
    torch.testing.assert_close(edit.values["heads"][0], torch.from_numpy(z[0, 3]).float())
    assert float(edit.values["neurons"][0]) == pytest.approx(own["mlp_post"][2, 7], rel=1e-5)
    everywhere = modulation(units, own, layout, scale=2.0, positions="all")
    with apply(model.model, [everywhere]):
        now = read_labelled(model, text, sites=["z", "mlp_post"])
    width = slice(3 * layout.d_head, 4 * layout.d_head)
    np.testing.assert_allclose((now["z"] - before["z"])[0, 0, 0, width], 2 * z[0, 3], atol=1e-4)
    with pytest.raises(UsageError, match="the circuit has no units"):
        modulation([], own, layout)


def test_events_that_lack_a_command_and_models_that_normalise_are_refused(model, asked, reading, make_tiny):
    with pytest.raises(DatasetError, match=r"event 'sev-work-01/positive': there is no prompt that commands fear"):
        read_groups(model, [own for own in asked if own.id != "sev-work-01/positive/fear"])
    vectors = [commanded_directions(reading.of("resid_post", n)) for n in range(3)]
    with pytest.raises(ModelError, match="normalises what a sublayer writes"):
        neuron_scores(layout_of(make_tiny("gemma3")), reading.means["mlp_post"], vectors)
    assert changes(reading.of("resid_post", 0)).shape[:2] == (6, 6)
